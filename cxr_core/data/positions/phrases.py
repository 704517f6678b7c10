"""The grammar of a placed finding, `[size] finding in PLACE [of the image]`, and its inverse.

Left and right are the patient's, unless the phrase ends in "of the image": a phrase can be read in one way only, and
needs no config to be read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from cxr_core.data.positions.regions import GRID, OTHER, ZONES, Box, Region, cell_of, zone_of
from cxr_core.data.positions.settings import PositionWords
from cxr_core.data.words import plain_words

SIZES = ("small", "medium", "large")
_SIZE_BOUNDS = (0.025, 0.08)
"""Shares of the image's area: a third of the 984 boxes of ChestX-ray14 lie below the first, two thirds below the
second."""
_OF_IMAGE = " of the image"
_PARTS = ", "


@dataclass(frozen=True)
class PlacedFinding:
    """A finding and where it is, as a prompt says it; `region` None: anywhere, `size` "": any. `area` is that of the
    box that it was made from, and no part of what is said."""

    finding: str
    region: Region | None = None
    size: str = ""
    area: float = 0.0

    @property
    def said(self) -> tuple[str, Region | None, str]:
        """What a reader of the prompt learns."""
        return self.finding, self.region, self.size


def size_of(box: Box) -> str:
    """ "small", "medium" or "large", by the box's share of the image's area."""
    return SIZES[sum(box["w"] * box["h"] >= bound for bound in _SIZE_BOUNDS)]


def place(box: Box, words: PositionWords) -> PlacedFinding:
    """A box, in fractions of the image, as these words say it."""
    region = cell_of(box) if words.regions == "grid" else zone_of(box)
    return PlacedFinding(box["finding"], region, size_of(box) if words.sizes else "", box["w"] * box["h"])


def region_words(region: Region, sides: str) -> str:
    """A region in words, by the sides of the "patient" or of the "image"."""
    side = region.side and (OTHER[region.side] if sides == "patient" else region.side)
    return region.words.format(side=side) + (_OF_IMAGE if sides == "image" else "")


def phrase(placed: PlacedFinding, sides: str, findings: Sequence[str] = ()) -> str:
    """ "large mass in the upper left"; without region and size the finding's plain words among those of `findings`."""
    where = f"in {region_words(placed.region, sides)}" if placed.region else ""
    return " ".join(filter(None, (placed.size, plain_words(placed.finding, findings), where)))


def phrases(finding: str, placed: Iterable[PlacedFinding], sides: str, findings: Sequence[str] = ()) -> list[str]:
    """All that is said of one finding, each once: where it is placed, or its name alone."""
    of_finding = [one for one in placed if one.finding == finding]
    return list(dict.fromkeys(phrase(one, sides, findings) for one in of_finding or [PlacedFinding(finding)]))


def shorter(placed: Sequence[PlacedFinding]) -> Iterator[tuple[PlacedFinding, ...]]:
    """The same ever shorter: as it is, without sizes, then without the smallest boxes one after another."""
    yield tuple(placed)
    plain = sorted((replace(one, size="") for one in placed), key=lambda one: -one.area)
    for num in range(len(plain), -1, -1):
        yield tuple(plain[:num])


def parse(prompt: str, findings: Sequence[str]) -> tuple[PlacedFinding, ...]:
    """What a prompt in our words says of `findings` and their places, in its order. Other words are passed over."""
    names = _names(tuple(findings))
    matches = (_match(tuple(names), part) for part in prompt.split(_PARTS))
    return tuple(_placed(match, names) for match in matches if match)


def asked(text: str, findings: Sequence[str]) -> PlacedFinding | None:
    """A finding by its name in a Dataset, with its place in our words: "Mass in the upper left"; None: it is none."""
    names = {name: name for name in findings}
    match = _match(tuple(names), text)
    return _placed(match, names) if match else None


def unplaced(prompt: str, findings: Sequence[str]) -> str:
    """The prompt without places and sizes, each finding named once: what an image without boxes would be told as."""
    names = _names(tuple(findings))
    parts = []
    for part in prompt.split(_PARTS):
        match = _match(tuple(names), part)
        parts.append(match["finding"] if match else part)
    return _PARTS.join(dict.fromkeys(parts))


def read_two_ways(findings: Sequence[str], *, sizes: bool) -> tuple[str, str] | None:
    """A finding whose name alone says another one's size or place, and that one: "small nodule" beside "nodule", where
    prompts say `sizes`; None: no name does."""
    for name in findings:
        one = asked(plain_words(name, findings), [plain_words(other, findings) for other in findings if other != name])
        if one and (one.region or (one.size and sizes)):
            return name, one.finding
    return None


@cache
def _names(findings: tuple[str, ...]) -> dict[str, str]:
    """Finding by its plain words."""
    return {plain_words(name, findings): name for name in findings}


@cache
def _regions() -> dict[str, Region]:
    """Region by its words, of both frames."""
    return {region_words(region, sides): region for sides in ("patient", "image") for region in (*GRID, *ZONES)}


def _match(names: tuple[str, ...], text: str) -> re.Match[str] | None:
    """A phrase about one of the findings that are called so. "small nodule" is a finding where there is one called so,
    and else a nodule's size."""
    plain, sized = _compiled(names)
    return plain.fullmatch(text) or sized.fullmatch(text)


@cache
def _compiled(names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    sizes, called, regions = (_any_of(words) for words in (SIZES, names, _regions()))
    rest = f"(?P<finding>{called})(?: in (?P<region>{regions}))?"
    return re.compile(f"(?P<size>){rest}"), re.compile(f"(?P<size>{sizes}) {rest}")


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


def _placed(match: re.Match[str], names: Mapping[str, str]) -> PlacedFinding:
    region = _regions()[match["region"]] if match["region"] else None
    return PlacedFinding(names[match["finding"]], region, match["size"] or "")
