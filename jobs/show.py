"""What the commands print: tables for people, on stdout."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cxr_core.data.findings import NO_FINDING
from cxr_core.report.spell import duration, percent
from cxr_core.runs.accounting import AccountsComparison
from cxr_core.runs.causes import cause_named
from cxr_core.runs.door import BadFileError, BadFiles
from cxr_core.runs.gc import Garbage
from cxr_core.runs.ledger import AttemptRecord, Ledger, Spent
from cxr_core.runs.resumes import FOLDER, AutoResume
from cxr_core.runs.run import Run
from cxr_core.runs.status import StageStatus
from cxr_core.runs.unstarted import Unstarted, grouped, in_words, unstarted
from cxr_core.shown import one_line, printable, say, say_line
from cxr_core.training.overfit import RULE, overfit_of

if TYPE_CHECKING:
    from cxr_core.evaluation.interval import Interval
    from cxr_core.evaluation.readers.score import ReaderScores  # takes a second, and most commands show nothing of it


def show_results(results: Sequence[Any]) -> None:
    """One line a stage: how many shards were made now and how long that took; "done" where nothing was left.

    Below, for a stage that met problems: how many of each kind, what left something out first.
    """
    if not any(result.num_made for result in results):
        say(f"done: all {sum(result.num_shards for result in results)} shards of {len(results)} stages were there")
        return
    rows = [
        (r.name, r.kind, str(r.num_shards), str(r.num_made) if r.num_made else "done before", f"{r.seconds:.1f} s")
        for r in results
    ]
    total = sum(result.seconds for result in results)
    _table(["stage", "kind", "shards", "made now", "time"], [*rows, ("all", "", "", "", f"{total:.1f} s")], right=2)
    for result in results:
        if result.problems:
            kinds = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in result.problems.items())
            say(f"{result.name}: {kinds}; all are named in {result.name}/problems.csv")


def show_estimates(config: Any, estimates: Mapping[str, Any]) -> None:
    """The plan: items, shards, files, bytes per stage, and notes below."""
    kinds = {stage.name: stage.kind for stage in config.stages}
    rows = [
        (name, kinds[name], f"{e.num_items:,}", f"{e.num_shards:,}", f"{e.num_files:,}", human_bytes(e.num_bytes))
        for name, e in estimates.items()
    ]
    files = sum(e.num_files for e in estimates.values())
    size = human_bytes(sum(e.num_bytes for e in estimates.values()))
    _table(
        ["stage", "kind", "items", "shards", "files", "bytes"],
        [*rows, ("all", "", "", "", f"{files:,}", size)],
        right=2,
    )
    for name, estimate in estimates.items():
        for note in estimate.notes:
            say(f"{name}: {note}")


def show_jobs(preview: Any) -> None:
    """The plan on a cluster: a row a stage, which job waits for which, and every script."""
    from slurm.packs import table

    rows = table(preview.jobs, preview.works, preview.profile)
    names = ("hours", "gpu_hours", "files", "bytes", "cost")
    total = {name: sum(row[name] for row in rows) for name in names}
    columns = ["stage", "shards", "tasks", "GPUs", "hours", "GPU h", "files", "bytes", "cost"]
    lines = [(row["stage"], f"{row['shards']:,}", f"{row['tasks']:,}", str(row["gpus"]), *_sizes(row)) for row in rows]
    _table(columns, [*lines, ("all", "", "", "", *_sizes(total))], right=1)
    guessed = [row["stage"] for row in rows if not row["measured"] and row["tasks"]]
    if guessed:
        say(f"hours are guessed from seconds_per_item of the profile, not measured, for: {', '.join(guessed)}")
    for line in (_limits(preview), *preview.notes, *filter(None, [preview.image])):
        say(line)
    for number, (job, text) in enumerate(zip(preview.jobs, preview.scripts, strict=True), 1):
        waits = ", ".join(f"JOB{each + 1}" if isinstance(each, int) else each for each in job.after)
        what = f"{job.work.name}: {' + '.join(job.does)}, {job.num_tasks} tasks"
        say(f"\n=== JOB{number} {what}" + (f", after {waits}" if waits else ""))
        say(text.rstrip())


def _limits(preview: Any) -> str:
    """The time limits that the jobs ask for, in words: what a profile says is easily read as another thing."""
    from slurm.grammar import time_in_words

    found: dict[str, list[str]] = {}
    for job in preview.jobs:
        names = found.setdefault(time_in_words(job.resources(preview.profile).time), [])
        names += [job.kind] if job.kind not in names else []
    if not found:
        return "time limits: none, since no job is left to send"
    return "time limits: " + ", ".join(f"{limit} ({', '.join(kinds)})" for limit, kinds in found.items())


def _sizes(row: Mapping[str, Any]) -> tuple[str, ...]:
    hours = f"{row['hours']:.1f}", f"{row['gpu_hours']:.1f}"
    return *hours, f"{row['files']:,}", human_bytes(row["bytes"]), f"{row['cost']:,.2f}"


def show_sent(sent: Any) -> None:
    """What was submitted, and what was in the queue before."""
    for note in sent.notes:
        say(note)
    if sent.live:
        say(f"in the queue already: {', '.join(sent.live)}")
    rows = [(job.work.name, " + ".join(job.does), str(job.num_tasks), job_id) for job, job_id in sent.jobs]
    if rows:
        _table(["stage", "does", "tasks", "job"], rows, right=2)
    else:
        say("nothing to submit")


def show_canaries(canaries: Iterable[Any]) -> None:
    """What was guessed and what was measured."""
    for canary in canaries:
        measured = f"{canary.what} took {canary.measured:.2f} s{f' on {canary.node}' if canary.node else ''}"
        say(f"canary of {canary.stage}: {measured}; guessed were {canary.guess:.2f} s")


def show_status(stages: Sequence[StageStatus], price: float | None = None, *, clear: bool = False) -> None:
    """Per stage: counts of shards, rate and hours; below, what wants attention, and what the run has cost.

    `clear` empties a terminal first.
    """
    if clear:
        Console().clear()
    rows = [_status_row(stage) for stage in stages]
    # Most columns are empty most of the time, and a terminal is narrow.
    shown = [i for i in range(len(_COLUMNS)) if i < _ALWAYS or any(row[i] for row in rows)]
    _table([_COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows], right=2)
    for stage in stages:
        for line in _attention(stage):
            say_line(f"{stage.name}: {line}")
        for lines in _unstarted(stage.unstarted):
            say(f"{stage.name}: {lines}")
    ledger = Ledger([attempt for stage in stages for attempt in stage.attempts])
    if ledger.gpu_hours.total:
        say(_spent(ledger.gpu_hours, price))


_SHARDS = ("running", "pending", "failed", "lost", "parked")
_COLUMNS = ("stage", "kind", "shards", "state", *_SHARDS, "rate", "left", "GPU-hours")
_ALWAYS = 4


def _status_row(stage: StageStatus) -> tuple[str, ...]:
    if stage.planned is None:
        return (stage.name, stage.kind, "", stage.state, *[""] * 8)
    counts = (len(stage.running), stage.pending, len(stage.failed), len(stage.lost), len(stage.parked))
    gpu_hours = stage.ledger.gpu_hours.total
    return (
        stage.name,
        stage.kind,
        f"{stage.done}/{stage.planned}",
        stage.state,
        *(f"{count:,}" if count else "" for count in counts),
        f"{stage.rate:,.0f}/h" if stage.rate else "",
        duration(stage.eta) if stage.eta else "",
        f"{gpu_hours:,.2f}" if gpu_hours else "",
    )


_MOST_NAMED = 5


def _attention(stage: StageStatus) -> Iterator[str]:
    """What it is at, and what a person should look at: silent and slow attempts, lost, failed and parked shards."""
    if stage.doing:
        yield stage.doing
    for attempt in stage.silent[:_MOST_NAMED]:
        yield f"{_named(attempt)} is silent for {duration(max(time.time() - attempt.ended, 0))}{_in_shard(attempt)}"
    for attempt in stage.slow[:_MOST_NAMED]:
        yield f"{_named(attempt)} is slow: {duration(attempt.under_way)}{_in_shard(attempt)}"
    for attempt in (ended := stage.cut_short[:_MOST_NAMED]):
        yield f"{_named(attempt)} {_ended(attempt)}: {attempt.cause}{_in_shard(attempt)}"
    for cause in dict.fromkeys(attempt.cause for attempt in ended):
        yield f"{cause}: {cause_named(cause).next_step}"
    yield from show_bad(stage.bad_files)
    words = {"parked": stage.parked, "failed": stage.failed, "lost with a killed process": stage.lost}
    for word, shards in words.items():
        if shards:
            names = ", ".join(sorted(shards)[:_MOST_NAMED]) + (" ..." if len(shards) > _MOST_NAMED else "")
            yield f"{word}: {names}"


def show_bad(files: Sequence[BadFileError]) -> Iterator[str]:
    """Files that are not what they must be; what they would tell is missing."""
    for error in files[:_MOST_NAMED]:
        yield f"{error.where}: {error.what}"
    if files:
        more = f"{len(files)} such files; " if len(files) > _MOST_NAMED else ""
        yield f"{more}the rest is as shown; `cxr verify RUN --repair` sets such files aside"


def _unstarted(tasks: Sequence[Unstarted]) -> Iterator[str]:
    """Tasks that ended before they had an attempt, those alike together, with the end of a log."""
    for group in grouped(tasks)[:_MOST_NAMED]:
        yield "\n    ".join(map(one_line, [in_words(group), *group[0].last_lines]))


def show_overfit(run: Run) -> None:
    """Which diffusion models were trained for too long."""
    for stage in run.config["stages"]:
        bad = BadFiles()
        if stage.get("model") == "diffusion" and (found := overfit_of(run.stage(stage["name"]).path, bad)):
            say(
                f"{stage['name']}: overfitting: the loss on held-out patients is {RULE}, which it had at step "
                f"{found.best_step:,}; now it is {percent(found.rise, 1)} above"
            )
        for line in show_bad(bad):
            say_line(f"{stage['name']}: {line}")


def show_resumes(run: Run) -> None:
    """How often the run resumed itself, where it may."""
    bad = BadFiles()
    resumes = bad.read(lambda: AutoResume.read(run.root), None)
    if resumes is not None:
        outcome = f"; {resumes.outcome}" if resumes.outcome else ""
        say_line(f"auto-resume: {len(resumes.resumed)} of {resumes.most} times{outcome}")
        for line in _unstarted(bad.read(lambda: unstarted(run.stage(FOLDER), ()), [])):
            say(f"auto-resume: {line}")
    for line in show_bad(bad):
        say_line(f"auto-resume: {line}")


def show_accounts(found: AccountsComparison) -> None:
    """The scheduler's accounts beside the attempts; nothing where there are no accounts."""
    if found.num_starts:
        hours = f"{found.hours_by_scheduler:,.3f} hours by the scheduler, {found.hours_by_attempts:,.3f} by attempts"
        say(f"accounts: {found.num_starts} starts of tasks took {hours}")
    for account in found.without_attempt[:_MOST_NAMED]:
        ran = f"ran {account.seconds:.0f} s on {account.node}"
        say_line(f"accounts: job {account.job} {ran} and left no attempt ({account.state})")


