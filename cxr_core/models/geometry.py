"""Sizes of a Stable Diffusion folder, read from its configs without opening its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.errors import UserError
from cxr_core.models.presets import Preset
from cxr_core.runs.files import read_json


@dataclass(frozen=True)
class Geometry:
    """Pixels and latents a side; the VAE halves the resolution between its levels."""

    image_size: int
    latent_size: int
    latent_channels: int

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        """Of a diffusers folder. Raises UserError if its configs are missing or damaged."""
        try:
            unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
            return cls._from_configs(unet, vae)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"its unet/config.json or vae/config.json cannot be read ({error})",
                where=str(folder),
                hint="give a complete Stable Diffusion folder",
            ) from error

    @classmethod
    def of_preset(cls, preset: Preset) -> "Geometry":
        return cls._from_configs(preset.unet, preset.vae)

    @classmethod
    def _from_configs(cls, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> "Geometry":
        latent_size, num_levels = int(unet["sample_size"]), len(vae["block_out_channels"])
        return cls(latent_size * 2 ** (num_levels - 1), latent_size, int(vae["latent_channels"]))

    def misfit(self, size: int, *, where: str) -> UserError:
        """The error for a Dataset of another size than the model's."""
        return UserError(
            f"its images are {size} pixels a side, but the model was made for {self.image_size}",
            where=where,
            hint=f"set size: {self.image_size} in the preprocess stage, or take another model",
        )
