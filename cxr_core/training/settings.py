"""Settings of the stages that train: latents (what training reads), and train with its models."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from cxr_core.settings import Formerly, Settings, StageSettings, check_whole_batches
from cxr_core.training.data_order import spread
from cxr_core.training.ranks_settings import DiffusionRanks, Ranks, check_shares

Sha256 = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class LatentsInputs(Settings):
    """What is encoded, and by which model."""

    dataset: str
    """The Dataset whose training and validation images are encoded: a stage or a folder."""
    base: str
    """The model whose VAE and tokenizer encode: a train stage (its final checkpoint) or a diffusers folder."""


class LatentsStage(StageSettings):
    """Encode images and prompts once, so that training never decodes a PNG or runs the VAE."""

    kind: Literal["latents"]
    """The kind of this stage."""
    inputs: LatentsInputs
    """What is encoded, and by which model."""
    base_sha256: str | None = Sha256
    """Lock on a `base` that is a folder: it must have this digest (see `weights_sha256`)."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored moments. Half precision is far finer than the VAE's own reconstruction error."""
    train_images: PositiveInt | None = None
    """Of the training images at most so many, whole patients in the order of a hash that no seed changes: a generator
    that learns from these has seen the very images that an evaluation's `num_real` of as many takes. Null: all."""
    batch_size: PositiveInt = 32
    """Images encoded together. Values drift in the last bit with it, so it is part of the plan."""
    shard_size: PositiveInt = 4096
    """Images per shard: a multiple of batch_size, so that no batch crosses a shard."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        check_whole_batches(self.shard_size, self.batch_size)
        return self


class Keep(Settings):
    """Which checkpoints stay when newer ones are there. Previews and metrics always stay."""

    last: PositiveInt = 1
    """The newest ones."""
    every: PositiveInt | None = None
    """Besides, those whose step is a multiple of this (a multiple of checkpoint_every)."""


class TrainSettings(StageSettings):
    """What training has whatever the model. A shard of the stage is an interval between two checkpoints."""

    kind: Literal["train"]
    """The kind of this stage."""
    steps: PositiveInt
    """Optimiser steps in all."""
    batch_size: PositiveInt
    """Images per step over all devices together."""
    checkpoint_every: PositiveInt
    """Steps from one checkpoint to the next: what is lost at most when a job is killed."""
    keep: Keep = Keep()
    """Which checkpoints stay."""
    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after warm-up: kept, or falling to zero at the last step in a line or half a cosine."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises in a line from zero to its peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of AdamW's first and second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients with a larger global L2 norm are scaled down to it; null leaves them."""
    ema_decay: float | None = Field(default=0.999, gt=0, lt=1)
    """Decay of the moving average of the weights that checkpoints export; null exports the weights themselves."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 compute in mixed precision with fp32 weights; for GPUs only, CPUs are many times slower with it.
    fp16 is for GPUs without bf16: the loss is scaled so that small gradients survive, a step whose gradients overflow
    is left out, and the attention of Stable Diffusion 2.x, which overflows in fp16, is computed in fp32. Of a PG-GAN
    the gradient penalty, the norms and the last layer of the score are fp32 in either."""
    validation_images: int = Field(default=64, ge=0)
    """Images of held-out patients on which the loss is measured at each checkpoint; 0 measures none."""

    def num_images(self, start: int, stop: int) -> int:
        """Images that are shown from step `start` to `stop`."""
        return (stop - start) * self.batch_size

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}: lower it")
        if self.keep.every is not None and self.keep.every % self.checkpoint_every:
            raise ValueError(
                f"keep.every {self.keep.every} is no multiple of checkpoint_every {self.checkpoint_every}: "
                "no checkpoint would ever match some of its steps"
            )
        return self


class RankedTrain(TrainSettings):
    """Training whose batches several ranks can share."""

    ranks: Ranks | None = None
    """Share each batch between GPUs or nodes. Null: train in one process."""

    @property
    def num_ranks(self) -> int:
        return self.ranks.num if self.ranks else 1


class VaeInputs(Settings):
    """What the VAE learns from."""

    dataset: str
    """The Dataset of its images: a stage or a folder."""
    base: str | None = None
    """The model whose VAE is trained further: a train stage or a diffusers folder. Without it, see `preset`."""


