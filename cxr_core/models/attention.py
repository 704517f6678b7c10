"""How attention is computed: by xformers, or in float32 where Stable Diffusion 2.x overflows in half precision."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cxr_core.errors import UserError


def overflows(unet: Any) -> bool:
    """Whether its config says so, or is of the form of Stable Diffusion 2.x: with linear projections."""
    return bool(unet.config.get("upcast_attention") or unet.config.get("use_linear_projection"))


def upcast(unet: Any) -> None:
    """Compute the products of queries, keys and values in float32; the layers around them stay as they are."""
    unet.set_attn_processor({name: _Upcast(inner) for name, inner in unet.attn_processors.items()})


def use_xformers(unet: Any, *, is_half: bool, where: str) -> None:
    """Let xformers compute the attention. `is_half`: in float16. Raises UserError where it cannot, or must not."""
    if is_half and overflows(unet):
        raise UserError(
            "the model's attention (Stable Diffusion 2.x) overflows in fp16, and xformers' is not computed in fp32",
            where=where,
            hint="set attention: sdpa, which is then computed in fp32, or take bfloat16",
        )
    hint = "set attention: sdpa, or run where there is a GPU with the extra installed: pip install 'cxr-suite[gpu]'"
    if not torch.cuda.is_available():
        raise UserError("attention: xformers needs a GPU, and there is none", where=where, hint=hint)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise UserError(f"xformers cannot be used ({error})", where=where, hint=hint) from error


class _Upcast:
    """Around a processor, and not around the whole step: gradient checkpointing calls it again in the backward pass."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, attention: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with _InFloat32():
            return self.inner(attention, hidden_states, *args, **kwargs)


class _InFloat32(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value, *more = args
        with torch.autocast(query.device.type, enabled=False):
            return func(query.float(), key.float(), value.float(), *more, **(kwargs or {})).to(query.dtype)
