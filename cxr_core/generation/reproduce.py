"""Make one image of a synthetic Dataset again, from what is recorded of it and the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_core.data.dataset import Dataset
from cxr_core.data.generation_record import made_of
from cxr_core.errors import UserError
from cxr_core.generation.batches import batches, in_parts
from cxr_core.generation.pggan import draw_rows, open_latents, open_pggan
from cxr_core.generation.requests import image_seed
from cxr_core.generation.series import position, solver_of
from cxr_core.generation.shard import to_uint8
from cxr_core.models.checkpoints import has_weights, is_pggan, weights_sha256
from cxr_core.models.sampler import decode, encode_prompts, load_model, recorded, sample_rows


@dataclass(frozen=True)
class Reproduced:
    """An image made again, and the one that is stored: both uint8 (height, width)."""

    made: np.ndarray
    stored: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Grey values by which they differ: int (height, width), of 255."""
        return np.abs(self.made.astype(int) - self.stored)


def reproduce(
    dataset: Dataset, image_id: str, model: Path, *, strict: bool = False, bank: Path | None = None
) -> Reproduced:
    """Make an image again: alone, or `strict` with all images of its batch, as it was made at first.

    What a batch computes of one image hangs on the batch's size in the last bits, which may turn a grey value by one.
    Strict on the same kind of machine, the same versions and as many threads gives the same pixels, bit for bit.
    Raises UserError for an image that is not in the Dataset or not synthetic, and for another model or `bank`
    of latents than made it.
    """
    row = dataset.rows.iloc[position(dataset, image_id)]
    made = made_of(row["generation"], image_id, dataset.folder)
    _check_model(model, made["model"], dataset)
    torch.set_num_threads(made["threads"])
    batch = _batch(dataset, row, made) if strict else [{name: row[name] for name in _NEEDED}]
    if is_pggan(model):
        greys = draw_rows(open_pggan(model), batch, open_latents(bank, made), made.get("noise", "mt19937"))
    else:
        greys = _greys(model, batch, made, solver_of(dataset, row["request"]))
    place = [each["seed"] for each in batch].index(row["seed"])
    return Reproduced(to_uint8(greys[place]), dataset.image(row))


_NEEDED = ["prompt", "seed", "labels"]
"""Of an image, to make it again."""


def _greys(
    model: Path, batch: Sequence[Mapping[str, Any]], made: Mapping[str, Any], options: Mapping[str, Any] | None
) -> np.ndarray:
    compiled, attention = (made["compile"], made["attention"]) if torch.cuda.is_available() else (False, "sdpa")
    loaded = load_model(
        model, made["dtype"], channels_last=made["channels_last"], compiled=compiled, attention=attention
    )
    texts = encode_prompts(loaded, ["", *(each["prompt"] for each in batch)])
    return decode(loaded, sample_rows(loaded, texts, batch, **recorded(made, options, loaded)))


def _batch(dataset: Dataset, row: Any, made: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Prompts and seeds of all that was sampled together with an image; see `batches` for the rules."""
    shard = dataset.rows[dataset.rows["shard"] == row["shard"]].sort_values("image_id")
    draw = made["draw"]
    if "gate" in made:
        pairs = zip(shard["generation"], shard["image_id"], strict=True)
        draws = np.array([made_of(text, other, dataset.folder)["gate"].get("draws", 0) for text, other in pairs])
        shard = shard[draws > draw]
        shard = shard.assign(
            seed=[image_seed(dataset.info.about["seed"], image_id, draw) for image_id in shard["image_id"]]
        )
    rows = shard[_NEEDED].to_dict("records")
    for batch, wanted in batches(rows, dataset.info.about["batch_size"], is_redraw=draw > 0):
        if row["seed"] in [each["seed"] for each in batch[:wanted]]:
            parts = in_parts(batch, made["batch_size"])
            return next(part for part in parts if row["seed"] in [each["seed"] for each in part])
    raise _damaged(dataset, row["image_id"])


def _check_model(model: Path, recorded: str, dataset: Dataset) -> None:
    if not has_weights(model, recorded):
        raise UserError(
            f"the weights have sha256 {weights_sha256(model)[:16]}, but those that made the Dataset {recorded[:16]}",
            where=str(model),
            hint=f"give the model that made {dataset.folder} with --model",
        )


def _damaged(dataset: Dataset, image_id: str) -> UserError:
    return UserError(
        f"the index does not tell what {image_id!r} was sampled together with",
        where=str(dataset.folder / "index.parquet"),
        hint="restore the Dataset as its run wrote it, or make the image again without --strict",
    )
