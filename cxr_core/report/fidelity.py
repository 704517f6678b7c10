"""Fidelity: distances of synthetic images to held-out patients, beside those of real patients to each other."""

from collections.abc import Iterator, Mapping

from cxr_core.evaluation.metrics import Distance, FidelityResult, Interval, Metrics, Side
from cxr_core.report.blocks import Block, Column, Heading, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain, several
from cxr_core.report.verdicts import comparability, copying_alarm, coverage_words


def fidelity_section(run: RunView) -> Section:
    """How near synthetic images are to real ones: one table an evaluate stage."""
    return Section("fidelity", "Fidelity", each_evaluation(run, _fidelity))


def _fidelity(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.fidelity
    if result is None:
        yield Text(f"Stage “{stage.name}” was not asked for fidelity.", "absent")
        return
    yield Heading(f"Features of {result.extractor.name}")
    yield Text(
        "Do synthetic images, taken together, look like those of real patients? FID (Heusel et al. 2017, arXiv "
        "1706.08500) and KID (Binkowski et al. 2018, arXiv 1801.01401) are distances between two sets of images as a "
        "network sees them; smaller is nearer. Real images are weighted to the labels and views of the synthetic "
        "ones, so a different mix is no distance."
    )
    yield Text(extractor_words(result))
    yield Text(comparability(result), "note")
    yield _table(result)
    yield Text(_beside_floor(result))
    if result.by_finding:
        yield _by_finding(result)
    yield Text(copying_alarm(result), "plain" if result.alarm else "note")


def extractor_words(result: FidelityResult) -> str:
    """What saw the images, and at which size."""
    used, resize = result.extractor, result.resize
    return (
        f"Features: {used.output} of {used.name}, {count(used.width)} numbers an image, sha256 {used.digest[:12]}. "
        f"It saw {resize.to} pixels a side; real images are stored with {resize.real}, synthetic ones with "
        f"{resize.synthetic} (resized: {resize.method})."
    )


_HEADS = ("FID", "KID", "images", "effective n")


def _table(result: FidelityResult) -> Table:
    columns = [Column("comparison"), *(Column(name, numeric=True) for name in _HEADS)]
    distances = {
        "all synthetic – held-out": result.headline,
        "synthetic – half A of held-out": result.beside_floor,
        "floor: half B – half A of held-out": result.floor,
        "copying: synthetic – held-out": result.to_held_out,
        "copying: synthetic – training": result.to_train,
    }
    rows = [[name, *_cells(distance)] for name, distance in distances.items()]
    notes = _grouped({name: f"not computed: {d.not_computed}." for name, d in distances.items() if d.not_computed})
    notes += _grouped(
        {name: f"{coverage_words(d.coverage)}." for name, d in distances.items() if d.coverage.num_missing}
    )
    notes.append(
        f"In brackets: 95 % interval by {several(result.resamples, 'bootstrap resample')} of real patients and of "
        "synthetic images, around the number of all of them. Held-out are validation and test patients; half A and "
        "half B share none. Labels and views that one side lacks are left out of the other, too."
    )
    notes.append(
        "FID falls as n grows, so compare only rows of equal effective n: the second with the floor, and the last two "
        "with each other. KID does not depend on n (each patient counts once for the same labels and view, and never "
        "makes a pair with himself); 0 is no difference, and it may fall below."
    )
    if subsets := result.headline.subsets:
        notes.append(
            f"KID of all synthetic – held-out as other papers report it: {subsets.mean:.4f} ± {subsets.deviation:.4f}, "
            f"mean and deviation of {several(subsets.num, 'subset')} of {several(subsets.size, 'image')}."
        )
    caption = "Distances between sets of images, n written first side – second side."
    return Table(caption, columns, rows, frozenset({0}), notes)


def _by_finding(result: FidelityResult) -> Table:
    columns = [Column("asked for with"), *(Column(name, numeric=True) for name in _HEADS)]
    rows = [[plain(each.finding), *_cells(each.distance)] for each in result.by_finding]
    reasons = {plain(each.finding): each.distance.not_computed for each in result.by_finding}
    notes = _grouped({name: f"not computed: {reason}." for name, reason in reasons.items() if reason})
    return Table("All synthetic – held-out, finding by finding.", columns, rows, frozenset(), notes)


def _cells(distance: Distance) -> list[str]:
    images = f"{_images(distance.a)} – {_images(distance.b)}"
    effective = f"{count(distance.a.effective)} – {count(distance.b.effective)}"
    if distance.fid is None or distance.kid is None:
        return ["not computed", "–", images, effective]
    return [interval_words(distance.fid, ".3g"), interval_words(distance.kid, ".3f"), images, effective]


def _images(side: Side) -> str:
    patients = f" ({several(side.num_patients, 'patient')})" if side.num_patients is not None else ""
    return f"{count(side.num_images)}{patients}"


def interval_words(number: Interval, form: str) -> str:
    """A number with its interval in brackets."""
    return f"{number.value:{form}} ({number.low:{form}} to {number.high:{form}})".replace("-", "−")


def _grouped(said: Mapping[str, str]) -> list[str]:
    """What is said of each comparison, with those of which the same is said in one line."""
    names: dict[str, list[str]] = {}
    for name, words in said.items():
        names.setdefault(words, []).append(f"“{name}”")
    return [f"{listed(which)}: {words}" for words, which in names.items()]


def _beside_floor(result: FidelityResult) -> str:
    ours, floor = result.beside_floor.fid, result.floor.fid
    if ours is None or floor is None:
        return "Without a floor the headline cannot be judged: some distance is there between any two sets of images."
    times = f"{ours.value / floor.value:.3g} times the floor" if floor.value else "above a floor of 0"
    apart = ours.low > floor.high
    verdict = (
        "The intervals do not overlap: synthetic images are farther from real patients than other patients are."
        if apart
        else "The intervals overlap: synthetic images are not shown to be farther from real patients than others are."
    )
    numbers = f"FID {ours.value:.3g} beside {floor.value:.3g}"
    return f"At equal effective n the synthetic images have {times}: {numbers}. {verdict}"