def _ended(attempt: AttemptRecord) -> str:
    if attempt.outcome in ("failed", "lost"):
        return {"failed": "failed", "lost": "was lost"}[attempt.outcome]
    return "was killed" if cause_named(attempt.cause).blames_the_work else "was ended by the scheduler"


def _named(attempt: AttemptRecord) -> str:
    return f"attempt {attempt.id} on {attempt.place}"


def _in_shard(attempt: AttemptRecord) -> str:
    return f" in shard {attempt.shard}" if attempt.shard else ""


def _spent(spent: Spent, price: float | None) -> str:
    shares = {"useful": spent.useful + spent.under_way, "duplicated": spent.duplicated, "failed": spent.failed}
    words = ", ".join(f"{percent(value, spent.total)} {name}" for name, value in {**shares, "idle": spent.idle}.items())
    cost = f", {price * spent.total:,.2f} at {price:g} an hour" if price is not None else ""
    return f"{spent.total:,.2f} GPU-hours{cost}: {words}"


def show_summary(dataset: Any) -> None:
    """Images and patients per split, view and finding."""
    rows, info = dataset.rows, dataset.info
    splits = sorted(rows["split"].unique())
    say(f"{dataset.folder}: {info.num_images:,} images of {info.size} px in {len(info.shards)} shards")
    say(f"digest {info.digest}")

    def line(name: str, mask: Any) -> tuple[str, ...]:
        return (
            name,
            *(f"{int((mask & (rows['split'] == split)).sum()):,}" for split in splits),
            f"{int(mask.sum()):,}",
        )

    lines = [line("images", rows["image_id"].notna())]
    patients = [rows.loc[rows["split"] == split, "patient_id"].nunique() for split in splits]
    lines.append(("patients", *(f"{n:,}" for n in patients), f"{rows['patient_id'].nunique():,}"))
    lines += [line(f"view {view or 'unknown'}", rows["view"] == view) for view in sorted(rows["view"].unique())]
    has = dataset.label_matrix(rows) == 1
    lines += [line(NO_FINDING, ~has.any(axis=1))]
    lines += [line(name, has[:, i]) for i, name in enumerate(info.findings)]
    _table(["", *splits, "all"], lines, right=1)


