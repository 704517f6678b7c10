"""The section on memorisation: what was found, what could not be, and what was refused, each in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_core.data.findings import NIH
from cxr_core.data.png import encode_grey
from cxr_core.evaluation.memorisation.results import (
    CopyPair,
    MemorisationResult,
    Nearest,
    Nearness,
    Planted,
    ReidentificationResult,
    TargetedResult,
)
from cxr_core.evaluation.metrics import FILE, Interval
from cxr_core.report.write import write_report
from cxr_core.runs.files import read_json, write_json
from tests.unit import report_run
from tests.unit.test_report import Page


def interval(value: float, half: float = 0.01) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def near(name: str, **changes: Any) -> Nearness:
    bins = tuple(range(40))
    sides = [
        Nearest(what=what, num_images=num, num_patients=patients, median=0.8, high=0.9, most=0.95, histogram=bins)
        for what, num, patients in (("synthetic", 500, None), ("held-out", 2000, 700), ("training", 900, 300))
    ]
    whole = dict(zip(("synthetic", "held_out", "train"), sides, strict=True))
    told = {"threshold": interval(0.93), "num_above": 5, "share_above": interval(0.01, 0.004), "alarm": True}
    return Nearness(name=name, lowest=0.3, **whole, **(told | changes))


def result(**changes: Any) -> MemorisationResult:
    given: dict[str, Any] = {
        "num_train": 5000,
        "num_train_patients": 1500,
        "percentile": 99.9,
        "near_identical": 0.98,
        "num_left_out": 3,
        "embeddings": (
            near("spectra"),
            near("our judge (small)", threshold=None, share_above=None, not_computed="n = 9"),
        ),
        "pixels": near("pixels, aligned"),
        "planted": (Planted(kind="mirrored", num_images=200, recall=0.97),),
        "pairs": (
            CopyPair(
                synthetic="syn-1",
                training="t-7",
                patient="p-3",
                score=0.97,
                mirrored=True,
                right=-2,
                down=1,
                flagged=True,
            ),
        ),
        "num_flagged": 5,
        "picture": "pairs.png",
    }
    return MemorisationResult(**(given | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_run.full_run(tmp_path_factory.mktemp("runs") / "tiny", NIH).root


def page_of(run: Path, found: MemorisationResult, *, picture: bytes | None = None) -> str:
    path = run / "study" / FILE
    write_json(path, read_json(path) | {"memorisation": found.model_dump(mode="json")})
    (run / "study" / "pairs.png").write_bytes(picture or encode_grey(np.zeros((8, 8), np.uint8)))
    return Page(write_report(run).read_text()).text


def test_given_copies_then_verdict_shares_trial_and_pairs_stand_beside_what_real_patients_have(run: Path) -> None:
    text = page_of(run, result())
    for expected in (
        "of synthetic images align with a training image",
        "more than the 0.1 % of real patients",
        "all 5,000 training images of 1,500 patients, exactly",
        "0.9300 (0.9200 to 0.9400)",
        "1.00 % (0.60 to 1.40 %)",
        "our judge (small): no threshold, n = 9.",
        "500 synthetic, 2,000 (700 patients) held-out, 900 (300 patients) training",
        "3 real images had a second name",
        "of 200 planted copies of each kind it found 97 % of mirrored ones",
        "5 in all are beyond the percentile",
        "mirrored, shifted −2, +1",
        "0.970 *",
    ):
        assert expected in text


def test_given_targeted_and_reidentification_then_each_says_what_it_found_or_why_nothing(run: Path) -> None:
    counts = {"max_images": 5, "num_rare": 300, "num_asked": 20, "num_images": 320, "num_matched": 9}
    told = TargetedResult(**counts, rare=0.91, common=0.7, difference=interval(0.21), extracted=2)
    person = {"num_patients": 800, "num_same": 150, "num_other": 150, "min_auroc": 0.7, "false_matches": 0.01}
    passed = ReidentificationResult(**person, auroc=interval(0.9), true_matches=0.4, matches=near("siamese network"))
    text = page_of(run, result(targeted=told, reidentification=passed))
    for expected in (
        "300 captions (labels and view) are held by at most 5 training images; 20 of them were asked for",
        "a difference of 0.210 (0.200 to 0.220). Rare captions give their images away.",
        "Of 2 rare captions a synthetic image is a copy of one of its own.",
        "AUROC 0.900 (0.890 to 0.910)",
        "Where 1 % of held-out images match a training patient by mistake, 1.00 % (0.60 to 1.40 %) of synthetic images",
        "more than other patients do. It finds 40 % of held-out images’ own.",
    ):
        assert expected in text
    few = TargetedResult(**counts, not_computed="n = 2 rare captions")
    refused = ReidentificationResult(**person, auroc=interval(0.6), refused="AUROC 0.60 is below 0.70")
    text = page_of(run, result(targeted=few, reidentification=refused))
    assert "Not computed: n = 2 rare captions." in text
    assert "Refused: AUROC 0.60 is below 0.70." in text


def test_given_a_damaged_picture_then_the_report_names_it(run: Path) -> None:
    assert "study/pairs.png: is no picture (not a PNG file" in page_of(run, result(), picture=b"nothing")
