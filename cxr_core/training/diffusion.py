"""Fine-tuning of the denoiser, with the text encoder or without, on cached latents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler

from cxr_core.data.latents import LatentCache
from cxr_core.models import lora, sampler, stable_diffusion
from cxr_core.models.noise_schedule import schedule_of
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import some, stream
from cxr_core.training.denoiser import make_denoiser
from cxr_core.training.objective import min_snr_weights, noisy, squared_error, target
from cxr_core.training.preview import PreviewImages
from cxr_core.training.sampling import batches, unplaced_prompts
from cxr_core.training.settings import DiffusionTrain


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
    """See `engine.Task`. Trains `pipeline.unet` and `pipeline.text_encoder`, or one of them, on a latent cache."""

    def __init__(
        self,
        pipeline: Any,
        cache: LatentCache,
        settings: DiffusionTrain,
        seed: int,
        prompts: Sequence[str],
        *,
        prior: LatentCache | None = None,
    ) -> None:
        self.pipeline, self.cache, self.settings, self.seed, self.prompts = pipeline, cache, settings, seed, prompts
        # Asked once: the pipeline's parts look through all their modules each time.
        self.device = pipeline.unet.device
        self.module = make_denoiser(pipeline, settings, seed)
        self.scheduler: Any = DDPMScheduler(**dict(schedule_of(pipeline.scheduler.config)))
        self.shown, held_out = batches(cache, prior, settings, seed), cache.indices("val")
        self.held_out = held_out[some(len(held_out), settings.validation_images, derive_seed(seed, "validation"))]
        self.no_caption = self._tokenize("")
        self.plain = {prompt: self._tokenize(text) for prompt, text in unplaced_prompts(cache).items()}

    @property
    def training_mode(self) -> bool:
        """A text encoder computes activations again in training mode alone; `make_denoiser` refuses any dropout."""
        return self.settings.gradient_checkpointing

    @property
    def num_parts(self) -> int:
        return len(self._parts)

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """Squared error of the prediction, each image weighed as the settings say, over a part of the batch at `step`.

        Parts add up to the batch's mean.
        """
        positions = self._parts[part]
        batch = self.batch(step, positions)
        errors = self._errors(module, batch) * self._weights(batch, positions)
        return errors.sum() / self.settings.batch_size

    def batch(self, step: int, positions: Iterable[int]) -> Batch:
        """The part of the batch at `step` that lies at `positions` of the global batch."""
        shown, seed = self.shown.at(step), derive_seed(self.seed, "draws")
        return self._collate([self._draw(*shown[place], stream(seed, step, place)) for place in positions])

    def examples(self, step: int) -> Sequence[str]:
        return [str(cache.rows["image_id"].iloc[row]) for cache, row in self.shown.at(step)]

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """Mean error on images of held-out patients, at fixed steps spread evenly and fixed noise; None without any."""
        num, seed = len(self.held_out), derive_seed(self.seed, "validation noise")
        steps = ((np.arange(num) + 0.5) / max(num, 1) * self._num_steps).astype(int)
        draws = [
            self._latents(self.cache, int(row), stream(seed, 0, place), int(step), self.cache.token_ids[int(row)])
            for place, (row, step) in enumerate(zip(self.held_out, steps, strict=True))
        ]
        size = self.settings.batch_size
        parts = [self._collate(draws[start : start + size]) for start in range(0, num, size)]
        loss = float(torch.cat([self._errors(self.module, part) for part in parts]).mean()) if num else None
        return {"validation_loss": loss}

    def preview(self, step: int) -> PreviewImages:
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
                steps=settings.denoising_steps,
                guidance=settings.guidance,
                # As ever, since a run's previews are compared with each other and may span an upgrade.
                noise="mt19937",
            )
            rows.append(np.nan_to_num(sampler.decode(model, latents)).round().astype(np.uint8))
        return PreviewImages(self.prompts, np.stack(rows))

    def before_export(self) -> None:
        """Nothing to measure."""

    def export(self, folder: Path, step: int) -> None:
        """Write the whole pipeline as a diffusers folder, adapters merged, and the adapters alone as `lora/` in it."""
        if self.settings.lora is None:
            stable_diffusion.save(self.pipeline, folder)
            return
        stable_diffusion.save(lora.merged_pipeline(self.pipeline), folder)
        lora.save_adapter(self.pipeline, folder / "lora")

    @property
    def _parts(self) -> list[range]:
        """The positions of the global batch that go through the model together: as many parts for each rank, in order
        of ranks."""
        share, size = self.settings.batch_size // self.settings.num_ranks, self.settings.at_once
        shares = [range(start, start + share) for start in range(0, self.settings.batch_size, share)]
        return [part[start : start + size] for part in shares for start in range(0, share, size)]

    def _weights(self, batch: Batch, positions: Sequence[int]) -> torch.Tensor:
        """Of the images of `batch`, which lie at `positions`: float32 (n,)."""
        weights = torch.from_numpy(self.shown.weights(self.settings.prior_weight)[list(positions)])
        gamma = self.settings.min_snr_gamma
        noise = 1.0 if gamma is None else min_snr_weights(self.scheduler, batch.steps, gamma)
        return weights.to(batch.latents.device) * noise

    @property
    def _num_steps(self) -> int:
        return int(self.scheduler.config["num_train_timesteps"])

    def _tokenize(self, text: str) -> np.ndarray:
        ids: np.ndarray = stable_diffusion.tokenize(self.pipeline.tokenizer, [text]).numpy()[0].astype(np.int32)
        return ids

    def _draw(self, cache: LatentCache, row: int, rng: np.random.Generator) -> Draw:
        """Step and dropout first, then the noises, always in this order; the offset of the noise, and last whether a
        caption says places."""
        step, kept = int(rng.integers(self._num_steps)), rng.random() >= self.settings.caption_dropout
        drawn = self._latents(cache, row, rng, step, cache.token_ids[row] if kept else self.no_caption)
        if self.settings.offset_noise:
            offset = rng.standard_normal((len(drawn.noise), 1, 1), np.float32)
            drawn = drawn._replace(noise=drawn.noise + np.float32(self.settings.offset_noise) * offset)
        plain = self.plain.get(cache.rows["prompt"].iloc[row])
        if kept and plain is not None and rng.random() >= self.settings.position_probability:
            drawn = drawn._replace(token_ids=plain)
        return drawn

    def _latents(
        self, cache: LatentCache, row: int, rng: np.random.Generator, step: int, token_ids: np.ndarray
    ) -> Draw:
        """A sample of the VAE's latents, scaled, and noise of their shape."""
        mean, log_variance = np.split(cache.moments[row].astype(np.float32), 2)
        sampled = mean + np.exp(0.5 * log_variance.clip(-30, 20)) * rng.standard_normal(mean.shape, np.float32)
        noise = rng.standard_normal(mean.shape, np.float32)
        return Draw(sampled * np.float32(self.pipeline.vae.config["scaling_factor"]), noise, step, token_ids)

    def _collate(self, draws: Sequence[Draw]) -> Batch:
        stacked = [torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True)]
        if self.device.type == "cuda":
            # From memory that may be swapped out a copy would wait for all steps before it.
            stacked[:3] = [part.pin_memory() for part in stacked[:3]]
        latents, noise, steps = (part.to(self.device, non_blocking=True) for part in stacked[:3])
        return Batch(latents, noise, steps, stacked[3])

    def _errors(self, module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Squared error of each image: (n,)."""
        distinct, which = torch.unique(batch.token_ids.long(), dim=0, return_inverse=True)
        seen = noisy(self.scheduler, batch.latents, batch.noise, batch.steps)
        predicted = module(seen, batch.steps, distinct, which.to(seen.device))
        return squared_error(predicted, target(self.scheduler, batch.latents, batch.noise, batch.steps))
