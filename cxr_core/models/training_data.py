"""What a generator has learnt from: `training_data.json` beside the components of a checkpoint that we export.

It lies outside the components that `weights_sha256` covers, so it changes no digest of weights.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import ValidationError

from cxr_core.boundary import FEWEST_PATIENTS, withheld_findings
from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.data.positions.split import BoxedSplit, together
from cxr_core.data.pseudonyms import enough, unnamed
from cxr_core.errors import UserError
from cxr_core.runs.door import read_bytes
from cxr_core.runs.files import sha256_text
from cxr_core.settings import Settings

FILE = "training_data.json"


class ImageCounts(Settings):
    """How much of something was among the training images."""

    images: int
    """Real images."""
    patients: int
    """Patients of these images."""


class TrainingData(Settings):
    """The whole of training_data.json."""

    images: int | None
    """Real images. Null in what was given away: they are of fewer than 10 patients."""
    patients: int | None
    """Patients of these images."""
    format: Literal[1] = 1
    """Version of this form."""
    dataset: str
    """Digest of the Dataset whose train split was learnt from."""
    images_sha256: str | None = None
    """`images_sha256` of the training images. Null: not told by who wrote this, or it would tell who was moved."""
    findings: dict[str, ImageCounts]
    """Of each finding of the vocabulary, alone or among others, and of No Finding."""
    withheld: tuple[str, ...] = ()
    """Findings that are missing in `findings` of what was given away: few patients have them, see `boundary`."""
    boxed_split: BoxedSplit | None = None
    """Of a Dataset for which test patients with a bounding box were moved to train and val: who they are."""
    base: "TrainingData | None" = None
    """What the weights that training started from had learnt from, where these say so."""

    @classmethod
    def of(
        cls,
        rows: pd.DataFrame,
        findings: Findings,
        dataset: str,
        base: "TrainingData | None",
        boxed_split: BoxedSplit | None = None,
    ) -> "TrainingData":
        """Count training images: `rows` has patient_id, split and labels; rows of other splits are left out."""
        train = rows[rows["split"] == "train"]
        bits = {name: findings.bit(name) for name in findings.names}
        seen = {name: _seen(train[train["labels"] & bit != 0]) for name, bit in bits.items()}
        seen[NO_FINDING] = _seen(train[train["labels"] == 0])
        return cls(
            **dict(_seen(train)),
            dataset=dataset,
            images_sha256=images_sha256(train["image_id"]),
            findings=seen,
            boxed_split=boxed_split,
            base=base,
        )

    def renamed(self, name: Callable[[str], str]) -> "TrainingData":
        """With other names of moved patients, see `BoxedSplit.renamed`."""
        split = self.boxed_split.renamed(name) if self.boxed_split else None
        return self.model_copy(update={"boxed_split": split, "base": self.base and self.base.renamed(name)})

    def public(self, name: Callable[[str], str] = unnamed) -> "TrainingData":
        """As it may leave: moved patients by another `name`, and no count of few patients, nor one from which such a
        count follows. A base that learnt from the same Dataset adds no counts, since differences tell of few."""
        base, splits = self.base, [self.boxed_split] if self.boxed_split else []
        while base and base.dataset == self.dataset:
            splits += [base.boxed_split] if base.boxed_split else []
            base = base.base
        hidden = self._few() | {*self.withheld}
        few = (self.patients or 0) < FEWEST_PATIENTS
        split = together([one.renamed(name) for one in splits])
        split = split and split.model_copy(update={"moved": enough(split.moved, name)})
        changed = {
            **({"images": None, "patients": None} if few else {}),
            # All others being known, a digest of images tells which few patients were moved to them.
            **({"images_sha256": None} if few or (split and split.moved) else {}),
            "findings": {finding: seen for finding, seen in self.findings.items() if finding not in hidden},
            "withheld": tuple(finding for finding in [*self.findings, *self.withheld] if finding in hidden),
            "boxed_split": split,
            "base": base.public(name) if base else None,
        }
        return self.model_copy(update=changed)

    def _few(self) -> frozenset[str]:
        patients = {finding: seen.patients for finding, seen in self.findings.items()}
        images = {finding: seen.images for finding, seen in self.findings.items()}
        return withheld_findings(patients, images, self.images or 0, NO_FINDING)

    @property
    def words(self) -> str:
        """For people, without the findings."""
        if self.images is None:
            return f"real images of fewer than {FEWEST_PATIENTS} patients (Dataset {self.dataset[:16]})"
        return f"{self.images:,} real images of {self.patients:,} patients (Dataset {self.dataset[:16]})"

    @property
    def chain(self) -> tuple["TrainingData", ...]:
        """This training, and those that it started from."""
        return (self, *(self.base.chain if self.base else ()))

    def of_finding(self, name: str) -> tuple[ImageCounts, ...] | None:
        """How much of a finding was seen: one entry for each different Dataset, from this training back to its bases.

        None if the finding is in the vocabulary of none or not of all of them, so that the numbers are unknown.
        """
        chain: dict[str, ImageCounts | None] = {}
        for step in self.chain:
            chain.setdefault(step.dataset, step.findings.get(name))
        known = tuple(seen for seen in chain.values() if seen is not None)
        return known if len(known) == len(chain) else None

    @property
    def boxed_splits(self) -> tuple[BoxedSplit, ...]:
        """Of this training and its bases: whose moved test patients were learnt from."""
        return tuple(step.boxed_split for step in self.chain if step.boxed_split)

    @property
    def barred(self) -> frozenset[str]:
        """Official test patients who were learnt from, by this training or its bases: no test may be made on them."""
        return frozenset(patient for split in self.boxed_splits for patient in split.moved)


def read_training_data(checkpoint: Path) -> TrainingData | None:
    """What the checkpoint says it learnt from, or None if it does not say.

    Raises UserError naming the file if it is there and not of this form.
    """
    path = checkpoint / FILE
    if not path.is_file():
        return None
    try:
        return TrainingData.model_validate_json(read_bytes(path))
    except (OSError, ValidationError) as error:
        raise UserError(
            f"does not say in our form what the model learnt from ({error})",
            where=str(path),
            hint="remove the file if it is not ours: what the model learnt from is then unknown, and shown so",
        ) from error


def images_sha256(image_ids: Iterable[str]) -> str:
    """sha256 over image ids, whatever their order: which images of a Dataset, in one number."""
    return sha256_text("\n".join(sorted(image_ids)))


def _seen(rows: pd.DataFrame) -> ImageCounts:
    return ImageCounts(images=len(rows), patients=int(rows["patient_id"].nunique()))