class VaeTrain(TrainSettings):
    """Train the VAE of a Stable Diffusion model: images to latents and back (Rombach et al. 2022, arXiv 2112.10752)."""

    model: Literal["vae"]
    """What is trained."""
    inputs: VaeInputs
    """What it learns from."""
    preset: Literal["nano", "tiny"] | None = None
    """Start from random weights in one of these sizes (see `cxr_core.models.presets`); not together with `base`."""
    base_sha256: str | None = Sha256
    """Lock on a `base` that is a folder: it must have this digest (see `weights_sha256`)."""
    edge_weight: float = Field(default=1.0, ge=0)
    """Weight of the L1 distance between image gradients at several scales, beside that between pixels."""
    kl_weight: float = Field(default=1e-6, ge=0)
    """Weight of the Kullback-Leibler divergence of the latents from a normal distribution."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.preset is None) == (self.inputs.base is None):
            raise ValueError("give either preset (random weights) or inputs.base (pretrained weights)")
        return self


class TextEncoderInputs(Settings):
    """Where the text encoder starts."""

    base: str
    """The model whose text encoder is trained: a train stage or a diffusers folder. Its other parts stay the same."""


class TextEncoderTrain(TrainSettings):
    """Teach a text encoder of random weights the words of our prompts, by texts alone: every output comes to tell which
    words were said. A published model's can read, and needs no such stage."""

    model: Literal["text_encoder"]
    """What is trained."""
    inputs: TextEncoderInputs
    """Where it starts."""
    base_sha256: str | None = Sha256
    """Lock on a `base` that is a folder: it must have this digest (see `weights_sha256`)."""
    validation_images: int = Field(default=256, ge=0)
    """Texts, not images here, on which the loss is measured at each checkpoint; 0 measures none."""


class DiffusionInputs(Settings):
    """What the denoiser learns from, and where it starts."""

    latents: str
    """The latents stage that encoded images and prompts."""
    base: str
    """The model that is fine-tuned: a train stage (its final checkpoint) or a diffusers folder."""
    prior: str | None = None
    """Latents of images that `base` made (a latents stage of a generate stage): part of each batch shows them, so that
    fine-tuning on few images does not forget what the model could. Prior preservation of DreamBooth (Ruiz et al. 2022,
    arXiv 2208.12242)."""


class Preview(Settings):
    """The pictures made at each checkpoint, always from the same prompts and the same noise."""

    prompts: tuple[str, ...] = ()
    """What is drawn; empty: the commonest training prompts."""
    num_prompts: int = Field(default=8, ge=1, le=64)
    """How many of the commonest prompts, where `prompts` is empty."""
    images_per_prompt: int = Field(default=1, ge=1, le=16)
    """Images of each prompt, from as many noises; the noises are the same for every prompt."""
    denoising_steps: Annotated[int, Formerly("steps")] = Field(default=15, ge=1, le=1000)
    """DPM-Solver++ steps (Lu et al. 2022, arXiv 2211.01095)."""
    guidance: float = Field(default=3.0, ge=1.0, le=30.0)
    """Classifier-free guidance scale (Ho and Salimans 2022, arXiv 2207.12598)."""


