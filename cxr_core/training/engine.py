"""The training loop: steps from one checkpoint to the next, on a state that is saved and restored exactly."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import save_file

from cxr_core.errors import UserError
from cxr_core.models.tensors import read_header
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.progress import Bar
from cxr_core.training.ema import Ema
from cxr_core.training.preview import PreviewImages
from cxr_core.training.schedule import learning_rate
from cxr_core.training.settings import TrainSettings

FORMAT = 1

_LOOK_EVERY = 20
"""Steps between two looks at the losses: on a GPU a look at every step would make it wait for the CPU."""


class Task(Protocol):
    """What is trained. All that it computes is a function of the weights, the step and the task's own inputs."""

    @property
    def module(self) -> torch.nn.Module:
        """Holds all parameters that are trained (`requires_grad`), and is called by `loss`."""

    @property
    def training_mode(self) -> bool:
        """Whether the module is trained in training mode, for BatchNorm; it must hold no dropout then.

        Dropout would draw from torch's global state. Measured, drawn and exported is always in evaluation mode.
        """

    @property
    def num_parts(self) -> int:
        """Parts of a batch that go through the module one after another, so that it needs less memory."""

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """Loss of a part of the batch at `step` (from 0); all parts add up to the batch's mean loss.

        `module` is `self.module` as prepared for the device.
        """

    def examples(self, step: int) -> Sequence[str]:
        """What the batch at `step` shows: the ids of its images, or its texts."""

    def validation(self) -> dict[str, Any]:
        """What is measured on held-out patients' images, always the same ones: for the last metrics row.

        `validation_loss` is always there, and None without any such images.
        """

    def preview(self, step: int) -> PreviewImages | None:
        """Pictures of what the weights make after `step` steps, always of the same things; None without pictures."""

    def before_export(self) -> None:
        """Measure what belongs into the exported folder's configs."""

    def export(self, folder: Path, step: int) -> None:
        """Write the whole model, as it is after `step` steps, into a new folder."""


