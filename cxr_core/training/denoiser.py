"""UNet and text encoder as one module, with what of them is trained and how they compute."""

import os
import shutil
from typing import Any

import torch

from cxr_core.errors import UserError
from cxr_core.models import attention
from cxr_core.models.initial import seeded
from cxr_core.models.lora import add_adapter
from cxr_core.seeds import derive_seed
from cxr_core.training.settings import DiffusionTrain


class Denoiser(torch.nn.Module):
    """UNet and text encoder in one module, so that whatever wraps a model for several devices takes both."""

    def __init__(self, unet: Any, text_encoder: Any, *, train_text_encoder: bool) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.train_text_encoder = unet, text_encoder, train_text_encoder
        self._known: dict[bytes, torch.Tensor] = {}
        self._device = unet.device

    def forward(
        self, latents: torch.Tensor, steps: torch.Tensor, token_ids: torch.Tensor, which: torch.Tensor
    ) -> torch.Tensor:
        """Prediction for noisy latents (n, channels, h, w) at `steps` (n,).

        `token_ids` (distinct prompts, tokens) lie on the CPU; image i has prompt `which[i]`.
        """
        # index_select, because indexing adds up gradients in an order that differs from one run to the next.
        text = self._encode(token_ids).index_select(0, which)
        return self.unet(latents, steps, encoder_hidden_states=text).sample

    def _encode(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self.train_text_encoder:
            return self.text_encoder(token_ids.to(self._device))[0]
        return torch.cat([self._encode_once(row) for row in token_ids.split(1)])

    @torch.no_grad()
    def _encode_once(self, token_ids: torch.Tensor) -> torch.Tensor:
        key = token_ids.numpy().tobytes()
        if key not in self._known:
            # In full precision, so that it does not depend on what asks first: a step or the validation.
            with torch.autocast(self._device.type, enabled=False):
                self._known[key] = self.text_encoder(token_ids.to(self._device))[0]
        return self._known[key]


def make_denoiser(pipeline: Any, settings: DiffusionTrain, seed: int) -> Denoiser:
    """The parts of `pipeline` that training changes, ready to be trained as the settings say.

    Raises UserError where the settings do not fit the model.
    """
    trained = {"unet": settings.train_unet, "text_encoder": settings.train_text_encoder}
    for name, is_trained in trained.items():
        getattr(pipeline, name).requires_grad_(is_trained and settings.lora is None)
    if settings.lora is not None:
        _add_adapters(pipeline, [name for name, is_trained in trained.items() if is_trained], settings, seed)
    if settings.attention == "xformers":
        attention.use_xformers(pipeline.unet, is_half=settings.precision == "fp16", where=f"stage {settings.name!r}")
    elif settings.precision == "fp16" and attention.overflows(pipeline.unet):
        attention.upcast(pipeline.unet)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(pipeline)
    if settings.compile and pipeline.unet.device.type == "cuda" and settings.ranks is None:
        # As the GPU's convolutions want it. Not compiled that is slower (tests/gpu, G1): torch's group normalisation
        # lays out anew all that it is given. What gathers weights of several ranks lays them out itself.
        pipeline.unet.to(memory_format=torch.channels_last)
    if settings.compile:
        _compile(pipeline.unet, settings.name)
    return Denoiser(pipeline.unet, pipeline.text_encoder, train_text_encoder=settings.train_text_encoder)


def _compile(unet: Any, stage: str) -> None:
    """In place, so that the names of weights stay."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"compile: true needs a C++ compiler, and there is no {compiler}",
            where=f"stage {stage!r}",
            hint="install g++, name another one in CXX, or set compile: false",
        )
    unet.compile()


def _checkpoint_gradients(pipeline: Any) -> None:
    """Both parts: gradients go through a frozen UNet too. Dropout would be drawn from torch's global state."""
    for part in (pipeline.unet, pipeline.text_encoder):
        drops = [name for name, module in part.named_modules() if isinstance(module, torch.nn.Dropout) and module.p]
        in_attention = float(getattr(part.config, "attention_dropout", 0.0))
        if drops or in_attention:
            raise UserError(
                "gradient_checkpointing needs training mode, in which the base's dropout would make resume inexact",
                where=f"{type(part).__name__} {', '.join(drops[:3])}".rstrip(),
                hint="set dropout and attention_dropout to 0 in the config.json of that part",
            )
    pipeline.unet.enable_gradient_checkpointing()
    pipeline.text_encoder.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _add_adapters(pipeline: Any, names: list[str], settings: DiffusionTrain, seed: int) -> None:
    lora = settings.lora
    assert lora is not None
    targets = {"unet": lora.unet_targets, "text_encoder": lora.text_encoder_targets}
    with seeded(derive_seed(seed, "lora")):
        for name in names:
            add_adapter(
                getattr(pipeline, name), rank=lora.rank, alpha=lora.alpha or float(lora.rank), targets=targets[name]
            )
