"""Make one image of a synthetic Dataset again, from what is recorded of it and the model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.errors import UserError
from cxr_core.generation.sampler import decode, encode_prompts, load_model, sample
from cxr_core.generation.shard import to_uint8
from cxr_core.models.checkpoints import weights_sha256


@dataclass(frozen=True)
class Regenerated:
    """An image made again, and the one that is stored: both uint8 (height, width)."""

    made: np.ndarray
    stored: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Grey values by which they differ: int (height, width), of 255."""
        return np.abs(self.made.astype(int) - self.stored)


def regenerate(dataset: Dataset, image_id: str, model: Path, *, strict: bool = False) -> Regenerated:
    """Make an image again: alone, or `strict` with all images of its batch, as it was made at first.

    What a batch computes of one image hangs on the batch's size in the last bits, which may turn a grey value by one.
    Strict on the same kind of machine, the same versions and as many threads gives the same pixels, bit for bit.
    Raises UserError for an image that is not in the Dataset or not synthetic, and for another model than made it.
    """
    position = _position(dataset, image_id)
    row = dataset.rows.iloc[position]
    made = json.loads(row["generation"])
    _check_model(model, made["model"], dataset)
    torch.set_num_threads(made["threads"])
    # The list is in the order of ids, and its batches are whole.
    size = made["batch_size"] if strict else 1
    first = position - position % size
    greys = _draw(load_model(model, made["dtype"]), dataset.rows.iloc[first : first + size], made)
    return Regenerated(to_uint8(greys[position - first]), dataset.image(row))


def _position(dataset: Dataset, image_id: str) -> int:
    """Row of an image in the index."""
    ids = dataset.rows["image_id"]
    found = np.flatnonzero(ids == image_id)
    if not len(found):
        mend = f"it has {ids.iloc[0]} to {ids.iloc[-1]}" if len(ids) else "it is empty"
        raise UserError(f"no image {image_id!r}", where=str(dataset.folder), mend=mend)
    if not dataset.rows["generation"].iloc[found[0]]:
        raise UserError(f"image {image_id!r} is a real one", where=str(dataset.folder), mend="name a synthetic Dataset")
    return int(found[0])


def _check_model(model: Path, recorded: str, dataset: Dataset) -> None:
    found = weights_sha256(model)
    if found != recorded:
        raise UserError(
            f"the weights have sha256 {found[:16]}, but those that made the Dataset {recorded[:16]}",
            where=str(model),
            mend=f"give the model that made {dataset.folder} with --model",
        )


def _draw(model: Any, batch: pd.DataFrame, made: dict[str, Any]) -> np.ndarray:
    texts = encode_prompts(model, ["", *batch["prompt"]])
    latents = sample(
        model,
        torch.cat([texts[prompt] for prompt in batch["prompt"]]),
        texts[""],
        [int(seed) for seed in batch["seed"]],
        scheduler=made["scheduler"],
        steps=made["steps"],
        guidance=made["guidance"],
    )
    return decode(model, latents)
