"""Names of images as tables, lists and disks write them, and which of them mean the same file.

Two paths are compared from their end: the file name, then its folder, and so on. `patient1/a.png` never means
`patient2/a.png`, while a folder that a whole table shares (`CheXpert-v1.0-small/`) may have another name on disk.
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cxr_core.data.identity import composed, patient_key

ENDING = r"\.(?:png|jpe?g|dcm|dicom|tiff?|bmp|gif|webp|jp2|j2k)"
"""Of an image file; a table may write another one than the file at hand has, or none."""

_ENDING = re.compile(ENDING + "$", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\s<>:\"|?*]")
_NAME_BYTES = 200
"""Of an id made from a path: a file name holds 255 bytes, with its ending and what an export puts around it."""


def tidy(text: str) -> str:
    """A path as it is compared: composed letters (NFC), slashes, no `.`, `..`, empty parts or `.png`."""
    text = composed(text).strip()
    if text[-4:].lower() == ".png":
        text = text[:-4]
    if "/" not in text and "\\" not in text:
        return text
    parts: list[str] = []
    for part in re.split(r"[/\\]", text):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def without_ending(path: str) -> str:
    """A tidy path without the ending of any image file."""
    return _ENDING.sub("", path) if "." in path else path


def ending(name: str) -> str:
    """The ending of an image file, in small letters (`.jpg`); "" for any other name."""
    found = _ENDING.search(name)
    return found[0].lower() if found else ""


def num_shared(paths: Iterable[str]) -> int:
    """How many folders, from the outermost on, all of the paths begin with."""
    split = {tuple(path.split("/")[:-1]) for path in paths} or {()}
    same = [one == other for one, other in zip(min(split), max(split), strict=False)]
    return same.index(False) if False in same else len(same)


def num_common(paths: Sequence[str], patients: Sequence[str]) -> int:
    """How many outer folders all paths of a table begin with that tell no patient from another.

    Where all are one patient's, those before the first folder that has the patient's name, if any has.
    """
    shared = num_shared(paths)
    if not shared or len(set(patients)) > 1:
        return shared
    name = patient_key(patients[0])
    named = [i for i, folder in enumerate(paths[0].split("/")[:-1]) if name in patient_key(folder)]
    return min(shared, *named) if named else 0


def num_needed(path: str, shared: int) -> int:
    """How many folders, from the innermost on, tell this path apart: those below what all paths share, at least one."""
    num = path.count("/")
    return max(1, num - shared) if num else 0


class Match(NamedTuple):
    """What a path means: the place of a target, or -1; `folders` of it agree. `others`: targets of the same file name
    whose folders contradict, or, if `ambiguous`, between which nothing decides."""

    place: int
    folders: int = 0
    others: tuple[int, ...] = ()
    ambiguous: bool = False


class Tails:
    """Targets found by the ends of their paths, in time that does not grow with how many have the same file name."""

    def __init__(
        self, paths: Sequence[str], enough: Sequence[int], places: Iterable[int], *, loose: bool = False
    ) -> None:
        """`paths` are tidy; `enough[i]` innermost folders of target i are as good as all of them. Only those at
        `places` are looked at. `loose`: upper and lower case are the same, and endings do not count."""
        self._key: Callable[[str], str] = _loosely if loose else str
        self._paths, self._enough = paths, enough
        self._named: dict[str, list[int]] = {}
        self._groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self._ranked: dict[tuple[str, ...], tuple[list[int], list[int]]] = {}
        for place in range(len(paths)) if places is None else places:
            self._named.setdefault(self._key(paths[place].rpartition("/")[2]), []).append(place)

    def find(self, path: str, needed: int, same: Callable[[int, int], bool] | None = None) -> Match:
        """The target that `path` means: the one with the longest common tail, of which `needed` folders, or enough of
        the target's, must agree. `same` tells whether two targets are one file."""
        *above, name = self._key(path).split("/")
        places = self._named.get(name)
        if places is None:
            return Match(-1)
        places, tail = self._narrowed(places, name, above)
        agreeing = len(tail) - 1 if len(places) > 1 else self._agreeing(places[0], above)
        ranked, bounds = self._by_enough(tail, places)
        num = len(ranked) if agreeing >= needed else bisect_right(bounds, agreeing)
        if num == 0:
            return Match(-1, agreeing, tuple(ranked[:2]))
        if num > 1 and not (same and all(same(ranked[0], ranked[i]) for i in range(1, num))):
            return Match(-1, agreeing, tuple(ranked[:2]), ambiguous=True)
        return Match(ranked[0], agreeing)

    def _narrowed(self, places: list[int], name: str, above: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
        """Of targets of one file name those that share most folders, and the tail that they share."""
        tail: tuple[str, ...] = (name,)
        while len(places) > 1 and len(tail) <= len(above):
            folder = above[-len(tail)]
            narrower = self._group(tail, places).get(folder)
            if narrower is None:
                break
            places, tail = narrower, (*tail, folder)
        return places, tail

    def _by_enough(self, tail: tuple[str, ...], places: list[int]) -> tuple[list[int], list[int]]:
        """Targets of a tail by how many folders are enough for them, and these numbers."""
        if len(places) == 1:
            return places, [self._enough[places[0]]]
        if tail not in self._ranked:
            ranked = sorted(places, key=lambda place: self._enough[place])
            self._ranked[tail] = ranked, [self._enough[place] for place in ranked]
        return self._ranked[tail]

    def _group(self, tail: tuple[str, ...], places: list[int]) -> dict[str, list[int]]:
        """Targets that have this tail by the folder before it."""
        if tail not in self._groups:
            groups: dict[str, list[int]] = {}
            for place in places:
                parts = self._parts(place)
                if len(parts) > len(tail):
                    groups.setdefault(parts[-1 - len(tail)], []).append(place)
            self._groups[tail] = groups
        return self._groups[tail]

    def _agreeing(self, place: int, above: Sequence[str]) -> int:
        pairs = zip(reversed(self._parts(place)[:-1]), reversed(above), strict=False)
        num = 0
        for one, other in pairs:
            if one != other:
                break
            num += 1
        return num

    def _parts(self, place: int) -> list[str]:
        return self._key(self._paths[place]).split("/")


def match_all(
    paths: Sequence[str],
    needed: Sequence[int],
    targets: Sequence[str],
    enough: Sequence[int],
    same: Callable[[int, int], bool] | None = None,
) -> list[Match]:
    """The target of each path: as written, else with another ending, else in another case (of those still free)."""
    matches = [Match(-1)] * len(paths)
    left = list(range(len(paths)))
    for loose in (False, True):
        taken = {match.place for match in matches}
        free = [place for place in range(len(targets)) if place not in taken]
        if not free:
            break
        tails = Tails(targets, enough, free, loose=loose)
        for form in (str, without_ending):
            for i in left:
                path = form(paths[i])
                if form is str or path != paths[i]:
                    found = tails.find(path, needed[i], same)
                    matches[i] = found if found.place >= 0 or found.others else matches[i]
            left = [i for i in left if matches[i].place < 0 and not matches[i].ambiguous]
    return matches


def _loosely(path: str) -> str:
    return without_ending(path).casefold()


def image_ids(paths: Sequence[str]) -> list[str]:
    """An id for each of different tidy paths without endings: the file names; where two share one, all ids of the table
    are made of the folders too, below those that all share: `patient00001_study1_view1_frontal`.
    """
    names = [path.rpartition("/")[2] for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = num_shared(paths)
    joined = [_UNSAFE.sub("_", "_".join(path.split("/")[shared:])).lstrip(".") for path in paths]
    times = Counter(joined)
    return [
        _with_digest(name, path) if times[name] > 1 or len(name.encode()) > _NAME_BYTES else name
        for name, path in zip(joined, paths, strict=True)
    ]


def _with_digest(name: str, path: str) -> str:
    """An id that stays apart where joined folders read alike (a_b/c and a/b_c), or are too long for a file name."""
    end = name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    return f"{end}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
