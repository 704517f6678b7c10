"""The published layout of a PG-GAN checkpoint (Segal et al. 2021, arXiv 2010.03975), opened as a model of ours.

One file of torch.save with `state_dict` (generator, its shadow, which is the moving average, discriminator, and
counters) and `settings` (`g_depth` and `g_alpha` among others). Names are those of the authors' code; the weights were
not at hand. There a layer is gain * (W x + b), here gain * W x + b, so biases are scaled; the older scale's share is
`alpha`, here 1 - fade; grey goes from 0 to 1. The discriminator took its standard deviation over whole batches.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cxr_core.errors import UserError
from cxr_core.models import pggan
from cxr_core.models.fit import differences
from cxr_core.models.pggan import PgGan, gain
from cxr_core.models.pggan_folder import PgganInfo
from cxr_core.models.strict import shapes

_PREFIXES = {"generator": "gen_shadow", "discriminator": "discriminator"}
"""Our networks and theirs: the averaged generator is the one that draws."""

_COUNTERS = frozenset(
    (
        "img_size",
        "scale",
        "alpha",
        "alpha_jumps",
        "fixed_z",
        "epoch_counter",
        "batch_count",
        "total_iter",
        "current_iter",
        "num_images_seen",
        "iter_images_seen",
        "g_current_iter",
        "d_current_iter",
    )
)
_COUNTERS_OF_A_NETWORK = frozenset({"current_size", "current_depth", "alpha"})


def import_checkpoint(file: Path, folder: Path) -> PgganInfo:
    """Write the model of a published checkpoint as a new folder of ours. Raises UserError as `read`."""
    model = read(file)
    pggan.save(model, folder, {"weights": file.name}, scale=model.info.scale, fade=model.info.fade)
    return model.info


def read(file: Path) -> PgGan:
    """The model of a published checkpoint, with its shadow generator.

    Raises UserError where the file is none, and with the names of all tensors that are missing, unknown or of another
    shape: nothing is left at random, and nothing is left out.
    """
    content = _opened(file)
    given: Mapping[str, torch.Tensor] = content["state_dict"]
    info = _info(content, file)
    with torch.device("meta"):
        model = PgGan(info)
    wanted = _wanted(model)
    found = {name: shape for name, shape in shapes(given).items() if not _is_counter(name)}
    if wrong := list(differences(wanted, found)):
        hint = "give a checkpoint with state_dict and settings as the authors' code writes it"
        raise UserError("\n  ".join(["not the published layout:", *wrong]), where=str(file), hint=hint)
    model.load_state_dict({name: _ours(given, theirs) for name, theirs in _names(info)}, assign=True)
    return model.eval().requires_grad_(False)


def _opened(file: Path) -> Mapping[str, Any]:
    try:
        # Tensors and plain values alone: a pickle could run code.
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _no_checkpoint(file, f"torch cannot open it ({error})") from error
    if not isinstance(content, dict) or not {"state_dict", "settings"} <= content.keys():
        raise _no_checkpoint(file, "it has no state_dict and settings")
    return content


def _info(content: Mapping[str, Any], file: Path) -> PgganInfo:
    """Sizes from the settings and from the shapes of the shadow generator."""
    settings, given = content["settings"], content["state_dict"]
    try:
        scale, alpha = int(settings["g_depth"]), float(settings["g_alpha"])
        outputs, latent_width = given["gen_shadow.latent_linear.0.module.weight"].shape
        blocks = [f"gen_shadow.ScaleBlocks.{i}.convolv.0.module.weight" for i in range(scale)]
        widths = (outputs // 16, *(given[name].shape[0] for name in blocks))
        channels = given["gen_shadow.toRGB.0.module.weight"].shape[0]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _no_checkpoint(file, f"its sizes cannot be told: {error!r}") from error
    return PgganInfo(latent_width, widths, channels, scale, fade=1 - alpha, lowest=0.0)


def _names(info: PgganInfo) -> Iterator[tuple[str, str]]:
    """Each of our tensors and its published name."""
    for ours, theirs in _layers(info):
        network, rest = ours.split(".", 1)
        for kind in ("weight", "bias"):
            yield f"{network}.{rest}.{kind}", f"{_PREFIXES[network]}.{theirs}.module.{kind}"


def _layers(info: PgganInfo) -> Iterator[tuple[str, str]]:
    last = len(info.widths) - 1
    yield from (("generator.dense", "latent_linear.0"), ("generator.first", "init_conv.0"))
    yield from (("discriminator.last", "DecisionBlock.0"), ("discriminator.whole", "DecisionBlock.2"))
    yield "discriminator.score", "DecisionLinear"
    for i in range(last + 1):
        yield f"generator.to_image.{i}", f"toRGB.{i}"
        yield f"discriminator.from_image.{i}", f"fromRGB.{i}"
    for i in range(last):
        # A generator has an activation and a pixel norm between its convolutions, a discriminator an activation; the
        # newest block of a discriminator is its first.
        for j, name in enumerate(("one", "two")):
            yield f"generator.blocks.{i}.{name}", f"ScaleBlocks.{i}.convolv.{3 * j}"
            yield f"discriminator.blocks.{i}.{name}", f"ScaleBlocks.{last - 1 - i}.convolv.{2 * j}"


def _wanted(model: PgGan) -> dict[str, tuple[int, ...]]:
    """Published names and shapes, with the generator itself beside its shadow."""
    own = shapes(model.state_dict())
    wanted = {theirs: own[ours] for ours, theirs in _names(model.info)}
    of_shadow = {name: shape for name, shape in wanted.items() if name.startswith("gen_shadow.")}
    return wanted | {name.replace("gen_shadow", "generator", 1): shape for name, shape in of_shadow.items()}


def _is_counter(name: str) -> bool:
    network, _, rest = name.partition(".")
    of_network = network in ("generator", *_PREFIXES.values()) and rest in _COUNTERS_OF_A_NETWORK
    return name in _COUNTERS or of_network


def _ours(given: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    tensor = given[name].float()
    return tensor * gain(given[name.removesuffix("bias") + "weight"]) if name.endswith(".bias") else tensor


def _no_checkpoint(file: Path, detail: str) -> UserError:
    return UserError(
        f"no published PG-GAN checkpoint: {detail}",
        where=str(file),
        hint="give the file with state_dict and settings that the authors' code writes",
    )
