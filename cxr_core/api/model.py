"""A model in a notebook: a pipeline of diffusers, opened as strictly as by the commands."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def open_model(path: str | Path, step: int | None = None) -> "StableDiffusionPipeline":
    """Open a Stable Diffusion model in float32 on the CPU; `.to("cuda")` and `.to(torch.float16)` are diffusers' own.

    `path` is the folder of a finished train stage, whose checkpoint of `step` it is (None: the final one), a folder
    that diffusers saved, or the name of a model that comes with the package: "tiny_base". Needs no network. Every
    weight is read from the folder: what does not fit is refused.

    Raises UserError where there is no such model or checkpoint, where it is of another kind, or where a file is
    damaged.
    """
    from cxr_core.models.checkpoints import BUILT_IN, checkpoint_at, final_checkpoint
    from cxr_core.models.stable_diffusion import load

    folder = BUILT_IN.get(str(path), Path(path))
    return load(final_checkpoint(checkpoint_at(folder, step)))
