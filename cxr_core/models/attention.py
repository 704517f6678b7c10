"""Attention in float32 within mixed precision: that of Stable Diffusion 2.x overflows in half precision."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def overflows(unet: Any) -> bool:
    """Whether its config says so, or is of the form of Stable Diffusion 2.x: with linear projections."""
    return bool(unet.config.get("upcast_attention") or unet.config.get("use_linear_projection"))


def upcast(unet: Any) -> None:
    """Compute the products of queries, keys and values in float32; the layers around them stay as they are."""
    unet.set_attn_processor({name: _Upcast(inner) for name, inner in unet.attn_processors.items()})


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
