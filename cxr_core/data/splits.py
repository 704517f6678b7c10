"""Splits: always whole patients, never images."""

from pathlib import Path

import pandas as pd

from cxr_core.data.csvfile import Csv
from cxr_core.data.identity import persons, similar
from cxr_core.data.lists import look_up, read_list, unmatched_note
from cxr_core.data.positions.split import BoxedSplit, move_boxed
from cxr_core.data.problems import decide_all, problem_frame
from cxr_core.data.settings import Policies, PreprocessStage, TableData
from cxr_core.errors import UserError
from cxr_core.seeds import unit_hash


def official_split(csv: Csv, rows: pd.DataFrame, *, train_val: Path, test: Path) -> tuple[pd.Series, list[str]]:
    """ "train" or "test" for each image (see `look_up`) by NIH's two lists, and lines on entries without an image.

    Raises UserError for an image in none or in both. One of the lists may be empty.
    """
    lists = [look_up(path, rows, read_list(path, may_be_empty=True)) for path in (train_val, test)]
    in_train, in_test = (listed.named for listed in lists)
    ids = rows["image_id"]
    both = ids[in_train & in_test]
    if len(both):
        raise UserError(
            f"image {min(both)!r} is in both lists", where=f"{train_val} and {test}", hint="remove it from one"
        )
    csv.refuse(
        ~(in_test | in_train),
        ids,
        f"a row without a split: neither {train_val.name} nor {test.name} has it",
        "add it to one of them, or remove the row",
    )
    split = in_test.map({True: "test", False: "train"})
    return split, [line for listed in lists for line in unmatched_note(listed)]


def one_person(rows: pd.DataFrame, path: Path, policies: Policies) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows in which spellings of what is probably one patient are one `patient_id`, beside `spelled`, as given; and a
    problem for each such patient. Raises UserError where the policy is fail."""
    groups = similar(rows["patient_id"])
    first = rows.drop_duplicates("patient_id").set_index("patient_id").loc[[names[0] for names in groups]]
    details = [f"patients {' and '.join(map(repr, names))} are probably one" for names in groups]
    found = problem_frame(
        "similar_patients", first["image_id"], [f"{path}, row {row}" for row in first["row"]], details, ""
    )
    found = decide_all(policies, found)
    if policies.similar_patients == "convert":
        return rows.assign(spelled=rows["patient_id"], patient_id=persons(rows["patient_id"], groups)), found.assign(
            action="one patient to every split"
        )
    return rows.assign(spelled=rows["patient_id"]), found


def split_patients(
    rows: pd.DataFrame, boxes: pd.DataFrame, path: Path, settings: PreprocessStage
) -> tuple[pd.DataFrame, BoxedSplit | None]:
    """The rows, each in train, val or test, and who was moved. Raises UserError for a patient in two splits."""
    if isinstance(settings.data, TableData) and settings.data.columns.split is None:
        rows = rows.assign(split=hashed_split(rows["patient_id"], test=settings.data.test_share))
    check_disjoint(rows, path)
    rows = rows.assign(split=carve_validation(rows, settings.validation_share))
    if settings.move_boxed is None:
        return rows, None
    split, boxed = move_boxed(rows, boxes["image_id"], settings.move_boxed)
    moved = rows.loc[rows["patient_id"].isin(boxed.moved), "spelled"].unique()
    return rows.assign(split=split), boxed.model_copy(update={"moved": tuple(sorted(moved))})


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
    """Raise UserError for a patient with images in two splits, naming one image of each.

    `spelled`, if the rows have it, is how the table writes each patient.
    """
    num_splits = rows.groupby("patient_id", sort=False)["split"].nunique()
    shared = num_splits[num_splits > 1].index
    if len(shared):
        images = rows[rows["patient_id"] == shared[0]].drop_duplicates("split")
        spelled = images.get("spelled", images["patient_id"])
        said = ", ".join(
            f"{image} in {split}" + (f" (patient {name!r})" if spelled.nunique() > 1 else "")
            for image, split, name in zip(images["image_id"], images["split"], spelled, strict=True)
        )
        hint = "put all images of a patient into one split"
        if spelled.nunique() > 1:
            hint += "; if these are different people, say `policies: {similar_patients: keep}`"
        raise UserError(
            f"patient {shared[0]!r} is in two splits: {said} ({len(shared)} such patients)",
            where=str(path),
            hint=hint,
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
