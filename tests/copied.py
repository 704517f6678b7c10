"""A real Dataset and a synthetic one that holds copies of its training images beside images of other patients."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.cache import FeatureCache
from cxr_core.evaluation.fidelity import HELD_OUT
from cxr_core.evaluation.memorisation.descriptors import describe_images, freeze_descriptors, read_descriptors
from cxr_core.evaluation.memorisation.measure import measure
from cxr_core.evaluation.memorisation.plants import PLANTS
from cxr_core.evaluation.memorisation.results import MemorisationResult
from cxr_core.evaluation.memorisation.search import SearchedImages
from cxr_core.evaluation.memorisation.searched import freeze_searches, read_found, search
from cxr_core.evaluation.memorisation.settings import Memorisation
from tests.planted import planted_row, write_planted


def radiographs(nih_data: Path) -> list[dict]:
    """Real images of 128 px of every third patient to train; of the official test list half of the patients are `test`,
    the others `spare`."""
    table = pd.read_csv(nih_data / "metadata" / "Data_Entry_2017_v2020.csv", index_col="Image Index")
    official = set((nih_data / "metadata" / "test_list.txt").read_text().split())
    rows = []
    for path in sorted((nih_data / "images_128").glob("*.png")):
        patient, view = path.stem.split("_")[0], table.at[path.name, "View Position"]
        split = "train" if path.name not in official else ("test", "spare")[int(patient) % 2]
        if split == "train" and int(patient) % 3:
            continue
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        rows.append(planted_row(path.stem, patient_id=patient, split=split, view=view, pixels=pixels))
    return rows


def copies(rows: Sequence[Mapping], num: int, seed: int = 0) -> list[dict]:
    """Synthetic rows: `num` copies of each kind, of training images drawn anew; the id names kind and original."""
    draw = np.random.default_rng(seed)
    train = [row for row in rows if row["split"] == "train"]
    return [
        synthetic_row(f"{kind}-{row['image_id']}", plant(row["pixels"], draw))
        for kind, plant in PLANTS.items()
        for row in (train[i] for i in draw.choice(len(train), num, replace=False))
    ]


def write_checkpoints(folder: Path, rows: Sequence[Mapping], *, num_real: int, num_copies: int) -> dict[str, Path]:
    """Real images of each split, `num_real` at most, with `val` in the place of `test`; and images of two checkpoints.

    At step 10 they are those of other patients, at step 20 as many copies of training images, `num_copies` a kind.
    """
    of_split = {name: [row for row in rows if row["split"] == name] for name in ("train", "test", "spare")}
    real = of_split["train"][:num_real] + [row | {"split": "val"} for row in of_split["test"][:num_real]]
    num_images = num_copies * len(PLANTS)
    honest = [synthetic_row(f"honest-{row['image_id']}", row["pixels"]) for row in of_split["spare"][:num_images]]
    drawn = {"step10": honest, "step20": copies(real, num_copies)}
    how = {"role": "model", "scheduler": "ddim", "steps": 5, "guidance": 1.0, "model": "0" * 64}
    series = [
        {"name": name, "checkpoint": int(name.removeprefix("step")), "num_images": num_images, **how}
        | {"request": {"like": "train", "num_images": num_images}}
        for name in drawn
    ]
    size = real[0]["pixels"].shape[0]
    synthetic = [row | {"request": name} for name, each in drawn.items() for row in each]
    return {
        "real": write_planted(folder / "real", real, size=size).folder,
        "synthetic": write_planted(
            folder / "candidates", synthetic, size=size, synthetic=True, about={"series": series}
        ).folder,
    }


def synthetic_row(image_id: str, pixels: np.ndarray) -> dict:
    return planted_row(image_id, patient_id="", split="synthetic", seed=1, generation="{}", pixels=pixels)


def seen(datasets: Mapping[str, Dataset], folder: Path, shard_size: int = 1024) -> dict[str, SearchedImages]:
    """What the shards of `looked` make of Datasets, without a run around them."""
    plan = folder / "plan"
    plan.mkdir(parents=True)
    cache = FeatureCache(folder / "cache")
    shards = freeze_descriptors({name: one.rows for name, one in datasets.items()}, HELD_OUT, shard_size, plan)
    files = {}
    for shard in shards:
        (folder / shard.id).mkdir()
        files[shard.id] = describe_images(shard, datasets, plan, folder / shard.id, cache).paths
    return {source: read_descriptors(plan, source, shards, files) for source in datasets}


def searched(
    seen: Mapping[str, SearchedImages], real: Dataset, folder: Path, settings: Memorisation, seed: int
) -> MemorisationResult:
    """What the shards of `searched` find, put together; `folder` is that of `seen`."""
    given = (HELD_OUT, settings, seed)
    shards = freeze_searches(["synthetic"], *given, folder / "plan")
    files = {}
    with tempfile.TemporaryDirectory() as name:
        for shard in shards:
            work = Path(name, shard.id)
            work.mkdir()
            files[shard.id] = search(shard, seen, real, *given, work).paths
        found = read_found(shards, files)
    return measure(seen["real"], seen["synthetic"], "synthetic", found, *given)


def write_both(folder: Path, real: list[dict], synthetic: list[dict]) -> dict[str, Dataset]:
    size = real[0]["pixels"].shape[0]
    return {
        "real": write_planted(folder / "real", real, size=size),
        "synthetic": write_planted(folder / "synthetic", synthetic, size=size, synthetic=True),
    }
