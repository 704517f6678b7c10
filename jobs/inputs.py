"""What the `inputs` of a stage name: by role, on disk, and as the run of a stage's folder has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_core.home import expanded
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs.run import Run


def inputs_of(stage: Any) -> dict[str, str]:
    """Role -> what the config names in it, without the roles left out. Of several the second is in `<role>.1` ..."""
    return flat_inputs(stage.inputs.model_dump())


def flat_inputs(inputs: Mapping[str, str | Sequence[str] | None]) -> dict[str, str]:
    """`inputs_of` of plain data."""
    lists = {role: [value] if isinstance(value, str) else value or () for role, value in inputs.items()}
    return {f"{role}.{i}" if i else role: name for role, names in lists.items() for i, name in enumerate(names)}


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
