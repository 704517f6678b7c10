"""One shard of a synthetic Dataset: its rows of the list in fixed batches, sampled, looked at, written."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from cxr_core.data.dataset import dataset_digest, write_parquet
from cxr_core.data.findings import Findings
from cxr_core.data.problems import problem
from cxr_core.errors import UserError
from cxr_core.generation.batches import batches, draw_in_memory
from cxr_core.generation.first_draws import ROWS, TAR, is_sampled
from cxr_core.generation.gate import Gatekeeper, Verdict
from cxr_core.generation.pggan import BankLatents, draw_rows, open_latents, open_pggan
from cxr_core.generation.requests import image_seed
from cxr_core.generation.series import MadeSeries
from cxr_core.generation.settings import Gate, GenerateStage
from cxr_core.generation.writer import BackgroundWriter
from cxr_core.models.pggan import PgGan
from cxr_core.models.sampler import Model, decode, encode_prompts, load_model, recorded, sample_rows
from cxr_core.runs.files import canonical_json
from cxr_core.runs.progress import bar
from cxr_core.runs.stage import Output

Row: TypeAlias = Mapping[str, Any]
"""A row of the list: image_id, labels, view, prompt, seed, request."""

_BLANK = 1.0
"""An image whose grey values have a smaller standard deviation (of 255) shows nothing."""

LOOKS = pa.schema(
    [
        ("image_id", pa.string()),
        ("labels", pa.int64()),
        ("draw", pa.int16()),
        ("stored", pa.bool_()),
        ("reasons", pa.list_(pa.string())),  # kinds; none where it passed
        ("scores", pa.list_(pa.float32())),  # in the order of the rule's findings
    ]
)
"""What a gate saw: a row for each draw of each image."""


@dataclass
class Clock:
    """Seconds by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self.seconds.items()}


@dataclass(frozen=True)
class Drawn:
    """One draw of an image: pixels uint8 (height, width), how many were sampled together, and the gate's verdict."""

    row: Row
    draw: int
    pixels: np.ndarray
    batch_size: int
    verdict: Verdict | None


class Drawer:
    """Samples batches of rows, in parts where the planned size does not fit into memory; `size` is what did."""

    def __init__(
        self, model: Model, texts: Mapping[str, torch.Tensor], settings: GenerateStage, series: MadeSeries, clock: Clock
    ) -> None:
        self.size = settings.batch_size
        self.clock = clock
        self._model, self._texts, self._dtype = model, texts, settings.dtype
        self._how = recorded(series.sampler, series.solver, model)

    def draw(self, batch: Sequence[Row]) -> np.ndarray:
        """Images uint8 (n, height, width). Raises UserError naming the images where the model gives NaN."""
        greys, self.size = draw_in_memory(self._draw, batch, self.size)
        _refuse_nan(greys, batch, self._dtype)
        return to_uint8(greys)

    def _draw(self, batch: Sequence[Row]) -> np.ndarray:
        with self.clock.part("sample"):
            latents = sample_rows(self._model, self._texts, batch, **self._how)
        with self.clock.part("decode"):
            return decode(self._model, latents)


class LatentDrawer(Drawer):
    """A `Drawer` of a PG-GAN."""

    def __init__(
        self, model: PgGan, bank: BankLatents | None, settings: GenerateStage, series: MadeSeries, clock: Clock
    ) -> None:
        self.size, self.clock, self._dtype = settings.batch_size, clock, settings.dtype
        self._gan, self._bank, self._noise = model, bank, series.noise

    def _draw(self, batch: Sequence[Row]) -> np.ndarray:
        with self.clock.part("sample"):
            return draw_rows(self._gan, batch, self._bank, self._noise)


