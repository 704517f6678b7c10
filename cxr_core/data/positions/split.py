"""ChestX-ray14 has boxes for official test patients alone: who is to learn places must learn from some of these.

What that costs is written down: whoever is moved out of the test list is named wherever the data go, and no claim of
utility is made on them.
"""

from collections.abc import Callable, Sequence

import pandas as pd
from pydantic import Field, model_validator

from cxr_core.runs.files import canonical_json, sha256_text
from cxr_core.seeds import unit_hash
from cxr_core.settings import Settings


class MoveBoxed(Settings):
    """Shares of the test patients with a bounding box who are moved, with all their images; the rest stays in test."""

    train: float = Field(default=0.6, gt=0, lt=1)
    """Moved to train: who is learnt from."""
    val: float = Field(default=0.1, ge=0, lt=1)
    """Moved to val."""

    @model_validator(mode="after")
    def _some_stay(self) -> "MoveBoxed":
        if self.train + self.val >= 1:
            raise ValueError(f"train {self.train:g} and val {self.val:g} leave no test patient with a box: lower one")
        return self


class BoxedSplit(Settings):
    """Which test patients with a box went where; `sha256` is a function of that alone."""

    sha256: str
    """Of the list of (patient, split)."""
    num_patients: dict[str, int]
    """Of those with a box who were in test: how many are in train, val and test now."""
    moved: tuple[str, ...]
    """Patients who were moved out of test; where they are not to be told, see `data.pseudonyms`."""

    def renamed(self, name: Callable[[str], str]) -> "BoxedSplit":
        """With other names of the patients, and without what tells of few: a digest of few names can be guessed."""
        return BoxedSplit(sha256="", num_patients={}, moved=tuple(sorted(set(map(name, self.moved)))))


def together(splits: Sequence[BoxedSplit]) -> BoxedSplit | None:
    """One record of several: whoever is moved in one of them is moved."""
    if len({split.model_dump_json() for split in splits}) < 2:
        return splits[0] if splits else None
    return BoxedSplit(
        sha256=sha256_text(canonical_json(known)) if (known := sorted({s.sha256 for s in splits} - {""})) else "",
        num_patients={},
        moved=tuple(sorted({patient for split in splits for patient in split.moved})),
    )


def move_boxed(rows: pd.DataFrame, boxed_images: pd.Series, settings: MoveBoxed) -> tuple[pd.Series, BoxedSplit]:
    """The split column with some test patients moved, by a hash of the patient, and the record of it.

    `rows` has image_id, patient_id and split; `boxed_images` are image ids that have a box.
    """
    boxed = rows["image_id"].isin(boxed_images) & (rows["split"] == "test")
    goes = {patient: _drawn(patient, settings) for patient in sorted(rows.loc[boxed, "patient_id"].unique())}
    counts = pd.Series(goes, dtype=object).value_counts()
    record = BoxedSplit(
        sha256=sha256_text(canonical_json(sorted(goes.items()))),
        num_patients={split: int(counts.get(split, 0)) for split in ("train", "val", "test")},
        moved=tuple(patient for patient, split in goes.items() if split != "test"),
    )
    return rows["patient_id"].map(goes).fillna(rows["split"]), record


def _drawn(patient: str, settings: MoveBoxed) -> str:
    draw = unit_hash("boxed", patient)
    if draw < settings.train:
        return "train"
    return "val" if draw < settings.train + settings.val else "test"
