"""What a train stage shows how often, beside how common it is."""

from collections.abc import Iterator
from typing import Any

from cxr_core.errors import UserError
from cxr_core.report.blocks import Charts
from cxr_core.report.read import StageView, read_object
from cxr_core.report.spell import percent, plain, several

_RULES = {"repeat_threshold": "repeat_below", "frequency_exponent": "temper"}
"""Keys of the config, and their names in runs of before."""


def sampling_chart(stage: StageView) -> Iterator[Charts]:
    """Shares of the findings among training images and among what is shown, where the config changes them."""
    path = stage.folder.path / "plan" / "sampling.json"
    asked = stage.settings.get("sampling") or {}
    given = {name: asked.get(name, asked.get(before)) for name, before in _RULES.items()}
    rule = next((name for name, value in given.items() if value is not None), None)
    if rule is None or not path.is_file():
        return
    try:
        yield _chart(stage.name, f"{rule}: {given[rule]:g}", read_object(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"lacks a count ({error})", where=str(path), hint="restore the file") from error


def _chart(stage: str, rule: str, about: dict[str, Any]) -> Charts:
    from cxr_core.report import figures

    images, shown, never = int(about["images"]), int(about["shown"]), int(about["never_shown"])
    there = {name: one for name, one in about["findings"].items() if one["images"]}
    groups = [
        ("training images", figures.REAL, [one["images"] for one in there.values()], images),
        ("images as shown", figures.HELD_OUT, [one["shown"] for one in there.values()], shown),
    ]
    shares = "; ".join(
        f"{plain(name)} {percent(one['images'], images)} of images, {percent(one['shown'], shown)} as shown"
        for name, one in there.items()
    )
    chart = figures.share_bars(f"sampling-{stage}", [plain(name) for name in there], groups, f"{shares}.")
    rest = f"{several(never, 'image')} never" if never else "each at least once"
    return Charts(
        [chart],
        f"What training shows ({rule}): {several(shown, 'image')} in {several(about['steps'], 'step')}, out of "
        f"{several(images, 'training image')} in {several(len(about['combinations']), 'combination')} of findings, "
        f"{rest}. The number at a bar is its count; an image counts with each of its findings.",
    )
