"""All weights of a Stable Diffusion in one file: under the names of the original code, or diffusers' with a prefix."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders import single_file_utils as ldm

from cxr_core.errors import UserError
from cxr_core.models import stable_diffusion
from cxr_core.models.configs import read_config
from cxr_core.models.importing.weights import Tensors, named, read_weights
from cxr_core.models.parts import PARTS, Part

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP, _OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."

_NOISE = (
    r"(sqrt_|log_)?(one_minus_)?(recip_|recipm1_)?alphas_cumprod(_prev)?|sqrt_recipm1_alphas_cumprod"
    r"|betas|posterior_\w+|lvlb_weights|logvar|scale_factor|log_one_minus_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
)
_UNUSED = re.compile(
    rf"({_NOISE})|model_ema\..*|first_stage_model\.loss\..*"
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask)|cond_stage_model\.logit_scale"
)
"""Names that the original code writes beside the weights: the noise schedule, which the scheduler's config says; the
average of a training; what compares texts with images."""


def parts_of_file(file: Path, configs: Path) -> Mapping[Part, Tensors]:
    """The weights of each part by the libraries' names; `configs` is a folder with the configs of the parts.

    Raises UserError naming tensors that are of no part.
    """
    given = read_weights(file)
    if any(name.startswith(_UNET) for name in given):
        return _of_original(given, file, configs)
    found: dict[Part, Tensors] = {part: _cut(given, f"{part}.") for part in PARTS}
    others = [name for name in given if not name.startswith(tuple(f"{part}." for part in PARTS))]
    if lacking := [part for part in PARTS if not found[part]]:
        raise UserError(
            f"holds no {' and no '.join(lacking)}: neither names of the original code ({_UNET}...) nor of diffusers "
            f"({lacking[0]}...)",
            where=str(file),
            hint="give the file with the whole model; an adapter is imported with --as lora, a classifier --as judge",
        )
    if others:
        raise _left_over(others, file)
    return {part: named(tensors, part, file) for part, tensors in found.items()}


def _of_original(given: Tensors, file: Path, configs: Path) -> Mapping[Part, Tensors]:
    left = [name for name in given if not name.startswith((_UNET, _VAE, _CLIP, _OPEN_CLIP))]
    if others := [name for name in left if not _UNUSED.fullmatch(name)]:
        raise _left_over(others, file)
    kept = {name: tensor for name, tensor in given.items() if not _UNUSED.fullmatch(name)}
    # diffusers' conversions; each is given a part alone, since they look for words anywhere in a name.
    unet = _converted(ldm.convert_ldm_unet_checkpoint, kept, _UNET, read_config(configs, "unet"), file)
    vae = _converted(ldm.convert_ldm_vae_checkpoint, kept, _VAE, read_config(configs, "vae"), file)
    text = _text(kept, configs)
    return {
        "unet": named(unet, "unet", file),
        "vae": named(vae, "vae", file),
        "text_encoder": named(text, "text_encoder", file),
    }


def _converted(
    convert: Callable[..., Any], given: Tensors, prefix: str, config: Mapping[str, Any], file: Path
) -> Tensors:
    """Raises UserError if there are fewer tensors afterwards: one of them was not known."""
    own = {name: tensor for name, tensor in given.items() if name.startswith(prefix)}
    try:
        found: Tensors = dict(convert(dict(own), config))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _other_sizes(prefix, file, repr(error)) from error
    if len(found) != len(own):
        raise _other_sizes(prefix, file, f"{len(own)} tensors, of which {len(found)} are known")
    return found


def _text(given: Tensors, configs: Path) -> Tensors:
    """Of CLIP as transformers wrote it (Stable Diffusion 1), or of OpenCLIP (2), whose last layer is not used."""
    if any(name.startswith(_CLIP) for name in given):
        return _cut(given, _CLIP)
    unused = f"{_OPEN_CLIP}transformer.resblocks.{read_config(configs, 'text_encoder')['num_hidden_layers']}."
    own = {
        name: tensor for name, tensor in given.items() if name.startswith(_OPEN_CLIP) and not name.startswith(unused)
    }
    # A layer that diffusers leaves out by its number alone is the last of Stable Diffusion 2, as `unused` is.
    return dict(ldm.convert_open_clip_checkpoint(stable_diffusion.empty_part(configs, "text_encoder"), own))


def _cut(given: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}


def _left_over(names: list[str], file: Path) -> UserError:
    return UserError(
        f"{len(names)} tensors are of no part of Stable Diffusion 1 or 2: {', '.join(sorted(names)[:20])}",
        where=str(file),
        hint="give the file of a whole Stable Diffusion 1 or 2, and of nothing else",
    )


def _other_sizes(prefix: str, file: Path, detail: str) -> UserError:
    return UserError(
        f"{prefix}... is not of the sizes that the configs say ({detail})",
        where=str(file),
        hint="name with --like a folder of the same model: Stable Diffusion 1 and 2 differ in their sizes",
    )
