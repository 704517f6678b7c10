"""The peer of training: what fine-tuning scripts do in a step."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from cxr_core.training.diffusion import Batch


class Script:
    """Encodes its images and its prompts in every step, then trains the UNet of `pipeline`.

    With `half` what is frozen is in bfloat16, and the rest computes in mixed precision.
    """

    def __init__(self, pipeline: Any, *, half: bool = False) -> None:
        self.parts, self.half, self.device = pipeline, half, pipeline.unet.device
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        for part in (pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).to(dtype=torch.bfloat16 if half else torch.float32)
        pipeline.unet.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-5, betas=(0.9, 0.99), weight_decay=0.01)

    def step(self, pixels: torch.Tensor, chance: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Pixels (n, 3, height, width) in [-1, 1]; `chance` is what samples their latents. Returns the loss."""
        with torch.no_grad():
            found = self.parts.vae.encode(pixels.to(self.parts.vae.dtype)).latent_dist
            latents = (found.mean + found.std * chance).float() * self.parts.vae.config.scaling_factor
            text = self.parts.text_encoder(batch.token_ids.long().to(self.device))[0]
        seen = self.scheduler.add_noise(latents, batch.noise, batch.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            predicted = self.parts.unet(seen, batch.steps, encoder_hidden_states=text).sample
        loss = F.mse_loss(predicted.float(), batch.noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parts.unet.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()
