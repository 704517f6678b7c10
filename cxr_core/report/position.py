"""Whether findings lie where prompts put them."""

from collections.abc import Iterator
from pathlib import Path

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.metrics import Metrics
from cxr_core.evaluation.position.results import PositionAsked, PositionFinding, PositionPicture, PositionResult
from cxr_core.report.blocks import Block, Column, Details, Gallery, Picture, Section, Table, Text
from cxr_core.report.evaluation import each_evaluation, png_of
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import count, listed, plain
from cxr_core.report.verdicts import position_words


def position_section(run: RunView) -> Section:
    """The localiser's trial, then where it found what was asked for somewhere, with pictures."""
    blocks = each_evaluation(run, _result, "This run was not asked where findings lie.")
    return Section("position", "Position", blocks)


def _result(stage: StageView, metrics: Metrics) -> Iterator[Block]:
    result = metrics.position
    if result is None:
        return
    yield Text(
        f"Does a finding lie where the prompt puts it? A localiser that learnt from {result.learnt_from} is first "
        f"tried on boxes of held-out real patients ({result.split}): what it reaches there is its ceiling. A hit is a "
        "finding whose middle lies in the region. Beside it stands who always takes the finding’s commonest cell. "
        "Left and right are those of the image; the patient’s left is on its right."
    )
    yield _trials(result)
    asked = [(each.finding, one) for each in result.findings for one in each.asked]
    if asked:
        yield _asked(asked)
        yield Details("Asked for and found", [_confusion(name, one) for name, one in asked if one.confusion])
    else:
        yield Text("No synthetic image was asked for with a place of a finding that the localiser knows.", "absent")
    if result.unknown_to_localiser:
        names = listed([plain(name) for name in result.unknown_to_localiser])
        yield Text(f"Asked for with a place, but unknown to the localiser: {names}.", "note")
    if result.pictures:
        caption = (
            "Drawn by chance, not chosen. Red: how sure the localiser is. Yellow: what it found. Green: the box, or "
            "the region asked for."
        )
        yield Gallery([_picture(stage.folder.path, one) for one in result.pictures], caption, wide=True)


def _trials(result: PositionResult) -> Table:
    rows = [_trial(each) for each in result.findings]
    columns = [Column("finding"), Column("images", True), Column("patients", True), Column("hit rate", True)]
    columns += [Column("commonest cell", True), Column("side", True), Column("IoU", True), Column("")]
    return Table("The localiser on real boxes of held-out patients, with 95 % intervals over patients", columns, rows)


def _trial(each: PositionFinding) -> list[str]:
    trial = each.trial
    guess = "" if trial.guess is None else f"{trial.guess:.2f}"
    numbers = [_told(trial.hit_rate), guess, _told(trial.laterality), _told(trial.iou)]
    said = f"refused: {trial.refused}" if trial.refused else "asked"
    return [plain(each.finding), count(trial.num_images), count(trial.num_patients), *numbers, said]


def _asked(asked: list[tuple[str, PositionAsked]]) -> Table:
    rows = []
    for name, one in asked:
        guess = "" if one.guess is None else f"{one.guess:.2f}"
        numbers = [_told(one.hit_rate), guess, _told(one.laterality), _told(one.iou)]
        rows.append([plain(name), one.request, count(one.num_images), *numbers, position_words(one)])
    columns = [Column("finding"), Column("request"), Column("images", True), Column("hit rate", True)]
    columns += [Column("commonest cell", True), Column("side", True), Column("IoU with region", True), Column("")]
    return Table("Synthetic images asked for with a place, with 95 % intervals over images", columns, rows)


def _confusion(name: str, one: PositionAsked) -> Table:
    found = sorted({region for regions in one.confusion.values() for region in regions})
    rows = [
        [_short(place), *(str(regions.get(region, 0)) for region in found)] for place, regions in one.confusion.items()
    ]
    request = f" ({one.request})" if one.request else ""
    columns = [Column("asked for \\ found"), *(Column(_short(region), True) for region in found)]
    return Table(f"{plain(name)}{request}, images", columns, rows)


def _short(words: str) -> str:
    return words.removeprefix("the ").removesuffix(" of the image")


def _told(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.value:.2f} ({interval.low:.2f}–{interval.high:.2f})"


def _picture(folder: Path, one: PositionPicture) -> Picture:
    name = plain(one.finding)
    alt = f"Chest X-rays with {name}, rows from above: {listed(list(one.rows))}."
    return png_of(folder, one.path, alt, title=f"{name}: {', '.join(one.rows)}")
