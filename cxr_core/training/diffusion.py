"""Fine-tuning of the denoiser, with the text encoder or without, on cached latents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler

from cxr_core.data.latents import LatentCache
from cxr_core.generation import sampler
from cxr_core.models import stable_diffusion
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import DataOrder, repeated, some, stream
from cxr_core.training.objective import min_snr_weights, noisy, squared_error, target
from cxr_core.training.preview import Preview
from cxr_core.training.settings import DiffusionTrain


class Denoiser(torch.nn.Module):
    """UNet and text encoder in one module, so that whatever wraps a model for several devices takes both."""

    def __init__(self, unet: Any, text_encoder: Any, *, train_text_encoder: bool) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(True)
        self.text_encoder = text_encoder.requires_grad_(train_text_encoder)
        self.train_text_encoder = train_text_encoder
        self._known: dict[bytes, torch.Tensor] = {}

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
            return self.text_encoder(token_ids.to(self.unet.device))[0]
        return torch.cat([self._encode_once(row) for row in token_ids.split(1)])

    @torch.no_grad()
    def _encode_once(self, token_ids: torch.Tensor) -> torch.Tensor:
        key = token_ids.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self.text_encoder(token_ids.to(self.unet.device))[0]
        return self._known[key]


class Draw(NamedTuple):
    """One image of a batch."""

    latents: np.ndarray
    noise: np.ndarray
    step: int
    token_ids: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Latents and noise (n, channels, h, w), steps (n,), token ids (n, tokens; on the CPU)."""

    latents: torch.Tensor
    noise: torch.Tensor
    steps: torch.Tensor
    token_ids: torch.Tensor


