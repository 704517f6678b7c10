"""The training loop on several ranks, by accelerate: DeepSpeed's ZeRO 1 to 3, or torch's DDP where nothing is shared.

The state is gathered into the very file that one process writes, rather than left as DeepSpeed's own checkpoint: that
one is bound to its number of ranks until a second program has converted it, while this one is read by any number, with
and without DeepSpeed. It costs that rank 0 holds all moments once in host memory.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, GradientAccumulationPlugin, InitProcessGroupKwargs
from deepspeed.utils import (
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)

from cxr_core.training.engine import Task
from cxr_core.training.ranked import RankedEngine
from cxr_core.training.settings import DiffusionTrain
from cxr_core.training.world import World, no_compiled_operators

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedEngine(RankedEngine):
    """See `RankedEngine`; `loss` of the task is the only one, and the prepared module reduces its gradients."""

    settings: DiffusionTrain

    def __init__(self, task: Task, settings: DiffusionTrain, *, world: World) -> None:
        assert settings.ranks is not None
        self.zero = settings.ranks.zero
        super().__init__(task, settings, world=world)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        if self.zero < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.task.module.parameters())):
            yield

    def _accelerator(self) -> Accelerator:
        AcceleratorState._reset_state()
        on_gpu = torch.cuda.is_available()
        parts = GradientAccumulationPlugin(num_steps=len(self._parts), sync_with_dataloader=False)
        if not self.zero:
            precision = "bf16" if self.settings.precision == "bf16" else "no"
            return Accelerator(mixed_precision=precision, cpu=not on_gpu, gradient_accumulation_plugin=parts)
        no_compiled_operators()
        return Accelerator(
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=self._deepspeed_config()),
            gradient_accumulation_plugin=parts,
            # Without this, accelerate takes ranks on CPUs for processes that do not know each other.
            kwargs_handlers=[] if on_gpu else [InitProcessGroupKwargs(backend="gloo")],
        )

    def _deepspeed_config(self) -> dict[str, Any]:
        settings = self.settings
        zero: dict[str, Any] = {"stage": self.zero, "contiguous_gradients": True}
        if self.zero == 3:
            # Weights that DeepSpeed would keep whole would not follow when the average takes their place.
            zero["stage3_param_persistence_threshold"] = 0
        if settings.ranks and settings.ranks.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        mixed = settings.precision == "bf16"
        return {
            "train_micro_batch_size_per_gpu": settings.at_once,
            "gradient_accumulation_steps": len(self._parts),
            "gradient_clipping": settings.max_grad_norm or 0.0,
            "zero_optimization": zero,
            # torch's AdamW, in fp32 on fp32 weights: what one process computes with, and nothing has to be compiled.
            "zero_force_ds_cpu_optimizer": False,
            # As one process does; DeepSpeed's own bf16 would round the weights. Gradients are added up in fp32.
            "torch_autocast": {"enabled": mixed, "dtype": "bfloat16", "lower_precision_safe_modules": []},
            "steps_per_print": 2**31,
        }

    def _updates(self) -> torch.Tensor:
        loss = torch.zeros((), device=self.accelerator.device)
        for part in self._parts:
            with self.accelerator.accumulate(self.module):
                with self.accelerator.autocast():
                    share = self.task.loss(self.module, self.step, part)
                # Both average over ranks and over a rank's parts, and our parts add up to the mean.
                self.accelerator.backward(share * self.task.num_parts)
            loss += share.detach()
        norm = self._norm()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack([loss, norm.to(loss), torch.ones_like(loss)])

    def _norm(self) -> torch.Tensor:
        """Of the whole gradient, which is clipped. With DeepSpeed `backward` did so, and has made the step."""
        if self.zero:
            return torch.as_tensor(self.module.get_global_grad_norm())
        limit = self.settings.max_grad_norm or float("inf")
        return self.accelerator.clip_grad_norm_(self.parameters.values(), limit)

    def _held(self) -> dict[str, torch.Tensor]:
        if self.zero < 3:
            return super()._held()
        parameters: dict[str, Any] = super()._held()
        return {name: parameter.ds_tensor for name, parameter in parameters.items()}

    def _shapes(self) -> dict[str, torch.Size]:
        parameters: dict[str, Any] = super()._held()
        return {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters.items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        if not self.zero:
            return super()._tensors()
        kept: dict[str, torch.Tensor] = {}
        for name, tensor in self._each_tensor():
            if self.writes:
                kept[name] = tensor.detach().cpu()
        return kept

    def _each_tensor(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What `Engine` keeps, by the same names: each gathered from all ranks when its turn comes."""
        yield from ((f"weights/{name}", self._full(name, held)) for name, held in self._held().items())
        yield from ((f"buffers/{name}", buffer) for name, buffer in self.buffers.items())
        average = self.ema.average if self.ema else {}
        yield from ((f"ema/{name}", self._full(name, held)) for name, held in average.items())
        for index, parameter in enumerate(self.parameters.values()):
            yield f"optimizer/{index}/step", torch.tensor(float(self.step))
            for key in _MOMENTS:
                yield f"optimizer/{index}/{key}", safe_get_full_optimizer_state(parameter, key)

    def _full(self, name: str, held: torch.Tensor) -> torch.Tensor:
        """The whole tensor of the shape of a parameter, of which this rank holds `held`."""
        if self.zero < 3 or name not in self.parameters:
            return held
        parameter: Any = self.parameters[name]
        gathered = torch.empty(self.world.size * held.numel(), dtype=held.dtype, device=held.device)
        dist.all_gather_into_tensor(gathered, held.contiguous())
        return gathered[: parameter.ds_numel].view(parameter.ds_shape)

    def _own(self, name: str, full: torch.Tensor) -> torch.Tensor:
        """What this rank holds of a whole tensor: the inverse of `_full`."""
        if self.zero < 3 or name not in self.parameters:
            return full
        num = self._held()[name].numel()
        padded = torch.nn.functional.pad(full.flatten(), (0, num * self.world.size - full.numel()))
        return padded[num * self.world.rank : num * (self.world.rank + 1)]

    @torch.no_grad()
    def _restore(self, found: Mapping[str, torch.Tensor]) -> None:
        if not self.zero:
            super()._restore(found)
            return
        for name, held in self._held().items():
            held.copy_(self._own(name, found[f"weights/{name}"]).view_as(held))
        for name, buffer in self.buffers.items():
            buffer.copy_(found[f"buffers/{name}"])
        for name, average in (self.ema.average if self.ema else {}).items():
            average.copy_(self._own(name, found[f"ema/{name}"]).view_as(average))
        zero = self.optimizer.optimizer
        zero.refresh_fp32_params()
        self._make_moments(zero, found["optimizer/0/step"])
        for index, (name, parameter) in enumerate(self.parameters.items()):
            for key in _MOMENTS:
                full = found[f"optimizer/{index}/{key}"]
                if self.zero < 3:
                    safe_set_full_optimizer_state(parameter, full, key)
                else:
                    safe_set_local_optimizer_state(parameter, self._own(name, full), key)

    def _make_moments(self, zero: Any, step: torch.Tensor) -> None:
        """What AdamW makes at its first step only, of the pieces that DeepSpeed lets it see."""
        pieces = zero.single_partition_of_fp32_groups if self.zero < 3 else zero.fp32_partitioned_groups_flat
        for piece in pieces:
            moments = {key: torch.zeros_like(piece) for key in _MOMENTS}
            zero.optimizer.state[piece] = {"step": step.to(piece.device), **moments}
        if self.zero < 3:
            zero._lazy_init_hp_params_optimizer_state()
