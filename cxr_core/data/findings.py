"""Findings: the label vocabulary of a dataset, and labels as bits."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cxr_core.data.identity import composed
from cxr_core.errors import UserError

NO_FINDING = "No Finding"
JOIN = "|"
"""Between the findings of a combination, as in Data_Entry_2017.csv."""

NIH_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings of ChestX-ray14 in NIH's order (Wang et al., CVPR 2017); with `NO_FINDING` 15 classes."""


@dataclass(frozen=True)
class Findings:
    """An ordered vocabulary of at most 62 findings; bit i of a label is finding i, and 0 is `NO_FINDING`."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or NO_FINDING in self.names or not 0 < len(self.names) <= 62:
            raise UserError(
                f"findings must be 1 to 62 different names other than {NO_FINDING!r}, not {list(self.names)}",
                hint="an image without any of the findings is 'No Finding' by itself",
            )

    def encode(self, names: Iterable[str]) -> int:
        """Bits of `names`; `NO_FINDING` adds none. Raises UserError for a name outside the vocabulary."""
        bits = 0
        for name in names:
            if name == NO_FINDING:
                continue
            if name not in self.names:
                raise UserError(f"unknown finding {name!r}", hint=f"known are: {', '.join((*self.names, NO_FINDING))}")
            bits |= 1 << self.names.index(name)
        return bits

    def decode(self, bits: int) -> tuple[str, ...]:
        """Names of the set bits in vocabulary order; `(NO_FINDING,)` for 0."""
        return tuple(name for i, name in enumerate(self.names) if bits >> i & 1) or (NO_FINDING,)

    def text(self, bits: int) -> str:
        """The same as one text, `Effusion|Mass`."""
        return JOIN.join(self.decode(bits))

    def bit(self, name: str) -> int:
        """The mask of one finding; 0 for `NO_FINDING`."""
        return self.encode([name])


NIH = Findings(NIH_FINDINGS)


def vocabulary(names: Sequence[str], separator: str = JOIN) -> tuple[str, ...]:
    """The names of a vocabulary of one's own, with composed letters (NFC).

    Raises UserError for a name that cannot be written in a table, a request or a prompt, and for two names that read
    alike there: `separator` stands between the findings of a table.
    """
    names = tuple(composed(name) for name in names)
    for name in names:
        signs = sorted({sign for sign in (JOIN, separator, ",", '"') if sign in name})
        if signs or not name.isprintable() or name != " ".join(name.split()) or not name:
            odd = f"holds {' '.join(map(repr, signs))}" if signs else "is empty or holds odd blanks or signs"
            raise UserError(f"the finding {name!r} {odd}", hint="write it in letters, e.g. Pleural Effusion")
    _refuse_alike((*names, NO_FINDING))
    return Findings(names).names


def is_no_finding(name: str) -> bool:
    """Whether a label says that there is no finding, in any case: "No Finding", "no_finding"."""
    return _read_as(name) == _read_as(NO_FINDING)


def _refuse_alike(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if _read_as(name) in seen:
            raise UserError(
                f"the findings {seen[_read_as(name)]!r} and {name!r} read alike in prompts",
                hint=f"{NO_FINDING} is what an image without findings has by itself: leave it out"
                if is_no_finding(name)
                else "give them one name, in the table too, or two that differ in more than case, blanks and _",
            )
        seen[_read_as(name)] = name


def _read_as(name: str) -> str:
    """A finding as CLIP's tokenizer reads it in a prompt of ours."""
    return " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").casefold().split())