class DiffusionTask:
    """See `engine.Task`. Trains `pipeline.unet`, and `pipeline.text_encoder` with it, on a latent cache."""

    training_mode = False

    def __init__(
        self, pipeline: Any, cache: LatentCache, settings: DiffusionTrain, seed: int, prompts: Sequence[str]
    ) -> None:
        self.pipeline, self.cache, self.settings, self.seed, self.prompts = pipeline, cache, settings, seed, prompts
        train_text = settings.train_text_encoder
        self.module = Denoiser(pipeline.unet, pipeline.text_encoder, train_text_encoder=train_text)
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.train_rows, held_out = self._shown(cache.indices("train")), cache.indices("val")
        self.order = DataOrder(len(self.train_rows), settings.batch_size, derive_seed(seed, "order"))
        self.held_out = held_out[some(len(held_out), settings.validation_images, derive_seed(seed, "validation"))]
        self.no_caption = stable_diffusion.tokenize(pipeline.tokenizer, [""]).numpy()[0].astype(np.int32)

    def loss(self, module: torch.nn.Module, step: int) -> torch.Tensor:
        """Mean squared error of the prediction over the batch at `step`, each image weighed as the settings say."""
        batch = self.batch(step, range(self.settings.batch_size))
        errors, gamma = self._errors(module, batch), self.settings.min_snr_gamma
        return (errors if gamma is None else errors * min_snr_weights(self.scheduler, batch.steps, gamma)).mean()

    def batch(self, step: int, positions: Iterable[int]) -> Batch:
        """The part of the batch at `step` that lies at `positions` of the global batch."""
        rows = self.train_rows[self.order.batch(step)]
        places, seed = list(positions), derive_seed(self.seed, "draws")
        draws = [self._draw(int(rows[place]), stream(seed, step, place)) for place in places]
        return self._collate(draws)

    def examples(self, step: int) -> Sequence[str]:
        return self.cache.rows["image_id"].iloc[self.train_rows[self.order.batch(step)]].tolist()

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """Mean error on images of held-out patients, at fixed steps spread evenly and fixed noise; None without any."""
        num, seed = len(self.held_out), derive_seed(self.seed, "validation noise")
        steps = ((np.arange(num) + 0.5) / max(num, 1) * self._num_steps).astype(int)
        draws = [
            self._latents(int(row), stream(seed, 0, place), int(step), self.cache.token_ids[int(row)])
            for place, (row, step) in enumerate(zip(self.held_out, steps, strict=True))
        ]
        size = self.settings.batch_size
        parts = [self._collate(draws[start : start + size]) for start in range(0, num, size)]
        loss = float(torch.cat([self._errors(self.module, part) for part in parts]).mean()) if num else None
        return {"validation_loss": loss}

    def preview(self) -> Preview:
        """The same prompts from the same noise at every checkpoint: a column a prompt, a row a noise."""
        settings, parts = self.settings.preview, self.pipeline
        scheduler = dict(parts.scheduler.config)
        model = sampler.Model(parts.tokenizer, parts.text_encoder, parts.unet, parts.vae, scheduler)
        known = sampler.encode_prompts(model, [*self.prompts, ""])
        text = torch.cat([known[prompt] for prompt in self.prompts])
        rows = []
        for index in range(settings.images_per_prompt):
            seeds = [derive_seed(self.seed, "preview", index)] * len(self.prompts)
            latents = sampler.sample(
                model,
                text,
                known[""],
                seeds,
                scheduler="dpmsolver++",
                steps=settings.steps,
                guidance=settings.guidance,
            )
            rows.append(np.nan_to_num(sampler.decode(model, latents)).round().astype(np.uint8))
        return Preview(self.prompts, np.stack(rows))

    def before_export(self) -> None:
        """Nothing to measure."""

    def export(self, folder: Path, step: int) -> None:
        """Write the whole pipeline as a diffusers folder."""
        stable_diffusion.save(self.pipeline, folder)

    def _shown(self, rows: np.ndarray) -> np.ndarray:
        """The training rows of an epoch, those of rare findings oftener where the settings say so."""
        if self.settings.repeat_below is None:
            return rows
        labels = self.cache.rows["labels"].to_numpy()[rows]
        return repeated(rows, labels, self.settings.repeat_below, derive_seed(self.seed, "repeats"))

    @property
    def _num_steps(self) -> int:
        return int(self.scheduler.config["num_train_timesteps"])

    def _draw(self, row: int, rng: np.random.Generator) -> Draw:
        """Step and dropout first, then the noises, always in this order; last the offset of the noise."""
        step, kept = int(rng.integers(self._num_steps)), rng.random() >= self.settings.caption_dropout
        drawn = self._latents(row, rng, step, self.cache.token_ids[row] if kept else self.no_caption)
        if not self.settings.offset_noise:
            return drawn
        offset = rng.standard_normal((len(drawn.noise), 1, 1), np.float32)
        return drawn._replace(noise=drawn.noise + np.float32(self.settings.offset_noise) * offset)

    def _latents(self, row: int, rng: np.random.Generator, step: int, token_ids: np.ndarray) -> Draw:
        """A sample of the VAE's latents, scaled, and noise of their shape."""
        mean, log_variance = np.split(self.cache.moments[row].astype(np.float32), 2)
        sampled = mean + np.exp(0.5 * log_variance.clip(-30, 20)) * rng.standard_normal(mean.shape, np.float32)
        noise = rng.standard_normal(mean.shape, np.float32)
        return Draw(sampled * np.float32(self.pipeline.vae.config["scaling_factor"]), noise, step, token_ids)

    def _collate(self, draws: Sequence[Draw]) -> Batch:
        stacked = [torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True)]
        latents, noise, steps = (part.to(self.pipeline.unet.device) for part in stacked[:3])
        return Batch(latents, noise, steps, stacked[3])

    def _errors(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Squared error of each image: (n,)."""
        distinct, which = torch.unique(batch.token_ids.long(), dim=0, return_inverse=True)
        seen = noisy(self.scheduler, batch.latents, batch.noise, batch.steps)
        predicted = module(seen, batch.steps, distinct, which.to(seen.device))
        return squared_error(predicted, target(self.scheduler, batch.latents, batch.noise, batch.steps))
