"""Who is X-rayed and what they have: a table with the imbalances, the habits and the shortcuts of ChestX-ray14."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from cxr_core.data.findings import NIH, NIH_FINDINGS
from cxr_core.data.phantom.case import Case, Sign, stream
from cxr_core.data.phantom.signs import box_of
from cxr_core.errors import UserError

NO_FINDING_SHARE = 0.54
NUM_FINDINGS_SHARES = (0.60, 0.275, 0.095, 0.03)
"""Shares of 1, 2, 3 and 4 findings among images with any (112,120 rows of Data_Entry_2017_v2020.csv, rounded)."""

PREVALENCE = {
    "Atelectasis": 0.103,
    "Cardiomegaly": 0.028,
    "Effusion": 0.119,
    "Infiltration": 0.177,
    "Mass": 0.052,
    "Nodule": 0.056,
    "Pneumonia": 0.020,
    "Pneumothorax": 0.047,
    "Consolidation": 0.042,
    "Edema": 0.028,
    "Emphysema": 0.024,
    "Fibrosis": 0.020,
    "Pleural_Thickening": 0.030,
    "Hernia": 0.008,
}
"""Shares of the images of ChestX-ray14, the rare ones raised so that a few thousand phantoms hold some of each."""

AP_SHARE = {
    "Atelectasis": 0.473,
    "Cardiomegaly": 0.335,
    "Effusion": 0.442,
    "Infiltration": 0.443,
    "Mass": 0.349,
    "Nodule": 0.317,
    "Pneumonia": 0.466,
    "Pneumothorax": 0.317,
    "Consolidation": 0.603,
    "Edema": 0.856,
    "Emphysema": 0.386,
    "Fibrosis": 0.125,
    "Pleural_Thickening": 0.227,
    "Hernia": 0.142,
}
"""Share of AP views among a finding's images in NIH's train_val list."""
NO_FINDING_AP_SHARE, OVERALL_AP_SHARE = 0.317, 0.40

LIFTS = {
    ("Atelectasis", "Consolidation"): 2.5,
    ("Atelectasis", "Effusion"): 2.4,
    ("Cardiomegaly", "Edema"): 2.2,
    ("Cardiomegaly", "Effusion"): 3.2,
    ("Cardiomegaly", "Pneumothorax"): 0.4,
    ("Consolidation", "Effusion"): 2.3,
    ("Consolidation", "Mass"): 2.5,
    ("Consolidation", "Pneumonia"): 2.1,
    ("Edema", "Effusion"): 2.2,
    ("Edema", "Emphysema"): 0.1,
    ("Edema", "Infiltration"): 2.4,
    ("Edema", "Pneumonia"): 11.6,
    ("Edema", "Pneumothorax"): 0.3,
    ("Effusion", "Pleural_Thickening"): 2.1,
    ("Emphysema", "Pneumothorax"): 6.3,
    ("Emphysema", "Pleural_Thickening"): 2.0,
    ("Fibrosis", "Pleural_Thickening"): 3.5,
    ("Fibrosis", "Hernia"): 2.3,
    ("Infiltration", "Pneumonia"): 2.4,
    ("Mass", "Nodule"): 2.8,
    ("Mass", "Pleural_Thickening"): 2.6,
    ("Nodule", "Pleural_Thickening"): 2.2,
}
"""How much oftener than by chance two findings of ChestX-ray14 meet; 1.2 where nothing is said."""

TEST_SHARE = 0.228
"""Share of images in NIH's test_list.txt."""

STAY = 0.35
"""Chance that a follow-up shows the findings of the visit before."""

_SIDES = {
    "Cardiomegaly": (("midline", 1.0),),
    "Hernia": (("midline", 1.0),),
    "Edema": (("both", 1.0),),
    "Emphysema": (("both", 1.0),),
    "Effusion": (("left", 0.36), ("right", 0.36), ("both", 0.28)),
    "Fibrosis": (("both", 0.7), ("left", 0.15), ("right", 0.15)),
    "Infiltration": (("both", 0.4), ("left", 0.3), ("right", 0.3)),
    "Pleural_Thickening": (("both", 0.2), ("left", 0.4), ("right", 0.4)),
}


def population(
    num_images: int, *, seed: int, view_confounding: bool = True, findings: Sequence[str] = NIH_FINDINGS
) -> pd.DataFrame:
    """A table of `num_images` phantoms, one row an image, sorted by image_id; the same arguments give the same table.

    Columns: image_id ("00000001_000"), image (its file name), patient_id (eight digits), follow_up, labels (bits of
    `cxr_core.data.findings.NIH`), view ("PA" or "AP"), age (years), sex ("M" or "F"), split ("train_val" or "test", by
    patient), signs (a list of dicts, the fields of `Sign`). Shares are those of ChestX-ray14 (Wang et al., CVPR 2017).

    `view_confounding=False` draws the view whatever the findings; with it 85.6 % of Edema are AP and 31.7 % of
    No Finding. The sick have some of `findings`, in the proportions that these have among all.
    Raises UserError for less than one image.
    """
    if num_images < 1:
        raise UserError(f"a population needs at least one image, not {num_images}", hint="ask for 1 or more")
    counts = _images_per_patient(num_images, seed)
    test = _test_patients(counts, seed)
    rows = []
    for number, count in enumerate(counts, start=1):
        split = "test" if number - 1 in test else "train_val"
        rows += _patient_rows(seed, f"{number:08d}", count, split, view_confounding, findings)
    return pd.DataFrame(rows)


