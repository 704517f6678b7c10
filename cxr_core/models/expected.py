"""The tensors that the parts of a Stable Diffusion have, by name and shape, as their configs say it: without torch.

Of Stable Diffusion 1 and 2 alone. Tests compare it with what the libraries make of the same configs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cxr_core.models.parts import Part

Shapes = Mapping[str, tuple[int, ...]]
Named = Iterator[tuple[str, tuple[int, ...]]]
Config = Mapping[str, Any]


def expected(part: Part, config: Config) -> Shapes | None:
    """Names and shapes, or None of a kind of part that is not known here: the library alone can tell then.

    Raises KeyError, TypeError or ValueError where the config lacks an entry or has one of another form.
    """
    make = {"unet": _unet, "vae": _vae, "text_encoder": _text}[part]
    return dict(make(config)) if _is_known(part, config) else None


_BLOCKS = {
    "down_block_types": {"DownBlock2D", "CrossAttnDownBlock2D", "DownEncoderBlock2D"},
    "up_block_types": {"UpBlock2D", "CrossAttnUpBlock2D", "UpDecoderBlock2D"},
}
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "mid_block_type": (None, "UNetMidBlock2DCrossAttn"),
    "time_embedding_type": (None, "positional"),
    "resnet_time_scale_shift": (None, "default"),
    "attention_type": (None, "default"),
    **dict.fromkeys(("dual_cross_attention", "only_cross_attention", "mid_block_only_cross_attention"), (None, False)),
    **dict.fromkeys(("cross_attention_norm", "time_embedding_dim", "reverse_transformer_layers_per_block"), (None,)),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), (None, 3)),
    "mid_block_add_attention": (None, True, False),
}
"""Entries that change which tensors there are, with the values that are known here."""


def _is_known(part: Part, config: Config) -> bool:
    if part == "text_encoder":
        return True
    blocks = all(set(config[name]) <= known for name, known in _BLOCKS.items())
    return blocks and all(config.get(name) in values for name, values in _PLAIN.items())


def _linear(name: str, before: int, after: int, *, bias: bool = True) -> Named:
    yield f"{name}.weight", (after, before)
    if bias:
        yield f"{name}.bias", (after,)


def _conv(name: str, before: int, after: int, kernel: int = 3) -> Named:
    yield f"{name}.weight", (after, before, kernel, kernel)
    yield f"{name}.bias", (after,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _residual(name: str, before: int, after: int, time: int | None = None) -> Named:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", before, after)
    if time is not None:
        yield from _linear(f"{name}.time_emb_proj", time, after)
    yield from _norm(f"{name}.norm2", after)
    yield from _conv(f"{name}.conv2", after, after)
    if before != after:
        yield from _conv(f"{name}.conv_shortcut", before, after, 1)


def _each(value: int | Sequence[int], num: int) -> list[int]:
    """One number a level, where a config may give one for all."""
    return [value] * num if isinstance(value, int) else list(value)


def _text(config: Config) -> Named:
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.token_embedding.weight", (config["vocab_size"], width)
    yield "embeddings.position_embedding.weight", (config["max_position_embeddings"], width)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.mlp.fc1", width, inner)
        yield from _linear(f"{layer}.mlp.fc2", inner, width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm("final_layer_norm", width)


def _vae(config: Config) -> Named:
    widths, latent, layers = config["block_out_channels"], config["latent_channels"], config["layers_per_block"]
    first, last = widths[0], widths[-1]
    yield from _conv("encoder.conv_in", config["in_channels"], first)
    for i, width in enumerate(widths):
        before = widths[max(i - 1, 0)]
        yield from _level(f"encoder.down_blocks.{i}", before, width, layers)
        if i < len(widths) - 1:
            yield from _conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", width, width)
    yield from _vae_middle("encoder", last, config)
    yield from _norm("encoder.conv_norm_out", last)
    yield from _conv("encoder.conv_out", last, 2 * latent)
    yield from _conv("decoder.conv_in", latent, last)
    yield from _vae_middle("decoder", last, config)
    for i, width in enumerate(widths[::-1]):
        yield from _level(f"decoder.up_blocks.{i}", widths[::-1][max(i - 1, 0)], width, layers + 1)
        if i < len(widths) - 1:
            yield from _conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", width, width)
    yield from _norm("decoder.conv_norm_out", first)
    yield from _conv("decoder.conv_out", first, config["out_channels"])
    if config.get("use_quant_conv", True):
        yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config.get("use_post_quant_conv", True):
        yield from _conv("post_quant_conv", latent, latent, 1)


def _level(name: str, before: int, width: int, layers: int) -> Named:
    for j in range(layers):
        yield from _residual(f"{name}.resnets.{j}", width if j else before, width)


def _vae_middle(half: str, width: int, config: Config) -> Named:
    name = f"{half}.mid_block"
    if config.get("mid_block_add_attention", True):
        yield from _norm(f"{name}.attentions.0.group_norm", width)
        for each in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"{name}.attentions.0.{each}", width, width)
    for j in range(2):
        yield from _residual(f"{name}.resnets.{j}", width, width)


def _unet(config: Config) -> Named:
    widths = list(config["block_out_channels"])
    num, time = len(widths), 4 * widths[0]
    texts = _each(config["cross_attention_dim"], num)
    layers, depths = (
        _each(config.get(name) or usual, num)
        for name, usual in (("layers_per_block", 2), ("transformer_layers_per_block", 1))
    )
    linear = bool(config.get("use_linear_projection"))
    yield from _conv("conv_in", config["in_channels"], widths[0])
    yield from _linear("time_embedding.linear_1", widths[0], time)
    yield from _linear("time_embedding.linear_2", time, time)
    for i, kind in enumerate(config["down_block_types"]):
        attend = _attention(texts[i], depths[i], linear) if "CrossAttn" in kind else None
        before = [widths[max(i - 1, 0)], *[widths[i]] * (layers[i] - 1)]
        yield from _unet_level(f"down_blocks.{i}", before, widths[i], time, attend)
        if i < num - 1:
            yield from _conv(f"down_blocks.{i}.downsamplers.0.conv", widths[i], widths[i])
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
        middle = [widths[-1]] * 2
        yield from _unet_level("mid_block", middle, widths[-1], time, _attention(texts[-1], depths[-1], linear), 1)
    yield from _unet_up(config, widths[::-1], texts[::-1], layers[::-1], depths[::-1], time)
    yield from _norm("conv_norm_out", widths[0])
    yield from _conv("conv_out", widths[0], config["out_channels"])


def _unet_up(
    config: Config, widths: list[int], texts: list[int], layers: list[int], depths: list[int], time: int
) -> Named:
    """Each layer sees what comes up beside what the same level had on the way down."""
    linear, last = bool(config.get("use_linear_projection")), len(widths) - 1
    for i, kind in enumerate(config["up_block_types"]):
        attend = _attention(texts[i], depths[i], linear) if "CrossAttn" in kind else None
        below, beside = widths[max(i - 1, 0)], widths[min(i + 1, last)]
        num = layers[i] + 1
        from_below = [below, *[widths[i]] * (num - 1)]
        skipped = [*[widths[i]] * (num - 1), beside]
        before = [a + b for a, b in zip(from_below, skipped, strict=True)]
        yield from _unet_level(f"up_blocks.{i}", before, widths[i], time, attend)
        if i < last:
            yield from _conv(f"up_blocks.{i}.upsamplers.0.conv", widths[i], widths[i])


Attend = Callable[[str, int], Named]


def _unet_level(
    name: str, before: Sequence[int], width: int, time: int, attend: Attend | None, num_attend: int | None = None
) -> Named:
    for j, each in enumerate(before):
        yield from _residual(f"{name}.resnets.{j}", each, width, time)
    if attend:
        for j in range(len(before) if num_attend is None else num_attend):
            yield from attend(f"{name}.attentions.{j}", width)


def _attention(text: int, depth: int, linear: bool) -> Attend:
    """A transformer of `depth` blocks that looks at a text of width `text` (Rombach et al. 2022, arXiv 2112.10752)."""

    def named(name: str, width: int) -> Named:
        project = _linear if linear else lambda name, a, b: _conv(name, a, b, 1)
        yield from _norm(f"{name}.norm", width)
        yield from project(f"{name}.proj_in", width, width)
        for k in range(depth):
            yield from _transformer(f"{name}.transformer_blocks.{k}", width, text)
        yield from project(f"{name}.proj_out", width, width)

    return named


def _transformer(name: str, width: int, text: int) -> Named:
    for number, seen in ((1, width), (2, text)):
        for each, before in (("to_q", width), ("to_k", seen), ("to_v", seen)):
            yield from _linear(f"{name}.attn{number}.{each}", before, width, bias=False)
        yield from _linear(f"{name}.attn{number}.to_out.0", width, width)
    yield from _linear(f"{name}.ff.net.0.proj", width, 8 * width)
    yield from _linear(f"{name}.ff.net.2", 4 * width, width)
    for number in (1, 2, 3):
        yield from _norm(f"{name}.norm{number}", width)
