"""Do synthetic images show what they were asked for: the judge's trial, then what it says where it passed."""

from collections.abc import Iterator, Sequence

from cxr_core.evaluation.metrics import FaithfulnessResult, Interval, JudgedFinding, Metrics, PromptContrast, Trial
from cxr_core.report.before_gate import before_gate
from cxr_core.report.blocks import Block, Chart, Charts, Column, Details, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, percent, plain, several
from cxr_core.report.verdicts import prompt_words


def judge_section(run: RunView) -> Section:
    """How well the judge tells each finding on real patients: it is asked only where it passes."""
    return Section("judge", "The judge", each_evaluation(run, _judge))


def faithfulness_section(run: RunView) -> Section:
    """What the judge says of synthetic images."""
    return Section("faithfulness", "Is the finding there?", each_evaluation(run, _faithfulness))


def _unasked(stage: StageView) -> Text:
    return Text(f"Stage “{stage.name}” was asked for no judgement of synthetic images.", "absent")


def _judge(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.faithfulness
    if result is None:
        yield _unasked(stage)
        return
    yield Text(
        "A classifier judges whether a finding is in an image. It is tried first on "
        f"{several(result.num_real, 'real image')} of {several(result.num_real_patients, 'patient')} of the "
        f"{result.split} split. It says nothing of synthetic images of a view in which the lower bound of its AUROC is "
        f"below {result.min_auroc:.2f}, or in which fewer than {result.min_images} real images have the finding, or "
        "have it not."
    )
    if result.not_in_vocabulary:
        names = listed([plain(name) for name in result.not_in_vocabulary])
        yield Text(
            f"The judge also has an output for {names}, which the images have no label for: not tried.", "absent"
        )
    if not result.findings:
        yield Text("The judge has no output for any finding of the images.", "absent")
        return
    yield _trial_table(result)
    yield Details("Images and patients of the trial, view by view", [_trial_counts(result)])


def _trial_table(result: FaithfulnessResult) -> Table:
    where = [trial.within for trial in result.findings[0].trial]
    heads = [f"AUROC, {_place(name)}" for name in where]
    columns = [Column(head) for head in ("finding", *heads, "the view alone", "with / without", "verdict")]
    baseline = (
        f"from the view alone, as {several(result.num_train, 'real training image')} have it"
        if result.num_train
        else "from the view alone, fitted on these same images, which favours it"
    )
    notes = [
        f"In brackets: 95 % interval by {count(result.num_resamples)} bootstrap resamples of patients. Chance is 0.50.",
        f"“The view alone”: AUROC of the finding guessed {baseline}. A judge that reads nothing but the view scores as "
        "much over all views, and 0.50 within one.",
    ]
    caption = "The judge on held-out real images: those with the finding (alone or among others) against those without."
    return Table(caption, columns, [_trial_row(one) for one in result.findings], notes=notes)


def _trial_row(one: JudgedFinding) -> list[str]:
    pooled = one.trial[0]
    cells = [number(trial.auroc) if trial.auroc else "too few images" for trial in one.trial]
    view = number(pooled.view_only) if pooled.view_only else "–"
    numbers = _both(pooled.num_with, pooled.num_without)
    return [plain(one.finding), *cells, view, numbers, _judge_verdict(one.trial)]


def _judge_verdict(trials: Sequence[Trial]) -> str:
    refused = [plain(trial.refused) for trial in trials if trial.refused]
    return "; ".join(refused) if refused else "passed"


def _trial_counts(result: FaithfulnessResult) -> Table:
    heads = ("with", "without", "patients", "patients with it")
    columns = [Column("finding"), Column("images"), *(Column(head, numeric=True) for head in heads)]
    rows = [
        [
            plain(one.finding),
            _place(trial.within),
            *map(count, (trial.num_with, trial.num_without, trial.num_patients, trial.num_patients_with)),
        ]
        for one in result.findings
        for trial in one.trial
    ]
    return Table("Held-out real images that the judge was tried on.", columns, rows)


def _faithfulness(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.faithfulness
    if result is None:
        yield _unasked(stage)
        return
    yield Text(
        f"Of {several(result.num_synthetic, 'synthetic image')}, those asked for with a finding are set against those "
        "asked for without: the AUROC is the chance that the judge gives the former the higher score. 0.50 means that "
        "the finding cannot be seen. Above the AUROC of real images, a finding is clearer than in life: a classifier "
        "trained on such images learns something too easy."
    )
    yield from _named(result)
    asked = [one for one in result.findings if one.synthetic]
    if not asked:
        yield Text("No finding that the judge knows was asked for.", "absent")
        return
    if any(_given(one) for one in asked):
        yield Charts([_chart(f"faithfulness-{stage.name}", asked)], _CHART)
    yield _table(result, asked)
    yield from before_gate(metrics)
    if result.missing:
        yield Details(*_missing(result))
    yield Details("How the judge’s scores are distributed", list(_histograms(stage.name, asked)))


_CHART = (
    "The judge’s AUROC, with 95 % intervals: over images for synthetic ones (where real images do not cover all, of "
    "those that they cover), over patients for real ones. Shuffled "
    "prompts: mean and 95 % range. Over all views where the judge passed in each, else within those where it passed. "
    "An open circle has an interval too narrow to see."
)


def _named(result: FaithfulnessResult) -> Iterator[Text]:
    """Findings without a row, and why."""
    if result.unknown_to_judge:
        names = listed([plain(name) for name in result.unknown_to_judge])
        yield Text(f"Asked for, but unknown to the judge: {names}.", "absent")
    if result.not_requested:
        names = listed([plain(name) for name in result.not_requested])
        yield Text(f"Known to the judge, but no synthetic image was asked for with it: {names}.", "absent")


def _table(result: FaithfulnessResult, asked: Sequence[JudgedFinding]) -> Table:
    heads = ("finding", "images", "with / without", "synthetic AUROC", "real AUROC, same mix", "shuffled prompts")
    rows = [_row(one.finding, contrast) for one in asked for contrast in one.synthetic]
    pooled = frozenset(i for i, row in enumerate(rows) if row[0])
    notes = [
        "Synthetic: 95 % interval over images. Real: held-out images, weighted to the labels and views that were asked "
        "for; 95 % interval over patients. Refused numbers are not computed: the reason stands in their place.",
        f"Shuffled prompts: mean and 95 % range of {count(result.num_permutations)} shuffles of the requested labels "
        "among the images of one view, which is what a generator scores that ignores all but the view. Of 40 findings "
        "that are not there, about one lies above this range by chance.",
    ]
    if result.missing:
        notes.append(
            f"Real images cover {percent(result.num_covered, result.num_synthetic)} of the synthetic ones. Where an "
            "AUROC “of those covered” is given, it is what is compared with the real one."
        )
    caption = "Synthetic images asked for with a finding (alone or among others) against those asked for without."
    return Table(caption, [*(Column(head) for head in heads), Column("verdict")], rows, pooled, notes)


def _row(finding: str, contrast: PromptContrast) -> list[str]:
    head = plain(finding) if contrast.within == "pooled" else ""
    numbers = _both(contrast.num_with, contrast.num_without)
    if contrast.auroc is None or contrast.chance is None:
        return [head, _place(contrast.within), numbers, plain(contrast.refused or ""), "–", "–", "–"]
    synthetic = number(contrast.auroc)
    if contrast.matched and contrast.matched != contrast.auroc:
        synthetic += f"; of those covered {number(contrast.matched)}"
    real = number(contrast.real) if contrast.real else f"not computed: {plain(contrast.real_refused or '')}"
    return [head, _place(contrast.within), numbers, synthetic, real, number(contrast.chance), prompt_words(contrast)]


def _missing(result: FaithfulnessResult) -> tuple[str, list[Block]]:
    columns = [Column("labels, view"), Column("synthetic images", numeric=True)]
    rows = [[plain(name), count(num)] for name, num in list(result.missing.items())[:_MOST]]
    some = f"The {_MOST} most frequent of {count(len(result.missing))}." if len(result.missing) > _MOST else "All."
    table = Table(f"Asked for, but on no held-out real image. {some}", columns, rows)
    return "Combinations of labels and view that real images lack", [table]


_MOST = 20


def _given(one: JudgedFinding) -> list[PromptContrast]:
    """The contrasts to draw: over all views where that is given, else those within views that are."""
    given = [contrast for contrast in one.synthetic if contrast.auroc]
    return given[:1] if given and given[0].within == "pooled" else given


def _chart(key: str, asked: Sequence[JudgedFinding]) -> Chart:
    from cxr_core.report import figures

    rows = []
    for one in asked:
        for contrast in _given(one):
            name = plain(one.finding)
            name += "" if contrast.within == "pooled" else f", {_place(contrast.within)}"
            rows.append((f"{name}: synthetic", contrast.matched or contrast.auroc, figures.SYNTHETIC))
            rows.append(("real, same mix", contrast.real, figures.REAL))
            rows.append(("shuffled prompts", contrast.chance, figures.MUTED))
    points = [(name, n.value, n.low, n.high, colour) for name, n, colour in rows if n is not None]
    alt = "AUROC. " + "; ".join(f"{name}: {number(n)}" for name, n, _ in rows if n is not None) + "."
    return figures.intervals(key, points, [("cannot be seen", 0.5)], alt, axis="AUROC of the judge’s score")


def _histograms(stage: str, asked: Sequence[JudgedFinding]) -> Iterator[Block]:
    from cxr_core.report import figures

    charts = []
    for i, one in enumerate(asked):
        by_place = {trial.within: trial.histogram for trial in one.trial}
        for contrast in _given(one) or one.synthetic[:1]:
            title = f"{plain(one.finding)}, {_place(contrast.within)}"
            real, drawn = by_place[contrast.within], contrast.histogram
            lines = [
                ("real, with", figures.REAL, True, real.having),
                ("real, without", figures.REAL, False, real.lacking),
            ]
            if drawn is not None:
                lines.append(("synthetic, with", figures.SYNTHETIC, True, drawn.having))
                lines.append(("synthetic, without", figures.SYNTHETIC, False, drawn.lacking))
            key = f"scores-{stage}-{i}-{contrast.within}"
            alt = f"{title}: shares of images by the judge’s score. " + "; ".join(_mean(*line) for line in lines) + "."
            charts.append(figures.score_histogram(key, title, lines, alt))
    yield Charts(
        charts,
        "Share of images by the judge’s score, in 20 bins; each line adds up to 100 %. Full lines: with the finding; "
        "dashed: without. Real images as they are, not weighted. Where the judge is refused, only real images are "
        "shown.",
    )


def _mean(name: str, _: str, __: bool, counts: Sequence[int]) -> str:
    whole = sum(counts)
    mean = sum((i + 0.5) * num for i, num in enumerate(counts)) / len(counts) / whole if whole else 0.0
    return f"{name}: mean {mean:.2f}" if whole else f"{name}: no image"


def _place(within: str) -> str:
    return "all views" if within == "pooled" else within


def _both(num_with: int, num_without: int) -> str:
    return f"{count(num_with)}\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}{count(num_without)}"


def number(interval: Interval) -> str:
    """ "0.78 (0.73–0.83)", never broken between lines."""
    return f"{interval.value:.2f}\N{NO-BREAK SPACE}({interval.low:.2f}–\N{WORD JOINER}{interval.high:.2f})"