def generate_shard(
    settings: GenerateStage,
    series: MadeSeries,
    checkpoint: Path,
    images: pa.Table,
    facts: Mapping[str, Any],
    work: Path,
    *,
    seed: int,
    gatekeeper: Gatekeeper | None = None,
    bank: Path | None = None,
) -> Output:
    """Draw `images` (rows of the frozen list) into `work`: a tar, its rows, what the gate saw, and all oddities.

    All are of one `series`, whose latents come from a `bank` if it says so. `facts` holds the dataset's `findings` and
    `num_images`, and what each image records of its making beside its series (`generation`); `seed` is the stage's,
    from which re-draws have theirs. Raises UserError naming the images where the model gives NaN.
    """
    torch.set_num_threads(settings.threads)
    clock, log = Clock(), _Log(settings.gate, facts["num_images"])
    drawer = _drawer(settings, series, checkpoint, bank, images["prompt"].to_pylist(), clock)
    generation = {**facts["generation"], **series.sampler, "model": series.model}
    findings = Findings(tuple(facts["findings"]))
    writer = BackgroundWriter(work / "images.tar", findings)
    with writer, bar(f"{settings.name}: images", len(images)) as progress:
        for drawn, num_draws in _stored(images.to_pylist(), drawer, settings, seed, gatekeeper, log):
            writer.put(drawn.pixels, _row(drawn, num_draws, generation, gatekeeper))
            progress.advance()
    rows = writer.rows()
    write_parquet(work / "rows.parquet", rows)
    paths = {"tar": work / "images.tar", "rows": work / "rows.parquet"}
    if gatekeeper:
        paths["gate"] = work / "gate.parquet"
        write_parquet(paths["gate"], log.looks())
        firsts = [_row(drawn, 1, generation, gatekeeper) | {"pixels": drawn.pixels} for drawn in log.firsts]
        paths |= _write_firsts(firsts, findings, work)
    return Output(
        paths=paths,
        digest=dataset_digest(rows.to_pandas()),
        counts={"images": len(images), **log.counts, "smallest_batch": drawer.size},
        problems=log.problems,
        seconds={**clock.rounded(), "waiting for the writer": round(writer.waited, 3)},
    )


def _drawer(
    settings: GenerateStage,
    series: MadeSeries,
    checkpoint: Path,
    bank: Path | None,
    prompts: Sequence[str],
    clock: Clock,
) -> Drawer:
    with clock.part("load"):
        if series.kind == "pggan":
            latents = open_latents(bank, series.sampler)
            return LatentDrawer(open_pggan(checkpoint), latents, settings, series, clock)
        model = load_model(
            checkpoint,
            settings.dtype,
            channels_last=settings.channels_last,
            compiled=settings.compile,
            attention=settings.attention,
        )
    with clock.part("prompts"):
        texts = encode_prompts(model, ["", *prompts])
    return Drawer(model, texts, settings, series, clock)


def _write_firsts(rows: Sequence[dict[str, Any]], findings: Findings, work: Path) -> dict[str, Path]:
    """The sampled first draws of a shard, if it has any: files by their roles."""
    if not rows:
        return {}
    paths = {TAR: work / "first.tar", ROWS: work / "first.parquet"}
    with BackgroundWriter(paths[TAR], findings) as writer:
        for row in rows:
            writer.put(row.pop("pixels"), row)
    write_parquet(paths[ROWS], writer.rows())
    return paths


def to_uint8(greys: np.ndarray) -> np.ndarray:
    """Grey values float 0..255, rounded to uint8."""
    return np.rint(greys).astype(np.uint8)


def _stored(
    rows: Sequence[Row],
    drawer: Drawer,
    settings: GenerateStage,
    seed: int,
    gatekeeper: Gatekeeper | None,
    log: "_Log",
) -> Iterator[tuple[Drawn, int]]:
    """Each image once, as soon as it passes or its draws are used up (then the best of them), and its draws so far."""
    best: dict[str, Drawn] = {}
    max_draws = settings.gate.max_draws if settings.gate else 1
    for draw in range(max_draws):
        rejected: list[Row] = []
        again = [{**row, "seed": image_seed(seed, row["image_id"], draw)} for row in rows] if draw else rows
        for drawn in _drawn(again, drawer, settings.batch_size, draw, gatekeeper):
            image_id = drawn.row["image_id"]
            best[image_id] = _better(best.get(image_id), drawn)
            if drawn.verdict and not drawn.verdict.passed and draw + 1 < max_draws:
                rejected.append(drawn.row)
                log.look(drawn)
                continue
            chosen = best.pop(image_id)
            log.look(drawn, chosen)
            if gatekeeper and not (chosen.verdict and chosen.verdict.passed):
                gatekeeper.store(chosen.pixels)
            yield chosen, draw + 1
        rows = rejected


