"""Images of a PG-GAN: each from latents that its seed gives, at random or from a bank by its labels."""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_core.errors import UserError
from cxr_core.generation.bank_folder import Bank
from cxr_core.generation.class_latents import ClassLatents
from cxr_core.models import pggan
from cxr_core.models.noise import open_noise
from cxr_core.models.pggan import PgGan
from cxr_core.models.solver_options import Noise


@lru_cache(maxsize=1)
def open_pggan(folder: Path) -> PgGan:
    """The model of a folder. Kept for the next shard."""
    return pggan.load(folder)


class BankLatents:
    """Latents of a bank by labels: `gaussian`, new ones of the class, or `each`, those of its images themselves."""

    def __init__(self, bank: Bank, how: str) -> None:
        self._bank, self._how = bank, how
        self._of_class = cache(self._fit)

    def latents(self, labels: int, seed: int, normal: np.ndarray) -> np.ndarray:
        """One float32 (latent_width,), a function of all arguments; `normal` are standard normal numbers (w,)."""
        if self._how == "each":
            found = self._bank.of(labels)["latent"]
            return np.asarray(found.iloc[seed % len(found)], np.float32)
        return self._of_class(labels).draw(normal[None])[0]

    def _fit(self, labels: int) -> ClassLatents:
        return ClassLatents.fit(np.stack(self._bank.of(labels)["latent"].tolist()))


def open_latents(folder: Path | None, made: Mapping[str, Any]) -> BankLatents | None:
    """The bank that the record of an image's making names, if any. Raises UserError where it is another one."""
    if "bank" not in made:
        return None
    if folder is None or (bank := Bank.open(folder)).digest != made["bank"]:
        raise UserError(
            f"the images were drawn from the latent bank {made['bank'][:16]}, which is not there",
            where=str(folder),
            hint="run the invert stage again, in the run that drew them",
        )
    return BankLatents(bank, made["from_bank"])


def draw_rows(model: PgGan, rows: Sequence[Mapping[str, Any]], bank: BankLatents | None, noise: Noise) -> np.ndarray:
    """Grey images float32 (num_images, side, side), nominally 0..255, not yet rounded; NaN where the model failed.

    `rows` have a `seed` and, for a bank, `labels`; `noise` makes numbers of the seeds.
    """
    normal = open_noise(noise, (int(row["seed"]) for row in rows), (model.info.latent_width,)).draw()
    if bank:
        found = [
            bank.latents(int(row["labels"]), int(row["seed"]), own)
            for row, own in zip(rows, normal.numpy(), strict=True)
        ]
        normal = torch.from_numpy(np.stack(found))
    return model.draw(normal).cpu().numpy()