def cases(table: pd.DataFrame, *, seed: int) -> list[Case]:
    """The cases of all rows of a table that `population(..., seed=seed)` returned, in its order."""
    return [Case.from_row(row, seed=seed) for row in table.to_dict("records")]


def _images_per_patient(num_images: int, seed: int) -> list[int]:
    """57 % have one image, the rest 2 to 120 with a long tail, mean 3.6; nobody more than a twentieth of all."""
    rng, most = stream(seed, "counts"), max(1, num_images // 20)
    counts: list[int] = []
    while (left := num_images - sum(counts)) > 0:
        many = 2 + min(int(2.2 * rng.pareto(1.15)), 118)
        counts.append(min(1 if rng.random() < 0.57 else many, most, left))
    return counts


def _test_patients(counts: list[int], seed: int) -> frozenset[int]:
    """Indices of the patients in the test list, who have more images than others, as in NIH's lists."""
    keys = stream(seed, "split").exponential(size=len(counts)) / np.sqrt(counts)
    target, total = TEST_SHARE * sum(counts), 0
    chosen: list[int] = []
    for index in np.argsort(keys, kind="stable").tolist():
        if total + counts[index] <= target or (not chosen and len(counts) > 1):
            chosen.append(index)
            total += counts[index]
    return frozenset(chosen)


def _patient_rows(
    seed: int, patient_id: str, count: int, split: str, view_confounding: bool, findings: Sequence[str]
) -> list[dict[str, object]]:
    rng = stream(seed, patient_id, "history")
    sex = "M" if rng.random() < 0.565 else "F"
    age = float(np.clip(rng.normal(46.6, 16.6), 5, 92))
    signs: tuple[Sign, ...] = ()
    rows = []
    for follow_up in range(count):
        signs = _next_signs(signs, follow_up, findings, rng)
        view = _view(signs, view_confounding, rng)
        case = Case(seed, f"{patient_id}_{follow_up:03d}", view, min(int(age), 95), sex, signs)
        rows.append(_row(case, follow_up, split))
        age += rng.exponential(0.3)
    return rows


def _row(case: Case, follow_up: int, split: str) -> dict[str, object]:
    boxed = []
    for sign in case.signs:
        x, y, w, h = box_of(case, sign)
        boxed.append(asdict(replace(sign, x=x, y=y, w=w, h=h)))
    return {
        "image_id": case.image_id,
        "image": f"{case.image_id}.png",
        "patient_id": case.patient_id,
        "follow_up": follow_up,
        "labels": NIH.encode(sign.finding for sign in case.signs),
        "view": case.view,
        "age": case.age,
        "sex": case.sex,
        "split": split,
        "signs": boxed,
    }


def _next_signs(
    signs: tuple[Sign, ...], follow_up: int, findings: Sequence[str], rng: np.random.Generator
) -> tuple[Sign, ...]:
    """Either the findings of the visit before, a little better or worse, or others; both have the same shares."""
    if follow_up and rng.random() < STAY:
        return tuple(replace(s, severity=_severity(s.severity + rng.normal(0, 0.12))) for s in signs)
    if rng.random() < NO_FINDING_SHARE:
        return ()
    return tuple(sign for finding in _findings(findings, rng) for sign in _new_signs(finding, follow_up, rng))


def _findings(possible: Sequence[str], rng: np.random.Generator) -> list[str]:
    found: list[str] = []
    weights = np.array([_WEIGHTS[f] * (f in possible) for f in NIH_FINDINGS])
    for _ in range(min(1 + int(rng.choice(4, p=NUM_FINDINGS_SHARES)), len(possible))):
        found.append(NIH_FINDINGS[int(rng.choice(len(weights), p=weights / weights.sum()))])
        weights = weights * [0 if f in found else _lift(found[-1], f) for f in NIH_FINDINGS]
    return sorted(found)


def _lift(one: str, other: str) -> float:
    return LIFTS.get((one, other), LIFTS.get((other, one), 1.2))


def _new_signs(finding: str, follow_up: int, rng: np.random.Generator) -> list[Sign]:
    sides, chances = zip(*_SIDES.get(finding, (("left", 0.46), ("right", 0.54))), strict=True)
    side, severity = str(rng.choice(sides, p=chances)), _severity(rng.uniform(0.25, 1.0))
    if finding == "Effusion" and side == "both":
        other = _severity(severity + rng.normal(0, 0.2))
        return [Sign(finding, severity, "right", follow_up), Sign(finding, other, "left", follow_up)]
    return [Sign(finding, severity, side, follow_up)]


def _severity(value: float) -> float:
    return round(min(max(value, 0.15), 1.0), 3)


def _view(signs: tuple[Sign, ...], view_confounding: bool, rng: np.random.Generator) -> str:
    """The finding that most often keeps a patient in bed decides."""
    share = max((AP_SHARE[s.finding] for s in signs), default=NO_FINDING_AP_SHARE)
    return "AP" if rng.random() < (share if view_confounding else OVERALL_AP_SHARE) else "PA"


_WEIGHTS = {f: PREVALENCE[f] for f in NIH_FINDINGS}