def _drawn(
    rows: Sequence[Row], drawer: Drawer, batch_size: int, draw: int, gatekeeper: Gatekeeper | None
) -> Iterator[Drawn]:
    """One draw of each row, in their order, looked at where there is a gate."""
    for batch, wanted in batches(rows, batch_size, is_redraw=draw > 0):
        pixels = drawer.draw(batch)[:wanted]
        verdicts: Iterable[Verdict | None] = [None] * wanted
        if gatekeeper:
            with drawer.clock.part("gate"):
                verdicts = gatekeeper.examine(pixels, [row["labels"] for row in batch[:wanted]])
        for row, image, verdict in zip(batch[:wanted], pixels, verdicts, strict=True):
            yield Drawn(row, draw, image, drawer.size, verdict)


def _better(before: Drawn | None, drawn: Drawn) -> Drawn:
    """The better of two draws of an image; of equal ones the first."""
    if before is None or before.verdict is None or drawn.verdict is None:
        return drawn
    if drawn.verdict.passed:
        return drawn
    return drawn if drawn.verdict.rank > before.verdict.rank else before


class _Log:
    """What was odd about draws, what the gate saw of each, and the sample of first ones."""

    def __init__(self, gate: Gate | None, num_images: int) -> None:
        self.firsts: list[Drawn] = []
        self._sampled = partial(is_sampled, wanted=gate.first_draws if gate else 0, num_images=num_images)
        self.problems: list[dict[str, str]] = []
        self.counts = {"blank": 0, "rejected": 0, "kept_in_spite": 0}
        self._looks: list[dict[str, Any]] = []
        self._stored: set[tuple[str, int]] = set()

    def look(self, drawn: Drawn, chosen: Drawn | None = None) -> None:
        """One draw, and the one that is stored where this was the last."""
        image_id = drawn.row["image_id"]
        if drawn.draw == 0 and self._sampled(image_id):
            self.firsts.append(drawn)
        if drawn.verdict is not None:
            self._note_verdict(drawn, drawn.verdict, chosen)
        if chosen is not None:
            self._stored.add((image_id, chosen.draw))
            spread = float(chosen.pixels.std())
            if spread < _BLANK:
                self.counts["blank"] += 1
                detail = f"grey values spread by only {spread:.2f} of 255"
                self.problems.append(problem("blank", image_id, "", detail, "kept"))

    def looks(self) -> pa.Table:
        """All draws (`LOOKS`)."""
        told = [{**look, "stored": (look["image_id"], look["draw"]) in self._stored} for look in self._looks]
        return pa.Table.from_pylist(told, schema=LOOKS)

    def _note_verdict(self, drawn: Drawn, verdict: Verdict, chosen: Drawn | None) -> None:
        image_id = drawn.row["image_id"]
        look = {"image_id": image_id, "labels": drawn.row["labels"], "draw": drawn.draw}
        reasons = [kind for kind, _ in verdict.reasons]
        self._looks.append({**look, "reasons": reasons, "scores": verdict.scores.tolist()})
        self.counts["rejected"] += not verdict.passed
        self.counts["kept_in_spite"] += not verdict.passed and chosen is not None
        action = "drawn again" if chosen is None else f"draw {chosen.draw} kept, the best of {drawn.draw + 1}"
        self.problems += [
            problem(kind, image_id, "", f"draw {drawn.draw}: {detail}", action) for kind, detail in verdict.reasons
        ]


def _refuse_nan(greys: np.ndarray, batch: Sequence[Row], dtype: str) -> None:
    failed = [row["image_id"] for row, grey in zip(batch, greys, strict=True) if not np.isfinite(grey).all()]
    if failed:
        overflow = f"set dtype: float32, since {dtype} overflows early; " if dtype != "float32" else ""
        raise UserError(
            f"the model gives NaN for {len(failed)} of {len(batch)} images: {', '.join(failed[:10])}",
            hint=f"{overflow}a checkpoint that diverged cannot be used: take an earlier one",
        )


def _row(drawn: Drawn, num_draws: int, generation: Mapping[str, Any], gatekeeper: Gatekeeper | None) -> dict[str, Any]:
    """A row of the Dataset's `SCHEMA` from a draw; what a synthetic image does not have is empty."""
    made = {**generation, "batch_size": drawn.batch_size, "draw": drawn.draw}
    if gatekeeper and drawn.verdict:
        made["gate"] = {"draws": num_draws, **gatekeeper.record(drawn.row["labels"], drawn.verdict)}
    return {
        **drawn.row,
        "patient_id": "",
        "split": "synthetic",
        "age": None,
        "sex": "",
        "follow_up": None,
        "boxes": [],
        "generation": canonical_json(made),
        "source_sha256": "",
    }
