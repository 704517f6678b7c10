"""What all settings share: strict pydantic models whose field docstrings are the documentation of the config."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cxr_core.home import expanded

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]

LocalPath = Annotated[Path, AfterValidator(lambda path: expanded(path).absolute())]
"""A path of the user's, relative to the working directory; resolved at once, since jobs start elsewhere."""


class Settings(BaseModel):
    """Unknown keys are errors, values are immutable, and the docstring under a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class StageSettings(Settings):
    """What every stage of a config has; each kind adds `kind`, `inputs` and its own fields."""

    name: Name
    """Unique name of the stage; its folder in the run has this name."""
    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads that compute. Part of the plan: on a CPU, sums depend on how they are split."""


def check_whole_batches(shard_size: int, batch_size: int) -> None:
    """Raises ValueError, with the nearest size that fits, if a batch would cross the border of a shard."""
    if shard_size % batch_size:
        near = max(1, round(shard_size / batch_size)) * batch_size
        raise ValueError(f"shard_size {shard_size} is no multiple of batch_size {batch_size}: take {near}")
