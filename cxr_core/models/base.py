"""Whether a Stable Diffusion folder can be used, and what it is: one look for plan, doctor, freeze and opening.

Reads configs and the headers of files, no weights, and needs no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.data.prompts import MAX_TOKENS
from cxr_core.errors import UserError
from cxr_core.models.configs import read_config, read_object, read_tokenizer
from cxr_core.models.expected import expected
from cxr_core.models.fit import differences
from cxr_core.models.noise_schedule import read_schedule
from cxr_core.models.parts import IMPORT, PARTS, Part, part_tensors, weights_files
from cxr_core.models.tensors import COMPUTED, Tensor

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
"""Their parts are used; safety checker, feature extractor and image encoder are not opened, and may be absent."""

_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
"""`prediction_type` of a scheduler's config, and what plan and report call it."""


@dataclass(frozen=True)
class Base:
    """A Stable Diffusion folder that can be trained further and drawn from."""

    folder: Path
    prediction: str
    """What its denoiser predicts: epsilon (the noise), v (the velocity) or sample (the image)."""
    image_size: int
    """Pixels a side."""
    tensors: Mapping[Part, Mapping[str, Tensor]]
    """Of each part, by the names that the libraries have."""

    @property
    def words(self) -> str:
        """One line for a plan."""
        half = [part for part in PARTS if any(each.dtype in ("F16", "BF16") for each in self.tensors[part].values())]
        rounded = f"; stored in half precision: {', '.join(half)}" if half else ""
        return f"{self.folder} predicts {self.prediction}, {self.image_size} px{rounded}"


def inspect_base(folder: Path) -> Base:
    """Raises UserError in words where the folder cannot be used as it is: what is wrong, in which file, what helps."""
    prediction, image_size = inspect_base_configs(folder)
    tensors = {part: _tensors(folder, part, read_config(folder, part)) for part in PARTS}
    return Base(folder, prediction, image_size, tensors)