class Sampling(Settings):
    """How often an epoch shows an image: once, or oftener the rarer what it shows, by at most one of two rules. What
    came of it is in the stage's plan/sampling.json and in the report."""

    repeat_threshold: Annotated[float | None, Formerly("repeat_below")] = Field(default=None, gt=0, le=1)
    """By finding: images of one that is rarer than this share come sqrt(repeat_threshold / share) times (repeat factor
    sampling, Gupta et al. 2019, arXiv 1908.03195). 1 takes in all findings; an image without any comes once."""
    frequency_exponent: Annotated[float | None, Formerly("temper")] = Field(default=None, ge=0, le=1)
    """By combination of findings, and of places where prompts say them, No Finding being one: with n images its share
    of an epoch goes as n ** frequency_exponent. 0 shows all combinations equally often (class-balanced), 0.5 by the
    square root of how common they are, 1 as they are."""
    min_positioned_share: Annotated[float | None, Formerly("placed_share")] = Field(default=None, gt=0, lt=1)
    """Images whose prompt says where a finding is make up at least this share of an epoch, by being repeated: where a
    thousand of a hundred thousand images have bounding boxes. On top of the other rules."""
    max_repeats: Annotated[PositiveInt, Formerly("most_repeats")] = 20
    """No image comes oftener than this in an epoch: combinations of a handful of images would be learnt by heart."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.repeat_threshold is not None and self.frequency_exponent is not None:
            raise ValueError("repeat_threshold and frequency_exponent are two rules for the same thing: remove one")
        return self


class Lora(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): the weights stay, small matrices beside them are trained.
    A checkpoint is the whole model with them merged; lora/ in it holds them alone, as diffusers loads them."""

    rank: PositiveInt = 16
    """Columns of the matrices: how much can be learnt, and how large they are."""
    alpha: float | None = Field(default=None, gt=0)
    """What they make is scaled by alpha / rank; null: as rank, so by 1."""
    unet_targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Layers of the UNet that get them, by the end of their names: those of attention."""
    text_encoder_targets: tuple[str, ...] = Field(default=("q_proj", "k_proj", "v_proj", "out_proj"), min_length=1)
    """Layers of the text encoder that get them, where it is trained."""


class DiffusionTrain(RankedTrain):
    """Fine-tune the UNet and the text encoder of a Stable Diffusion model, or one of them, on cached latents."""

    model: Literal["diffusion"]
    """What is trained."""
    inputs: DiffusionInputs
    """What it learns from, and where it starts."""
    base_sha256: str | None = Sha256
    """Lock on a `base` that is a folder: it must have this digest (see `weights_sha256`)."""
    train_unet: bool = True
    """Train the UNet. False: only the text encoder, as the study did before it trained the UNet."""
    train_text_encoder: bool = True
    """Train the text encoder, jointly with the UNet."""
    lora: Lora | None = None
    """Train adapters in place of the weights of these parts (1e-4 is a usual learning rate). Null: the weights."""
    sampling: Sampling = Sampling()
    """How often images of rare findings are shown."""
    prior_weight: float = Field(default=1.0, gt=0)
    """Weight of the mean loss of `inputs.prior`'s images beside that of the training images."""
    prior_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the batch that shows images of `inputs.prior`, where there is one, always at the same positions."""
    micro_batch: PositiveInt | None = None
    """Images that go through the model at once; the gradients of a batch are added up (gradient accumulation), so the
    result is that of the whole batch but for rounding. Null: all. Smaller needs less memory."""
    ranks: DiffusionRanks | None = None
    """Share each batch between GPUs or nodes. Null: train in one process."""
    gradient_checkpointing: bool = False
    """Compute activations again when the gradient needs them: far less memory, about a third more time."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """How the UNet computes attention: torch's own, or xformers', which needs a GPU and the extra `gpu`."""
    compile: bool = False
    """Compile the UNet before its first step (torch.compile), which takes minutes in every process and then spares some
    of each step: for long runs on a GPU. Checkpoints are the same folders."""
    position_probability: Annotated[float, Formerly("say_places")] = Field(default=1.0, ge=0, le=1)
    """Share of the times that an image whose prompt says where a finding is goes with that prompt; else with the same
    one without places, so that the model learns what the place adds, and can be asked without."""
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of captions replaced by the empty one, which classifier-free guidance needs."""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Weigh each image's loss by its noise, min-SNR (Hang et al. 2023, arXiv 2303.09556; 5 is usual), so that images
    with hardly any noise count less. Null: all count the same. The validation loss is never weighed."""
    offset_noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of noise that is the same at every place of a channel, added to that of each place: the model
    then learns to change the brightness of the whole image (0.05 to 0.1 is usual). Not in the validation loss."""
    preview: Preview = Preview()
    """The pictures made at each checkpoint."""

    @property
    def at_once(self) -> int:
        """Images that go through the model at once, on each rank."""
        share = self.batch_size // self.num_ranks
        return min(self.micro_batch or share, share)

    @property
    def prior_positions(self) -> np.ndarray:
        """Which positions of the global batch show images of `inputs.prior`: bool (batch_size,)."""
        return spread(self.batch_size, self.prior_share if self.inputs.prior else 0.0)

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if not self.train_unet and not self.train_text_encoder:
            raise ValueError("nothing is trained: set train_unet or train_text_encoder")
        return self

    @model_validator(mode="after")
    def _ranks_share_the_batch(self) -> Self:
        check_shares({f"batch_size {self.batch_size}": self.batch_size}, self.num_ranks)
        return self

    @model_validator(mode="after")
    def _ranks_can_do_it(self) -> Self:
        if self.ranks and self.precision == "fp16":
            raise ValueError("fp16 is for one process, without ranks: set precision: bf16")
        if self.ranks and self.ranks.zero == 3 and self.compile:
            raise ValueError("with zero: 3 the weights come and go between layers: set compile: false, or zero to 2")
        return self

    @model_validator(mode="after")
    def _room_for_prior(self) -> Self:
        if self.inputs.prior and not 0 < self.prior_positions.sum() < self.batch_size:
            raise ValueError(
                f"prior_share {self.prior_share:g} of batch_size {self.batch_size} leaves no room for training images "
                "and for those of inputs.prior: raise batch_size"
            )
        return self
