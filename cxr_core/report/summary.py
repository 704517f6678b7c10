"""What was run, in one paragraph and one list."""

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.benefit.results import BenefitResult
from cxr_core.evaluation.metrics import UtilityResult
from cxr_core.report.benefit import change, compared
from cxr_core.report.blocks import Column, Section, Table, Text
from cxr_core.report.evaluation import read_metrics
from cxr_core.report.read import RunView, StageView
from cxr_core.report.spell import duration, listed, plain, several
from cxr_core.report.utility import ARMS, experiment_name

_MODELS = {
    "vae": "autoencoder (VAE)",
    "text_encoder": "text encoder",
    "diffusion": "diffusion model",
    "pggan": "PG-GAN",
}


def summary(run: RunView) -> Section:
    """What the run is, and how far each stage has come."""
    return Section("summary", "Summary", (Text(_paragraph(run)), _stage_table(run)))


def _paragraph(run: RunView) -> str:
    done = [stage for stage in run.stages if stage.is_done]
    sentences = [f"{len(done)} of {several(len(run.stages), 'stage')} {'is' if len(done) == 1 else 'are'} finished."]
    sentences += [sentence for stage in done if (sentence := _sentence(stage))]
    waiting = [stage.name for stage in run.stages if not stage.is_done]
    if waiting:
        sentences.append(f"Not run yet, or not finished: {listed(waiting)}.")
    return " ".join(sentences)


def _sentence(stage: StageView) -> str:
    """The headline of one finished stage; empty where it has none."""
    if stage.dataset is not None:
        return _dataset_sentence(stage, stage.dataset)
    if stage.kind == "train":
        steps, batch = stage.settings.get("steps"), stage.settings.get("batch_size")
        if steps and batch:
            model = _MODELS.get(stage.model, stage.model)
            of = several(batch, "text" if stage.model == "text_encoder" else "image")
            return f"“{stage.name}” trained the {model} for {several(steps, 'step')} of {of}."
    if stage.kind == "evaluate":
        metrics = read_metrics(stage)
        found = [_utility_sentence(result) for result in metrics.utility]
        found += [_benefit_sentence(stage, result) for result in metrics.benefit]
        return " ".join(filter(None, found))
    return ""


def _utility_sentence(result: UtilityResult) -> str:
    """The mean accuracies of one experiment, or why there are none."""
    what = f"Telling {experiment_name(result)}"
    found = [f"{arm.classifier.accuracy.value:.2f} on {ARMS[arm.arm]}" for arm in result.arms if arm.classifier]
    reason = result.not_run or next((arm.not_run for arm in result.arms if arm.not_run), "")
    return f"{what}: accuracy {listed(found)}." if found else f"{what} was not run: {reason}."


def _benefit_sentence(stage: StageView, result: BenefitResult) -> str:
    """The primary comparison; empty where there is none."""
    first = result.by_labels[0].primary
    if first is None:
        return ""
    what = f"“{stage.name}” found, of {listed([plain(name) for name in result.findings])}, {compared(first)}"
    return f"{what}, in AUROC: {change(first.difference)}."


def _dataset_sentence(stage: StageView, dataset: Dataset) -> str:
    images = several(dataset.info.num_images, f"{stage.origin} image")
    size = f"{dataset.info.size} × {dataset.info.size} pixels"
    if dataset.info.synthetic:
        return f"“{stage.name}” holds {images}, {size}."
    patients = several(dataset.rows["patient_id"].nunique(), "patient")
    drawn = " Phantoms are drawn by a procedure; “real” on this page means them." if stage.origin == "phantom" else ""
    return f"“{stage.name}” holds {images} of {patients}, {size}.{drawn}"


def _stage_table(run: RunView) -> Table:
    columns = [Column("stage"), Column("kind"), Column("state"), Column("time", numeric=True)]
    rows = [[stage.name, f"{stage.kind} {stage.model}".strip(), stage.state, _time(stage)] for stage in run.stages]
    return Table("Stages of the run, in the order of its config.", columns, rows)


def _time(stage: StageView) -> str:
    return duration(sum(stage.seconds.values())) if stage.done else "–"