class Engine:
    """Weights and buffers, AdamW's moments, the moving average and the number of steps done, in one process."""

    writes = True
    """Whether this process writes what is saved and exported."""

    def __init__(self, task: Task, settings: TrainSettings) -> None:
        self.task, self.settings, self.step = task, settings, 0
        self.parameters = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        self.accelerator = self._accelerator()
        # Ours and not accelerate's, which has none on a CPU; without fp16 it does nothing.
        self.scaler = torch.amp.GradScaler(self.accelerator.device.type, enabled=settings.precision == "fp16")
        optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.module, self.optimizer = self._prepared(task.module.train(task.training_mode), optimizer)
        self.buffers = _saved_buffers(task.module)
        self.ema = None if settings.ema_decay is None else Ema(self._averaged(), settings.ema_decay)

    def train(self, stop: int, progress: Bar) -> list[dict[str, Any]]:
        """Step until `stop` steps are done. Returns a metrics row a step, its `step` counted from 1.

        Raises UserError naming the step and its images if a loss or a gradient is not finite. In fp16 a gradient may
        overflow: the step is then left out, with a `grad_norm` of None, and the loss is scaled by half as much.
        """
        rows: list[dict[str, Any]] = []
        while self.step < stop:
            num, start = min(_LOOK_EVERY, stop - self.step), time.monotonic()
            rows += self._some_steps(num)
            progress.advance(num, loss=rows[-1]["loss"], **self._pace(num, time.monotonic() - start))
        return rows

    def _pace(self, num: int, seconds: float) -> dict[str, Any]:
        """For who watches: how far it is, how fast the last `num` steps were, and the most memory of the GPU so far."""
        left = round((self.settings.steps - self.step) * seconds / num)
        pace = {"images_per_second": num * self.settings.batch_size / seconds, "step": self.step, "seconds_left": left}
        if self.accelerator.device.type == "cuda":
            pace["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return pace

    @contextlib.contextmanager
    def exported(self) -> Iterator[None]:
        """Inside the block the model is the one that a checkpoint exports: averaged, and in evaluation mode."""
        self.module.eval()
        try:
            # What is compiled is compiled for steps: previews and validation have batches of other sizes.
            with self.ema.applied() if self.ema else contextlib.nullcontext(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self.module.train(self.task.training_mode)

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block all weights can be read from the model, as for an export."""
        return contextlib.nullcontext()

    def agree(self, value: Any) -> Any:
        """`value` as the process that writes has it."""
        return value

    def save(self, folder: Path) -> None:
        """Write the whole state: `state.safetensors` and `state.json`. Equal states give equal bytes."""
        tensors = self._tensors()
        if not self.writes:
            return
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors")
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        write_json(folder / "state.json", {"format": FORMAT, "step": self.step, **scaler})

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit. Raises UserError if it is of another model or another format."""
        about, path = read_json(folder / "state.json"), folder / "state.safetensors"
        wanted = {f"weights/{name}": tuple(shape) for name, shape in self._shapes().items()}
        wanted |= {f"buffers/{name}": tuple(buffer.shape) for name, buffer in self.buffers.items()}
        found = {name: tensor.shape for name, tensor in read_header(path).items()}
        given = {name: shape for name, shape in found.items() if name.startswith(("weights/", "buffers/"))}
        if about["format"] != FORMAT or given != wanted or ("ema/" in {name[:4] for name in found}) != bool(self.ema):
            raise UserError(
                "the training state is of another model, other settings or another version",
                where=str(folder),
                hint="remove the stage's folder and run again, or start a run under another name",
            )
        self._restore(_Tensors(path))
        self.scaler.load_state_dict(about.get("scaler", {}))
        self.step = about["step"]

    def _some_steps(self, num: int) -> list[dict[str, Any]]:
        first = self.step
        values = self._over_ranks(torch.stack([self._one_step() for _ in range(num)])).tolist()
        return [self._row(step, value) for step, value in enumerate(values, first)]

    def _row(self, step: int, values: Sequence[float]) -> dict[str, Any]:
        loss, norm, scale = values
        # A gradient that is not finite although the loss was not scaled up did not overflow by that.
        if not math.isfinite(loss) or (not math.isfinite(norm) and scale <= 1):
            raise self._not_finite(step, f"the loss is {loss} and its gradient's norm {norm}")
        row: dict[str, Any] = {"step": step + 1, "loss": loss, "lr": learning_rate(self.settings, step)}
        row["grad_norm"] = norm if math.isfinite(norm) else None
        return row | ({"loss_scale": scale} if self.scaler.is_enabled() else {})

    def _one_step(self) -> torch.Tensor:
        """One step. Returns what `_updates` does; waits for it in fp16 alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step)
        values = self._updates()
        self.step += 1
        if self.ema:
            self.ema.update(self.step)
        return values

    def _updates(self) -> torch.Tensor:
        """All updates of weights that a step makes. Returns (loss, gradient norm, scale of the loss) of each."""
        return self._update(lambda part: self.task.loss(self.module, self.step, part))

    def _update(self, loss_of: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """One update of the weights that a loss reaches, from its parts. Returns as `_updates`."""
        loss, scale = torch.zeros((), device=self.accelerator.device), self.scaler.get_scale()
        for part in self._parts:
            with self._mixed_precision():
                share = loss_of(part)
            self.accelerator.backward(self.scaler.scale(share))
            loss += share.detach()
        self._sum_gradients()
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.max_grad_norm or float("inf")
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return torch.stack([loss, norm.float(), torch.full_like(loss, scale)])

    def _mixed_precision(self) -> contextlib.AbstractContextManager[None]:
        if self.scaler.is_enabled():
            return torch.autocast(self.accelerator.device.type, torch.float16)
        return self.accelerator.autocast()

    def _accelerator(self) -> Accelerator:
        # One process may train several stages, each in its own precision; accelerate's state is shared by all objects.
        AcceleratorState._reset_state()
        return Accelerator(mixed_precision="bf16" if self.settings.precision == "bf16" else "no")

    def _prepared(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Both as accelerate hands them out for the device."""
        prepared: tuple[Any, Any] = self.accelerator.prepare(module, optimizer)
        return prepared

    @property
    def _parts(self) -> range:
        """The parts of each batch that this process computes."""
        return range(self.task.num_parts)

    def _sum_gradients(self) -> None:
        """Add up the gradients of all processes, where the backward pass has not."""

    def _held(self) -> dict[str, torch.Tensor]:
        """What this process holds of each parameter that is trained."""
        return dict(self.parameters)

    def _averaged(self) -> dict[str, torch.Tensor]:
        """What the moving average is of: weights, and with them the statistics that they were gathered with."""
        return self._held() | {name: b for name, b in self.buffers.items() if b.is_floating_point()}

    def _shapes(self) -> dict[str, torch.Size]:
        """Of each parameter that is trained."""
        return {name: parameter.shape for name, parameter in self.parameters.items()}

    def _over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """What `_updates` returned, a row a step, with the losses of all processes added up."""
        return values

    def _not_finite(self, step: int, what: str) -> UserError:
        return UserError(
            f"{what} at step {step + 1}, on {', '.join(self.task.examples(step))}",
            where=f"stage {self.settings.name!r}",
            hint="look at these, lower learning_rate or raise warmup_steps; the last checkpoint is kept",
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"buffers/{name}": buffer for name, buffer in self.buffers.items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in (self.ema.average if self.ema else {}).items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        return tensors

    @torch.no_grad()
    def _restore(self, found: Mapping[str, torch.Tensor]) -> None:
        moments: dict[int, dict[str, torch.Tensor]] = {}
        trained = list(self.parameters.values())
        for name, tensor in found.items():
            kind, _, rest = name.partition("/")
            if kind == "weights":
                self.parameters[rest].copy_(tensor)
            elif kind == "buffers":
                self.buffers[rest].copy_(tensor)
            elif kind == "ema" and self.ema:
                self.ema.average[rest].copy_(tensor)
            else:
                index, _, key = rest.partition("/")
                # Laid out in memory as the weights are: the fused optimizer goes through both side by side, and would
                # pair other numbers without an error.
                like = trained[int(index)] if tensor.shape == trained[int(index)].shape else tensor
                moments.setdefault(int(index), {})[key] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


class _Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a file by name, each read when it is asked for: several ranks of one machine read the same."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(str(path), "pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _saved_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What layers gather while they train, such as BatchNorm's statistics; not what they can compute anew."""
    saved = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}


@contextlib.contextmanager
def threads(num: int) -> Iterator[None]:
    """Compute with `num` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
