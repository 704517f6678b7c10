"""What the `inputs` of a stage name: by role, on disk, and as the run of a stage's folder has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.home import expanded
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs.roles import by_place
from cxr_core.runs.run import Run


def inputs_of(stage: Any) -> dict[str, str]:
    """Place -> what the config names there, without the roles left out (see `cxr_core.runs.roles`)."""
    return flat_inputs(stage.inputs.model_dump())


def flat_inputs(inputs: Mapping[str, str | Sequence[str] | None]) -> dict[str, str]:
    """`inputs_of` of plain data."""
    return by_place({role: value if value is not None else () for role, value in inputs.items()})


def user_path(text: str) -> Path:
    """A folder named in `inputs`: a model of ours by its name, else relative to the working directory."""
    return BUILT_IN.get(text) or expanded(text).absolute()


def input_of(stage: Path, role: str) -> Path | None:
    """What the run of a stage's folder names in a role of its `inputs`; None where the folder is no stage of a run."""
    if not (stage.absolute().parent / "config.yaml").is_file():
        return None
    run = Run.open(stage.absolute().parent)
    stages = {entry["name"]: entry for entry in run.config["stages"]}
    entry = stages.get(stage.absolute().name)
    value = flat_inputs(entry["inputs"]).get(role) if entry else None
    if value is None:
        return None
    return run.root / value if value in stages else user_path(value)