def inspect_base_configs(folder: Path) -> tuple[str, int]:
    """`prediction` and `image_size` of a folder whose weights need not be there. Raises UserError as `inspect_base`."""
    index = read_object(folder / "model_index.json")
    _check_kind(index, folder)
    unet, vae, text = (read_config(folder, part) for part in ("unet", "vae", "text_encoder"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    prediction = _prediction(index, read_config(folder, "scheduler"), scheduler)
    read_schedule(folder)
    _check_unet(unet, vae, text, folder / "unet" / "config.json")
    _check_vae(vae, folder / "vae" / "config.json")
    _check_text(text, folder / "text_encoder" / "config.json")
    _check_tokens(text, folder)
    return prediction, unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)


def _check_kind(index: Mapping[str, Any], folder: Path) -> None:
    where, kind = str(folder / "model_index.json"), index.get("_class_name")
    if kind not in PIPELINES:
        raise UserError(
            f"a {kind}, and only Stable Diffusion 1 and 2 ({PIPELINES[0]}) can be used",
            where=where,
            hint="take a base of that kind, for example Stable Diffusion 2.1-base",
        )
    for part, known in _CLASSES.items():
        given = index.get(part)
        name = given[1] if isinstance(given, list) and len(given) == 2 else None
        if name not in known:
            raise UserError(f"its {part} is {name!r}, not {known[0]}", where=where, hint="take another base")


def _prediction(index: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> str:
    kind, given = str(config.get("_class_name") or index.get("scheduler")), config["prediction_type"]
    if "FlowMatch" in kind or config.get("use_flow_sigmas") or "flow" in str(given):
        given = "flow"
    if given not in PREDICTIONS:
        raise UserError(
            f"the model predicts {given!r}, which is neither trained nor drawn here",
            where=str(path),
            hint="take a base that predicts epsilon, v_prediction or sample; if the entry is wrong, correct it",
        )
    return PREDICTIONS[given]


def _check_unet(unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], path: Path) -> None:
    for what, hint in _wrong_with_unet(unet, vae, text):
        raise UserError(what, where=str(path), hint=hint)


def _wrong_with_unet(
    unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    channels, side, width = vae["latent_channels"], unet["sample_size"], text["hidden_size"]
    other = "take the base that it was made from"
    if unet["in_channels"] != channels:
        made = {2 * channels + 1: "inpainting, from an image and a mask", 2 * channels: "editing an image"}
        kind = made.get(unet["in_channels"], "something else than text to image")
        yield f"the UNet takes {unet['in_channels']} channels, not {channels}: it was made for {kind}", other
    if unet["out_channels"] != channels:
        yield f"the UNet gives {unet['out_channels']} channels, not {channels}: it predicts its variance too", other
    for name in ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim"):
        if unet[name] is not None:
            yield f"the UNet hears more than a text: {name} is {unet[name]!r}", other
    if unet["time_cond_proj_dim"] is not None:
        yield "the UNet takes the guidance scale as an input: it was distilled, and cannot be trained on", other
    if unet["cross_attention_dim"] not in (width, [width] * len(unet["block_out_channels"])):
        yield (
            f"the UNet looks at texts {unet['cross_attention_dim']} wide, and the text encoder gives {width}",
            ("put the text encoder of that UNet beside it"),
        )
    if type(side) is not int or side < 1:
        yield from _wrong_side(side, 2 ** (len(vae["block_out_channels"]) - 1))


def _wrong_side(side: Any, factor: int) -> Iterator[tuple[str, str]]:
    """Of latents a side: one number, without which no size of images is known."""
    if isinstance(side, list) and len(set(map(str, side))) > 1:
        yield f"sample_size is {side}: images here are square", "take a base of square images"
        return
    hint = f"set sample_size to one number, the pixels a side of its images / {factor}: {512 // factor} for 512"
    convert = "`cxr model import` of this folder with `--as base --image-size 512` does so in a copy"
    yield f"sample_size is {side!r}, so the size of its images is not known", f"{hint}; {convert}"


def _check_vae(vae: Mapping[str, Any], path: Path) -> None:
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if vae[name] not in (None, 0, 0.0):
            what = f"{name} is set: latents of this VAE are shifted, which is not computed here"
            raise UserError(what, where=str(path), hint="take a VAE of Stable Diffusion 1 or 2")
    if vae["in_channels"] not in (1, 3) or vae["out_channels"] not in (1, 3):
        raise UserError(f"images of {vae['in_channels']} channels", where=str(path), hint="take a VAE of 1 or 3")


def _check_text(text: Mapping[str, Any], path: Path) -> None:
    width, heads = text["hidden_size"], text["num_attention_heads"]
    if type(width) is not int or type(heads) is not int or heads < 1 or width % heads:
        what = f"hidden_size is {width!r}, which is no multiple of num_attention_heads, {heads!r}"
        raise UserError(what, where=str(path), hint="copy the model's text_encoder folder again")


def _check_tokens(text: Mapping[str, Any], folder: Path) -> None:
    """A tokenizer without a length fills a text up for ever, and one with another than the encoder's cuts prompts."""
    path, most = folder / "tokenizer" / "tokenizer_config.json", text["max_position_embeddings"]
    vocab = read_tokenizer(folder / "tokenizer")["vocab"]
    length = read_object(path).get("model_max_length") if path.is_file() else None
    if not (isinstance(length, int) and MAX_TOKENS <= length <= most):
        least = f" and at least {MAX_TOKENS}" if most > MAX_TOKENS else ""
        hint = f'write "model_max_length": {most} there, or {IMPORT.format(folder=folder)}'
        number = f"{length:.4g}" if isinstance(length, int | float) else repr(length)
        told = "does not say model_max_length" if length is None else f"model_max_length is {number}"
        if most < MAX_TOKENS:
            hint = f"take another base: prompts have up to {MAX_TOKENS} tokens"
        raise UserError(f"{told}, where the text encoder reads {most} tokens{least}", where=str(path), hint=hint)
    if vocab and max(vocab.values()) >= text["vocab_size"]:
        raise UserError(
            f"has {max(vocab.values()) + 1} tokens, and the text encoder knows {text['vocab_size']}",
            where=str(path.parent),
            hint="put the tokenizer of that text encoder beside it",
        )


def _tensors(folder: Path, part: Part, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
    found = part_tensors(folder, part)
    if odd := sorted({tensor.dtype for tensor in found.values()} - COMPUTED):
        names = [name for name, tensor in found.items() if tensor.dtype in odd]
        what = f"{len(names)} tensors are {', '.join(odd)}, e.g. {names[0]}: quantised weights cannot be used"
        raise UserError(what, where=str(folder / part), hint="take the model in float32, float16 or bfloat16")
    try:
        wanted = expected(part, config)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        path = folder / part / "config.json"
        raise UserError(f"damaged ({error!r})", where=str(path), hint="copy the model's folder again") from error
    given = {name: tensor.shape for name, tensor in found.items()}
    if wanted is not None and (wrong := list(differences(wanted, given))):
        raise misfit(folder, part, wrong)
    return found


def misfit(folder: Path, part: Part, wrong: list[str]) -> UserError:
    """The error for weights that do not fill a part exactly; `wrong` are `differences`."""
    files = ", ".join(path.name for path in weights_files(folder / part))
    hint = f"get {part}'s files again. If its names only begin with module. or the like, {IMPORT.format(folder=folder)}"
    text = "\n  ".join([f"{files} does not fit {part}/config.json:", *wrong])
    return UserError(text, where=str(folder / part), hint=hint)
