"""Case: all that `draw` needs to know of one image."""

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sign:
    """One located sign of a finding. Both-sided effusion is two signs; oedema, which spares no side, is one."""

    finding: str
    severity: float
    """In (0, 1]."""
    side: str
    """"left" or "right" of the patient (image-right is the patient's left), "both" or "midline"."""
    onset: int
    """Follow-up number at which the sign was first seen; it keeps its place in the body until it is gone."""
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    """Bounding box in the image's frame scaled to 1024 x 1024 px: left, top, width, height, as NIH gives its boxes."""


@dataclass(frozen=True)
class Case:
    """One radiograph to be drawn: who, how, and with which signs."""

    seed: int
    image_id: str
    """"00000001_000": the patient's eight digits and the follow-up's three, as NIH names its images."""
    view: str
    age: int
    sex: str
    signs: tuple[Sign, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[Hashable, Any], *, seed: int) -> "Case":
        """The case of one row (a Series or a dict) of the table that `population(..., seed=seed)` returned."""
        signs = tuple(Sign(**sign) for sign in row["signs"])
        return cls(seed, str(row["image_id"]), str(row["view"]), int(row["age"]), str(row["sex"]), signs)

    @property
    def patient_id(self) -> str:
        return self.image_id.split("_")[0]

    def severity(self, finding: str, side: str | None = None) -> float:
        """The greatest severity of `finding` (on `side`, where given); 0 where there is none."""
        return max((s.severity for s in self.signs if s.finding == finding and side in (None, s.side)), default=0.0)


def stream(seed: int, *key: object) -> np.random.Generator:
    """An independent random stream for each (seed, key): what one part draws never shifts what another part draws."""
    digest = hashlib.sha256("/".join(map(str, (seed, *key))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
