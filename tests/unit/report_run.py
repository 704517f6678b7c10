"""Builds small run folders through the writers that real runs use, for the tests of the report."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr_core.data.dataset import ShardWriter, pixel_sha256, write_index
from cxr_core.data.findings import Findings
from cxr_core.data.png import encode_grey
from cxr_core.data.problems import problem, write_problems
from cxr_core.evaluation.faithfulness import judge_synthetic
from cxr_core.evaluation.metrics import FILE, FaithfulnessResult, Metrics
from cxr_core.evaluation.settings import Faithfulness
from cxr_core.runs.attempt import Attempt
from cxr_core.runs.commit import commit, place
from cxr_core.runs.files import write_json
from cxr_core.runs.plan import Plan, Shard, slices
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.run import Run, StageFolder

SIZE = 32
PROMPTS = ["frontal chest x-ray, PA view, no finding", "frontal chest x-ray, AP view, edema"]

CONFIG = {
    "format": 1,
    "name": "tiny",
    "seed": 7,
    "stages": [
        {"name": "real", "kind": "preprocess", "inputs": {}, "size": SIZE},
        {"name": "fine", "kind": "train", "model": "diffusion", "inputs": {}, "steps": 40, "batch_size": 4},
        {"name": "drawn", "kind": "generate", "inputs": {"model": "fine", "like": "real"}},
        {"name": "study", "kind": "evaluate", "inputs": {"real": "real", "synthetic": "drawn"}},
    ],
}


def empty_run(root: Path, **changes: Any) -> Run:
    """A run of which nothing has been worked on."""
    with Run.locked(root, CONFIG | changes) as run:
        return run


def add_real(run: Run, findings: Findings, *, stage: str = "real", file: str = "images/a.png") -> None:
    """36 images of 12 patients; image i has finding i modulo their number, every twelfth none; one has a box."""
    rows = [_row(f"{i // 3:08d}_{i % 3:03d}", i, findings) for i in range(36)]
    rows[0]["boxes"] = [{"finding": findings.names[0], "x": 4.0, "y": 6.0, "w": 10.0, "h": 12.0}]
    folder = run.stage(stage)
    _add_dataset(folder, rows, findings, synthetic=False, about={"source": {"kind": "table", "csv": file}})
    found = [problem("rgba", f"image{i}", file, "alpha 255 everywhere", "converted") for i in range(23)]
    write_problems(folder.path / "problems.csv", found)


def add_training(run: Run, *, num_done: int = 4, rising: bool = False) -> None:
    """`num_done` of 4 checkpoint intervals of 10 steps; with all of them the stage is finished.

    The validation loss falls, or rises.
    """
    folder, shards = run.stage("fine"), slices(40, 10)
    Plan("fine", shards, "f" * 64, chain=True).write(_made(folder) / "plan.jsonl")
    with Attempt(folder.path, "pid1-0-aaaaaa") as attempt:
        receipts = [_train(folder, attempt, shard, rising=rising) for shard in shards[:num_done]]
    if num_done == len(shards):
        _finish(folder, receipts[-1].digest)


def add_synthetic(run: Run, findings: Findings) -> None:
    """12 synthetic images, all with the first finding."""
    change = {"patient_id": "", "split": "synthetic", "age": None, "sex": "", "follow_up": None, "boxes": []}
    made = {"labels": 1, "seed": 5, "generation": '{"steps":15}', "source_sha256": ""}
    rows = [_row(f"drawn-{i}", i, findings) | change | made for i in range(12)]
    _add_dataset(run.stage("drawn"), rows, findings, synthetic=True, about={})


def add_study(
    run: Run, *, stage: str = "study", finding: str = "Edema", sheet: np.ndarray | None = None, **changes: Any
) -> None:
    """One experiment with numbers, one without, one picture and one finding without a picture."""
    folder = run.stage(stage)
    (_made(folder) / "shards").mkdir()
    (folder.path / "shards" / "grid.png").write_bytes(encode_grey(_film(3, 3 * SIZE) if sheet is None else sheet))
    write_json(folder.path / FILE, metrics(finding).model_dump(mode="json") | changes)
    _finish(folder, "e" * 64)


def full_run(root: Path, findings: Findings) -> Run:
    """A run with every stage finished."""
    run = empty_run(root)
    add_real(run, findings)
    add_training(run)
    add_synthetic(run, findings)
    add_study(run, finding=findings.names[0])
    return run


def metrics(finding: str) -> Metrics:
    """What an evaluate stage of three experiments found: repaired, leaky, and one that lacks images."""
    views = {"PA": {"with": 6, "without": 6}, "AP": {"with": 44, "without": 44}}
    unmatched = {"PA": {"with": 10, "without": 30}, "AP": {"with": 40, "without": 20}}
    test = {"num_images": 100, "num_patients": 61, "views": views}
    common = {"negatives": "No Finding", "rule": "any", "image_size": SIZE, "augment": "study", "epochs": 3}
    common |= {"finding": finding, "available": {"real train with": 49}, "counts": "in_all", "num_images": 128}
    repaired = common | {"protocol": "repaired", "match_views": True}
    arms = [
        _arm("real", 128, 0, 0.78) | _matched(0.79),
        _arm("mixed", 64, 64, 0.74) | _matched(0.75) | {"generator_saw": SEEN},
        _arm("half", 64, 0, 0.66) | _matched(0.67),
        _arm("doubled", 64, 0, 0.53) | _matched(0.69),
    ]
    leaky = common | {"protocol": "as_written", "match_views": False, "counts": "per_class", "arms": LEAKY_ARMS}
    leaky |= {"test": test | {"num_shared_patients": 7, "views": unmatched}}
    worth = {"value_of_synthetic": _scores(0.06, 0.1), "value_at_equal_epochs": _scores(0.08, 0.02)}
    lacking = {"arm": "real", "num_real": 0, "num_synthetic": 0, "num_real_patients": 0, "not_run": "49 of 500"}
    value = {
        "format": 1,
        "real": {"digest": "a" * 64, "num_images": 36, "size": SIZE},
        "synthetic": {"digest": "b" * 64, "num_images": 12, "size": SIZE},
        "fidelity": fidelity(),
        "grids": [
            {"finding": finding, "path": "shards/grid.png", "num_columns": 3},
            {"finding": "Hernia", "path": None, "num_columns": 0},
        ],
        "utility": [
            repaired | worth | {"test": test, "arms": arms},
            leaky | {"value_of_synthetic": _scores(-0.2, 0.1)},
            repaired | {"num_images": 1000, "test": test, "arms": [lacking]},
        ],
    }
    return Metrics.model_validate(
        value
        | {"faithfulness": faithfulness(finding), "calibration": calibration(finding), "benefit": [benefit(finding)]}
    )


def calibration(finding: str) -> dict[str, Any]:
    """Scores too sure on synthetic images; a finding without real images enough; a group of few patients."""
    side = {"num_with": 40, "num_without": 60, "auroc": _interval(0.8), "brier": _interval(0.2), "ece_floor": 0.031}
    side |= {"bins": [{"num_images": 50, "score": 0.2, "share": 0.1}, {"num_images": 50, "score": 0.8, "share": 0.7}]}
    told = {"real": side | {"ece": _interval(0.1)}, "synthetic": side | {"ece": _interval(0.3)}}
    few = {"finding": "Hernia", "real_not_computed": "3 images", "synthetic_not_computed": "refused"}
    group = {"by": "sex", "group": "F", "finding": finding, "num_with": 30, "num_without": 70, "num_patients": 50}
    groups = [group | {"auroc": _interval(0.75)}, group | {"group": "M", "not_computed": "3 images"}]
    return {"split": "test", "unweighted": True, "findings": [{"finding": finding, **told}, few], "groups": groups}


def benefit(finding: str) -> dict[str, Any]:
    """An arm that adds, one that could not be run, a rate that is a bound, and a group of too few patients."""
    arms = [("real", 128, 0), ("replace-50", 64, 64), ("synthetic", 0, 0), ("real-25", 32, 0), ("real-50", 64, 0)]
    learnt = [
        {"arm": arm, "num_real": real, "num_real_patients": real // 2, "num_synthetic": made, "num_unlike": 0}
        | {"num_with": {finding: (real + made) // 2}, "generator_saw": "1,240 real images" if made else None}
        for arm, real, made in arms
    ]
    learnt[2]["not_run"] = "synthetic images: 12 of 128"
    tested = [{"finding": finding, "num_with": 60, "num_without": 140, "num_patients_with": 41}]
    tested.append({"finding": "Hernia", "num_with": 2, "num_without": 9, "num_patients_with": 1})
    tested[1]["not_computed"] = "2 test images with Hernia, 20 are needed"
    aurocs = [
        {"arm": arm, "finding": name, "auroc": _interval(value), "seeds": [value]}
        for arm, value in (("real", 0.78), ("replace-50", 0.74), ("real-25", 0.61), ("real-50", 0.70))
        for name in (finding, "macro")
    ]
    compared = {"arm": "replace-50", "against": "real", "finding": "macro", "difference": _interval(-0.04, 0.02)}
    groups = [{"by": "sex", "group": "F", "finding": finding, "num_with": 30, "num_without": 70, "num_patients": 50}]
    groups.append(groups[0] | {"group": "M", "num_with": 4, "not_computed": f"4 test images with {finding}"})
    groups[0] |= {"aurocs": {"replace-50": _interval(0.75)}, "difference": _interval(0.03)}
    table = {
        "labels": "as recorded",
        "num_images": 200,
        "num_patients": 120,
        "findings": tested,
        "primary": compared | {"against": "real-50", "difference": _interval(0.04), "p": 0.012, "p_holm": None},
        "aurocs": aurocs,
        "comparisons": [compared | {"p": 0.001, "p_holm": 0.004}],
        "exchange": [
            {"arm": "replace-50", "finding": "macro", "rate": _interval(0.4, 0.3), "high_is_bound": True},
            {"arm": "replace-50", "finding": finding, "not_computed": "the learning curve is flat within noise"},
        ],
        "groups": groups,
    }
    value = {"findings": [finding, "Hernia"], "split": "test", "generator_saw": "same_n", "match_views": True}
    value |= {"preset": "small", "image_size": SIZE, "steps": 600, "seeds": [0], "num_resamples": 1000}
    return value | {"arms": learnt, "by_labels": [table]}


@cache
def faithfulness(finding: str) -> FaithfulnessResult:
    """Planted scores: `finding` clearer than in life, Mass ignored and refused in PA, 3 real images with Hernia.

    The judge does not know Nodule, and no synthetic image was asked for with Fibrosis.
    """
    names = (finding, "Mass", "Hernia", "Fibrosis", "Nodule")
    real, synthetic = _judged(600, "test"), _judged(300, "synthetic")
    real.loc[(real["labels"] & 4 != 0).to_numpy().nonzero()[0][3:], "labels"] &= ~4
    synthetic["labels"] &= ~8
    lived, drawn = _scores_of(real["labels"], 2.5), _scores_of(synthetic["labels"], 6)
    lived[real["view"] == "PA", 1] = 0.5
    drawn[:, 1] = _scores_of(0 * synthetic["labels"], 1)[:, 1]
    settings = Faithfulness(num_resamples=200, num_permutations=100)
    return judge_synthetic(real, lived, synthetic, drawn, names[:4], Findings(names), settings, 5)


def _judged(num: int, split: str) -> pd.DataFrame:
    """One image a patient; each of five findings in a quarter of them."""
    generator = np.random.default_rng(num)
    labels = (generator.random((num, 5)) < 0.25) @ (1 << np.arange(5))
    ids = [f"{split}-{i:04d}" for i in range(num)]
    patients = ids if split == "test" else [""] * num
    view = generator.choice(["AP", "PA"], num)
    return pd.DataFrame({"image_id": ids, "patient_id": patients, "view": view, "labels": labels, "split": split})


def _scores_of(labels: pd.Series, strength: float) -> np.ndarray:
    """Scores (n, 4) in 0..1 that tell the findings by `strength`."""
    signs = labels.to_numpy()[:, None] >> np.arange(4) & 1
    noise = np.random.default_rng([len(labels), 1]).normal(size=signs.shape)
    return 1 / (1 + np.exp(-(strength * (signs - 0.5) + noise)))


def fidelity(**changes: Any) -> dict[str, Any]:
    """What was found of fidelity: a headline, a floor well below it, and no training images to compare with."""
    extractor = {"kind": "judge", "name": "small judge", "digest": "c" * 64, "width": 64, "size": SIZE}
    coverage = {"share": 0.93, "num_cells": 5, "num_missing": 1, "missing": [{"cell": "Edema PA", "share": 0.07}]}

    def distance(fid: float | None, num: int) -> dict[str, Any]:
        a = {"what": "synthetic images", "num_images": num, "num_patients": None, "effective": float(num)}
        b = {"what": "held-out images", "num_images": 2 * num, "num_patients": num, "effective": num + 0.6}
        sides = {"a": a, "b": b, "coverage": coverage}
        if fid is None:
            return sides | {"not_computed": "n = 0 effective training images, 128 are needed (2 x 64 features)"}
        kid = {"value": 0.05, "low": -0.01, "high": 0.11}
        return sides | {"fid": {"value": fid, "low": fid - 2, "high": fid + 2}, "kid": kid}

    return {
        "extractor": extractor | {"method": "area", "output": "pooled features"},
        "resize": {"real": SIZE, "synthetic": 64, "to": SIZE, "method": "area"},
        "comparable": False,
        "resamples": 200,
        "headline": distance(31.5, 900),
        "beside_floor": distance(36.0, 420),
        "floor": distance(12.0, 420),
        "to_held_out": distance(None, 0),
        "to_train": distance(None, 0),
        "alarm": None,
        **changes,
    }


def _scores(accuracy: float, half_width: float = 0.05) -> dict[str, Any]:
    return {"accuracy": _interval(accuracy, half_width), "auroc": _interval(accuracy, half_width)}


def _interval(value: float, half_width: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - half_width, "high": value + half_width}


def _arm(name: str, num_real: int, num_synthetic: int, accuracy: float) -> dict[str, Any]:
    seeds = [_scores(accuracy + 0.01 * seed) | {"seed": seed, "final_loss": 0.2} for seed in range(2)]
    counts = {"num_real": num_real, "num_synthetic": num_synthetic, "num_real_patients": num_real // 2}
    return {"arm": name, **counts, "classifier": _scores(accuracy), "seeds": seeds, "view_only": _scores(0.65)}


def _matched(accuracy: float) -> dict[str, Any]:
    """Where views are matched: the view alone is a coin; enough test images of AP, too few of PA."""
    views = [{"view": "AP", "num_images": 88, "scores": _scores(accuracy)}, {"view": "PA", "num_images": 12}]
    return {"view_only": _scores(0.5, 0.0), "by_view": views}


SEEN = [{"images": 1240, "patients": 530}, {"images": 1, "patients": 1}]
LEAKY_ARMS = [_arm("real", 256, 0, 0.91), _arm("mixed", 128, 128, 0.62)]


def _film(seed: int, width: int = SIZE) -> np.ndarray:
    """uint8 (SIZE, width): a smooth random picture."""
    noise = np.random.default_rng(seed).normal(size=(SIZE, width))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _row(image_id: str, i: int, findings: Findings) -> dict[str, Any]:
    pixels = _film(i)
    return {
        "image_id": image_id,
        "patient_id": f"{i // 3:08d}",
        "split": ("train", "train", "val", "test")[i // 3 % 4],
        "view": ("PA", "AP")[i % 2],
        "age": 30.0 + i,
        "sex": ("F", "M")[i // 3 % 2],
        "follow_up": i % 3,
        "labels": 0 if i % 12 == 11 else 1 << i % len(findings.names),
        "boxes": [],
        "prompt": f"frontal chest x-ray of {findings.names[i % len(findings.names)]}",
        "seed": None,
        "request": "",
        "generation": "",
        "width": SIZE,
        "height": SIZE,
        "pixel_sha256": pixel_sha256(pixels),
        "source_sha256": "0" * 64,
        "pixels": pixels,
    }


def _add_dataset(
    folder: StageFolder, rows: list[dict[str, Any]], findings: Findings, *, synthetic: bool, about: Mapping[str, Any]
) -> None:
    shard = Shard("00000", 0, len(rows))
    Plan(folder.name, (shard,), "f" * 64).write(_made(folder) / "plan.jsonl")
    with Attempt(folder.path, "pid1-0-aaaaaa") as attempt:
        attempt.work.mkdir()
        with ShardWriter(attempt.work / "images.tar", findings) as tar:
            for row in rows:
                tar.add(encode_grey(row["pixels"]), {key: value for key, value in row.items() if key != "pixels"})
        receipt = _commit(folder, attempt, shard, {"tar": attempt.work / "images.tar"})
    data = receipt.data[0]
    name = f"shards/{data.name}"
    table: pd.DataFrame = tar.rows().to_pandas().assign(shard=name)
    shards = [{"name": name, "bytes": data.bytes, "sha256": data.sha256, "num_images": len(rows)}]
    info = write_index(folder.path, table, shards, findings=findings, size=SIZE, synthetic=synthetic, about=about)
    _finish(folder, info.digest)


def _train(folder: StageFolder, attempt: Attempt, shard: Shard, *, rising: bool) -> Receipt:
    work = attempt.work / shard.id
    (work / "preview").mkdir(parents=True)
    steps = range(shard.start + 1, shard.stop + 1)
    lines = [{"step": step, "loss": 1 / step, "lr": 1e-3, "grad_norm": 2.0} for step in steps]
    lines[-1]["validation_loss"] = shard.stop / 20 if rising else 2 / shard.stop
    (work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (work / "preview" / "preview.png").write_bytes(encode_grey(_film(shard.stop, len(PROMPTS) * SIZE)))
    write_json(work / "preview" / "preview.json", {"format": 1, "step": shard.stop, "prompts": PROMPTS})
    return _commit(folder, attempt, shard, {"metrics": work / "metrics.jsonl", "preview": work / "preview"})


def _commit(folder: StageFolder, attempt: Attempt, shard: Shard, paths: Mapping[str, Path]) -> Receipt:
    data = place(folder.path, shard.id, attempt.id, paths)
    seconds = {"read": 1.0, "make": 3.5, "place": 0.5}
    receipt = Receipt(shard.id, "d" * 64, data, "f" * 64, attempt.id, 7, seconds=seconds, device="x86_64")
    return commit(folder.path, receipt, is_alive=lambda _: False).receipt


def _made(folder: StageFolder) -> Path:
    folder.path.mkdir()
    return folder.path


def _finish(folder: StageFolder, digest: str) -> None:
    record = {"format": 1, "status": "done", "fingerprint": "f" * 64, "seconds": {"shards": 4.0, "finalize": 0.5}}
    write_json(folder.path / "stage.json", record | {"digest": digest})