def show_garbage(found: Sequence[Garbage]) -> None:
    """What may be removed from a run, a line each: paths are long and must not be folded."""
    for each in found:
        say_line(f"{each.path}: {each.what}, {human_bytes(each.bytes)}")


def show_images(images: Iterable[Any], locks: Mapping[str, Any]) -> None:
    """A row an image: its sha256, bytes, when it was last used, and the reference that it was pulled by."""
    rows = [
        (
            image.sha256[:12],
            human_bytes(image.bytes),
            time.strftime("%Y-%m-%d", time.localtime(image.path.stat().st_mtime)),
            locks[image.sha256].reference if image.sha256 in locks else "built here",
        )
        for image in images
    ]
    _table(["image", "bytes", "last used", "from"], rows, right=4)


def show_findings(findings: Iterable[tuple[str, Any]]) -> bool:
    """A line a finding as soon as it is known, its hint below it, and a count. Returns whether nothing failed."""
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for name, finding in findings:
        counts[finding.level] += 1
        say(f"{finding.level:<5} {name:<13} {finding.fact}")
        if finding.fix and finding.level != "ok":
            say(f"{'':<19} -> {finding.fix}")
    say(", ".join(f"{number} {level}" for level, number in counts.items()))
    return not counts["fail"]


def show_readers(found: "ReaderScores") -> None:
    """A row a reader; how far they agree; which errors they went on."""
    rows = [
        (one.reader, str(one.num_answered), *(_share(value) for value in (one.accuracy, one.found, one.spared)))
        for one in found.readers
    ]
    _table(["reader", "answered", "accuracy", "synthetic found", "real spared"], rows, right=1)
    mean = _share(found.mean_accuracy)
    say(f"all {len(rows)}: mean accuracy {mean}, over images; 0.50 is guessing. In brackets: 95 %")
    for pair in found.pairs:
        say(f"Cohen's kappa, {' and '.join(pair.readers)}: {_kappa(pair.kappa, pair.num_images)}")
    if len(rows) > 1:
        say(f"Fleiss' kappa, all: {_kappa(found.fleiss_kappa, found.num_all_answered)}")
    named = [(one.error, str(one.synthetic), str(one.real)) for one in found.errors if one.synthetic or one.real]
    if named:
        _table(["error named", "on synthetic", "on real"], named, right=1)


def _share(value: "Interval | None") -> str:
    return f"{value.value:.2f} ({value.low:.2f}-{value.high:.2f})" if value else "n = 0"


def _kappa(value: float | None, num: int) -> str:
    reason = "chance alone agrees" if num else "n = 0"
    return f"not computed: {reason} ({num} images)" if value is None else f"{value:.2f} ({num} images)"


def human_bytes(number: float) -> str:
    """Bytes in decimal units, as disks and quotas count them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} PB"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: int) -> None:
    """A table whose columns from number `right` on are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(printable(column), justify="right" if i >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(table)
