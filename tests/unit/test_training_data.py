"""What a checkpoint says that it learnt from: counted of training images alone, and carried through its bases."""

from pathlib import Path

import pandas as pd
import pytest

from cxr_core.data.findings import NIH
from cxr_core.errors import UserError
from cxr_core.models.training_data import FILE, ImageCounts, TrainingData, images_sha256, read_training_data
from cxr_core.runs.files import write_json
from tests.planted import planted_row


def counted(dataset: str = "a" * 64, base: TrainingData | None = None) -> TrainingData:
    """Patient p has Edema alone, Edema with Mass, and nothing; q has Edema; r of `val` and t of `test` have Edema."""
    both = NIH.encode(["Edema", "Mass"])
    edema = NIH.bit("Edema")
    people = [("p", edema), ("p", both), ("p", 0), ("q", edema)]
    rows = [planted_row(f"{i}", patient_id=patient, labels=labels) for i, (patient, labels) in enumerate(people)]
    rows += [planted_row(f"{split}", patient_id=split, split=split, labels=edema) for split in ("val", "test")]
    return TrainingData.of(pd.DataFrame(rows), NIH, dataset, base)


def test_given_rows_the_training_images_and_patients_of_each_finding_are_counted() -> None:
    found = counted()
    assert (found.images, found.patients) == (4, 2)
    assert found.findings["Edema"] == ImageCounts(images=3, patients=2)
    assert found.findings["Mass"] == ImageCounts(images=1, patients=1)
    assert found.findings["No Finding"] == ImageCounts(images=1, patients=1)
    assert found.findings["Hernia"] == ImageCounts(images=0, patients=0)


def test_given_a_base_each_different_dataset_behind_the_weights_is_told_once() -> None:
    edema = ImageCounts(images=3, patients=2)
    assert counted().of_finding("Edema") == (edema,)
    assert counted(base=counted()).of_finding("Edema") == (edema,)
    assert counted(base=counted("b" * 64, base=counted())).of_finding("Edema") == (edema, edema)
    assert counted().of_finding("Sarcoidosis") is None


def test_given_a_folder_what_was_written_is_read_and_nothing_is_made_up(tmp_path: Path) -> None:
    assert read_training_data(tmp_path) is None
    write_json(tmp_path / FILE, counted(base=counted("b" * 64)).model_dump(mode="json"))
    assert read_training_data(tmp_path) == counted(base=counted("b" * 64))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"images": "many"}'])
def test_given_a_file_of_another_form_it_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=rf"{FILE}: does not say in our form") as error:
        read_training_data(tmp_path)
    assert "remove the file if it is not ours" in str(error.value)


def test_given_images_their_digest_tells_which_were_learnt_from_and_nothing_else() -> None:
    assert counted().images_sha256 == images_sha256(["3", "0", "1", "2"])
    assert counted().images_sha256 != images_sha256(["0", "1", "2"])
