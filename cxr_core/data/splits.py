"""Splits: always whole patients, never images."""

from pathlib import Path

import pandas as pd

from cxr_core.data.csvfile import Csv
from cxr_core.errors import UserError
from cxr_core.seeds import unit_hash


def read_names(path: Path, *, may_be_empty: bool = False) -> pd.Series:
    """Image ids of a text file with one file name a line.

    Raises UserError where it is missing, or where it is empty and may not be.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError("there is no such list", where=str(path), mend="check the path in the config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"not a readable list ({error})", where=str(path)) from error
    names = pd.Series([line.strip() for line in lines], dtype=object)
    names = names[names != ""].str.replace(r"\.png$", "", regex=True, case=False)
    if names.empty and not may_be_empty:
        raise UserError("the list is empty", where=str(path))
    return names.reset_index(drop=True)


def official_split(csv: Csv, ids: pd.Series, *, train_val: Path, test: Path) -> pd.Series:
    """ "train" or "test" for each image by NIH's two lists. Raises UserError for an image in none or in both.

    One of them may be empty: a synthetic Dataset in NIH's layout has no test images.
    """
    train_names, test_names = (set(read_names(path, may_be_empty=True)) for path in (train_val, test))
    both = sorted(train_names & test_names)
    if both:
        raise UserError(
            f"image {both[0]!r} is in both lists", where=f"{train_val} and {test}", mend="remove it from one"
        )
    is_test = ids.isin(test_names)
    csv.refuse(
        ~(is_test | ids.isin(train_names)),
        ids,
        f"a row without a split: neither {train_val.name} nor {test.name} has it",
        "add it to one of them, or remove the row",
    )
    return is_test.map({True: "test", False: "train"})


def hashed_split(patients: pd.Series, *, test: float) -> pd.Series:
    """ "train" or "test" for each row by a hash of its patient; about a share `test` of the patients is test."""
    drawn = {patient: "test" if unit_hash("test", patient) < test else "train" for patient in patients.unique()}
    return patients.map(drawn)


def carve_validation(rows: pd.DataFrame, share: float) -> pd.Series:
    """The split column with about `share` of the training patients moved to "val", unless there is a "val" already."""
    split = rows["split"]
    if share == 0 or (split == "val").any():
        return split
    patients = rows.loc[split == "train", "patient_id"].unique()
    chosen = {patient for patient in patients if unit_hash("validation", patient) < share}
    return split.mask((split == "train") & rows["patient_id"].isin(chosen), "val")


def check_disjoint(rows: pd.DataFrame, path: Path) -> None:
    """Raise UserError for a patient with images in two splits, naming one image of each."""
    num_splits = rows.groupby("patient_id", sort=False)["split"].nunique()
    shared = num_splits[num_splits > 1].index
    if len(shared):
        images = rows[rows["patient_id"] == shared[0]].drop_duplicates("split")
        said = ", ".join(
            f"{image} in {split}" for image, split in zip(images["image_id"], images["split"], strict=True)
        )
        raise UserError(
            f"patient {shared[0]!r} is in two splits: {said} ({len(shared)} such patients)",
            where=str(path),
            mend="put all images of a patient into one split",
        )


def choose_patients(rows: pd.DataFrame, num_images: int | None) -> pd.DataFrame:
    """At most `num_images` rows: whole patients in the order of a hash, until the next would not fit.

    The first patient is taken whole even where it alone has more.
    """
    if num_images is None or len(rows) <= num_images:
        return rows
    num_of = rows["patient_id"].value_counts()
    order = sorted(num_of.index, key=lambda patient: unit_hash("choose", patient))
    num_fitting = int((num_of[order].cumsum() <= num_images).sum())
    return rows[rows["patient_id"].isin(order[: max(1, num_fitting)])]
