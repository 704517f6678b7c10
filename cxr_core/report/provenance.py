"""What the run cost and what made it: time, throughput, versions, machine, config, and the terms used."""

from collections import Counter
from collections.abc import Iterator, Mapping

from cxr_core.report.blocks import Block, CodeBlock, Column, Details, FactList, Section, Table, Text
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, duration, listed
from cxr_core.runs import code

GLOSSARY = (
    ("finding", "What a radiograph's label says is to be seen, e.g. Effusion. “No Finding”: none of the vocabulary."),
    ("view", "The projection: PA (from back to front, standing) or AP (from front to back, often lying in bed)."),
    ("split", "Train, validation (val) or test. Patients are split, never images."),
    ("prompt", "The text that describes an image to the model; training and generation use the same wording."),
    ("latent", "The image as the model's autoencoder (VAE) compresses it; diffusion works on latents."),
    (
        "guidance scale",
        "How strongly sampling is pulled towards the prompt (classifier-free guidance); 1 is not at all.",
    ),
    ("checkpoint", "The model as it was after a number of training steps."),
    ("shard", "A slice of a stage's work that is committed as a whole; its receipt records who made it and how long."),
    ("AUROC", "Probability that an image with the finding is scored above one without it: 0.5 is chance, 1 is best."),
    ("FID, KID", "Distances between two sets of images by the features that a network gives them; 0 is no difference."),
    ("floor", "The same distance between two groups of real patients: what images without a fault would have."),
    (
        "effective n",
        "How many equally weighted images would tell as much as these, which are weighted to one mix of labels.",
    ),
    (
        "view-only baseline",
        "A classifier that knows nothing but the view. What does not beat it may have learnt the view.",
    ),
)


def time_section(run: RunView) -> Section:
    """Time and throughput of each stage, from its receipts and attempts."""
    columns = [
        Column("stage"),
        *(Column(name, numeric=True) for name in ("shards", "items", "time", "items per second", "attempts")),
        Column("device"),
    ]
    rows = [_time_row(stage) for stage in run.stages]
    notes = (
        "Items are images, or training steps. Time is summed over shards, so stages that ran on several machines at "
        "once took less by the clock. An attempt is one process that worked on a stage; more than one means a restart "
        "or several tasks.",
    )
    parts = [row for stage in run.stages for row in _parts(stage)]
    blocks: list[Block] = [Table("Time and throughput by stage.", columns, rows, notes=notes)]
    if parts:
        heads = [Column("stage"), Column("part"), Column("time", numeric=True)]
        blocks.append(Details("Time by part of the work", [Table("As the stages measured themselves.", heads, parts)]))
    return Section("time", "Time", blocks)


def _time_row(stage: StageView) -> list[str]:
    receipts = stage.receipts
    if not receipts:
        return [stage.name, "not run yet", "", "", "", str(len(stage.attempts) or ""), ""]
    seconds = stage.seconds["shards"]
    rate = f"{stage.num_items / seconds:,.3g}" if seconds else "–"
    shards = count(len(receipts)) if stage.is_done else f"{len(receipts):,} of {stage.num_planned:,}"
    devices = listed(sorted({receipt.device for receipt in receipts}))
    return [
        stage.name,
        shards,
        count(stage.num_items),
        duration(sum(stage.seconds.values())),
        rate,
        _ends(stage),
        devices,
    ]


def _ends(stage: StageView) -> str:
    """How many attempts there were, and how many of them are not done."""
    odd = [outcome for outcome in stage.attempts if outcome != "done"]
    return f"{len(stage.attempts)} ({listed(sorted(set(odd)))})" if odd else str(len(stage.attempts))


def _parts(stage: StageView) -> list[list[str]]:
    totals: dict[str, float] = {}
    for receipt in stage.receipts:
        for part, seconds in receipt.seconds.items():
            totals[part] = totals.get(part, 0.0) + seconds
    names = {"make": "all work on shards", "place": "hashing and placing files"}
    return [[stage.name, names.get(part, part), duration(seconds)] for part, seconds in totals.items()]


def provenance_section(run: RunView) -> Section:
    """What made the run, and the digests that name its data."""
    columns = [Column("stage"), Column("what"), Column("sha256")]
    rows = [row for stage in run.stages if stage.facts for row in _digests(stage.name, stage.facts)]
    blocks: list[Block] = [FactList(list(_origin(run.provenance).items()))]
    if rows:
        blocks.append(
            Table(
                "Equal digests mean equal content; equal fingerprints mean equal settings, seeds and inputs.",
                columns,
                rows,
            )
        )
    else:
        blocks.append(Text("No stage is finished, so there are no digests yet.", "absent"))
    made = [[stage.name, sha256[:12], str(num)] for stage in run.stages for sha256, num in _codes(stage).items()]
    accepted = run.bad_files.read(lambda: code.accepted(run.root), [])
    if len({sha256 for _, sha256, _ in made}) > 1 or accepted:
        blocks += _mixed(made, accepted)
    blocks.append(Details("The config, fully resolved", [CodeBlock(run.config_text)]))
    return Section("provenance", "Provenance", blocks)


def _codes(stage: StageView) -> dict[str, int]:
    """Code (sha256) -> shards that it made; "not recorded" for those of versions that did not say."""
    return dict(Counter(receipt.code or "not recorded" for receipt in stage.receipts))


def _mixed(made: list[list[str]], accepted: list[dict[str, object]]) -> Iterator[Block]:
    """A run of several codes: which made what, and who let it go on."""
    heads = [Column("stage"), Column("code (sha256)"), Column("shards", numeric=True)]
    yield Table("More than one version of the code made this run.", heads, made)
    heads = [Column("when"), Column("by"), Column("code (sha256)"), Column("commit"), Column("image (sha256)")]
    rows = [
        [str(each.get("time", "")), str(each.get("by", "")), *(str(each.get(key) or "–")[:12] for key in _OF_CODE)]
        for each in accepted
    ]
    if rows:
        yield Table("Accepted with --accept-code.", heads, rows)


_OF_CODE = ("code", "commit", "image")


def _digests(name: str, facts: Mapping[str, object]) -> list[list[str]]:
    names = {"digest": "digest of its content", "fingerprint": "fingerprint of its plan"}
    return [[name, what, str(facts[key])] for key, what in names.items() if key in facts]


def _origin(made: Mapping[str, object]) -> dict[str, str]:
    """run.json in words; keys that this page does not know are printed as they are."""
    items = {}
    for key, value in made.items():
        if key == "format" or value in ("", None, {}):
            continue
        if key == "git" and isinstance(value, Mapping):
            changed = ", with changes not committed" if value.get("dirty") else ""
            items["code"] = f"git {value.get('commit') or 'unknown'}{changed}"
        elif isinstance(value, Mapping):
            items[key] = ", ".join(f"{name} {version}" for name, version in value.items())
        else:
            items[_NAMES.get(key, key)] = str(value)
    return items


_NAMES = {"config_sha256": "sha256 of the config", "image": "container image (sha256)", "platform": "machine"}


def glossary_section() -> Section:
    """The terms a reader from either field may miss."""
    return Section("glossary", "Terms", [FactList(GLOSSARY)])
