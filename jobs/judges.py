"""Who judges may not have chosen: gate and judge of the same images share no patients and no architecture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_core.errors import UserError
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.models.classifier_folder import classifier_sha256, read_about, read_info
from cxr_core.runs.roles import in_roles
from jobs.inputs import input_of

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset  # takes a second, and every command reads a config

_OTHER_PRESET = "give one of them another `preset`: two of one architecture err alike"
_HINT = (
    "train the gate's classifier on other patients: a preprocess stage of its own, whose `exclude_lists` (phantoms: "
    "`seed`) leave none that the judge learns from"
)


def judge_mistakes(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a config alone tells: a judge that is the gate, is of its architecture, or learns from the same Dataset.

    `stages` are the entries of a config, of which names, kinds, models, presets and inputs are looked at.
    """
    inputs = {str(stage.get("name")): stage.get("inputs") or {} for stage in stages}
    classifiers = [stage for stage in stages if stage.get("model") == "classifier"]
    presets = {str(stage.get("name")): stage.get("preset", "small") for stage in classifiers}
    for stage in stages:
        given = inputs[str(stage.get("name"))]
        judge = given.get("judge")
        if stage.get("kind") != "evaluate" or judge is None:
            continue
        for images in in_roles(given, "synthetic"):
            if mistake := _mistake(judge, images, inputs, presets):
                yield f"stage {stage.get('name')!r}: {mistake}"


def _mistake(
    judge: str, images: str, inputs: Mapping[str, Mapping[str, Any]], presets: Mapping[str, str]
) -> str | None:
    gate = inputs.get(images, {}).get("gate")
    if gate is None:
        return None
    if judge == gate:
        return f"its judge {judge!r} is the gate of {images!r}: {_HINT}"
    if _learns_from(judge, inputs) and _learns_from(judge, inputs) == _learns_from(gate, inputs):
        return f"its judge {judge!r} learns from the Dataset that taught the gate {gate!r} of {images!r}: {_HINT}"
    if (preset := presets.get(judge)) and preset == presets.get(gate):
        return f"its judge {judge!r} and the gate {gate!r} of {images!r} are both {preset}: {_OTHER_PRESET}"
    return None


def _learns_from(classifier: str, inputs: Mapping[str, Mapping[str, Any]]) -> str | None:
    return inputs.get(classifier, {}).get("dataset")


def check_judge(judge: Path, synthetic: "Dataset") -> None:
    """Raise UserError if a judge is a Dataset's gate, is of its architecture, or learnt from its patients.

    As far as files tell: equal weights and presets; the Dataset that a classifier says it learnt from; and, where both
    lie in runs, the images and patients of these two Datasets.
    """
    gate = synthetic.info.about.get("gate")
    if not gate:
        return
    folder = final_checkpoint(judge, "classifier")
    if classifier_sha256(folder) == gate["sha256"]:
        raise _no_judge("the judge is the classifier that chose these images as their gate", judge)
    if (preset := read_info(folder).preset) == gate["preset"]:
        raise UserError(f"the judge and the gate are both {preset}", where=str(judge), hint=_OTHER_PRESET)
    learnt = read_about(folder).get("dataset")
    if learnt is not None and learnt == gate["dataset"]:
        raise _no_judge(f"the judge learnt from the Dataset that taught the gate ({learnt[:16]})", judge)
    gate_folder = input_of(synthetic.folder, "gate")
    taught = input_of(judge, "dataset"), input_of(gate_folder, "dataset") if gate_folder else None
    if taught[0] and taught[1]:
        from cxr_core.data.dataset import Dataset

        _check_patients(Dataset.open(taught[0]), Dataset.open(taught[1]), judge)


def _check_patients(judges: "Dataset", gates: "Dataset", judge: Path) -> None:
    from cxr_core.data.identity import same_patients

    mine, theirs = judges.of_split("train"), gates.of_split("train")
    images = set(mine["source_sha256"]) & set(theirs["source_sha256"]) - {""}
    if images:
        raise _no_judge(
            f"{len(images)} of the {len(mine)} images that the judge learnt from taught the gate too", judge
        )
    # Names of patients mean the same ones only within one source; phantoms of another seed are other people.
    sources = [dataset.info.about.get("source") or {} for dataset in (judges, gates)]
    if sources[0].get("kind") == sources[1].get("kind") != "phantom":
        shared = mine[same_patients(mine["patient_id"], theirs["patient_id"].unique())]
        if len(shared):
            raise _no_judge(
                f"{shared['patient_id'].nunique()} patients that the judge learnt from taught the gate too", judge
            )


def _no_judge(what: str, judge: Path) -> UserError:
    return UserError(what, where=str(judge), hint=_HINT)
