"""Findings: the label vocabulary of a dataset, and labels as bits."""

from collections.abc import Iterable
from dataclasses import dataclass

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

NIH_ALIASES = {"Infiltrate": "Infiltration"}
"""BBox_List_2017.csv writes "Infiltrate" for what Data_Entry calls "Infiltration"."""


@dataclass(frozen=True)
class Findings:
    """An ordered vocabulary of at most 62 findings; bit i of a label is finding i, and 0 is `NO_FINDING`."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or NO_FINDING in self.names or not 0 < len(self.names) <= 62:
            raise UserError(
                f"findings must be 1 to 62 different names other than {NO_FINDING!r}, not {list(self.names)}",
                mend="an image without any of the findings is 'No Finding' by itself",
            )

    def encode(self, names: Iterable[str]) -> int:
        """Bits of `names`; `NO_FINDING` adds none. Raises UserError for a name outside the vocabulary."""
        bits = 0
        for name in names:
            name = NIH_ALIASES.get(name, name)
            if name == NO_FINDING:
                continue
            if name not in self.names:
                raise UserError(f"unknown finding {name!r}", mend=f"known are: {', '.join((*self.names, NO_FINDING))}")
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
