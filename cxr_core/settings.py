"""What all settings share: strict pydantic models whose field docstrings are the documentation of the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from cxr_core.home import expanded

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _local(path: Path) -> Path:
    whole = expanded(path).absolute()
    if any("\ud800" <= char <= "\udfff" for char in str(whole)):
        raise ValueError(f"the path {str(whole)!a} is not UTF-8: rename the folder, or name a link that leads to it")
    return whole


LocalPath = Annotated[Path, AfterValidator(_local)]
"""A path of the user's, relative to the working directory; resolved at once, since jobs start elsewhere."""


@dataclass(frozen=True)
class Absent:
    """Marks a key that was added later: `value` (plain JSON) is what a run that lacks the key did, whatever the default
    is today. `white: Annotated[int | None, Absent(None)] = 4095`."""

    value: Any

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """In the schema too, where people look for what a key means."""
        return {**handler(core), "absent": self.value}


@dataclass(frozen=True)
class Formerly:
    """Marks a key that was renamed: runs of before have it under `name`. A user's file must use the new name.
    `num_images: Annotated[int, Formerly("images")]`."""

    name: str

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """In the schema too, for whoever reads the config of an older run."""
        return {**handler(core), "formerly": self.name}


OF_A_RUN = {"of a run": True}
"""Context of `model_validate` for settings that a run recorded: keys that it lacks mean what they meant then, and
renamed keys may have their former names."""


class Settings(BaseModel):
    """Unknown keys are errors, values are immutable, and the docstring under a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_of_then(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, dict):
            return given
        former = former_names(cls)
        if info.context and info.context.get("of a run"):
            renamed = {former.get(key, key) if key not in cls.model_fields else key: given[key] for key in given}
            return added_keys(cls) | renamed
        if old := [key for key in given if key in former and key not in cls.model_fields]:
            raise _renamed(cls, {key: former[key] for key in old}, given)
        return given


def _renamed(settings: type[BaseModel], names: Mapping[str, str], given: Mapping[str, Any]) -> ValidationError:
    """An error for each former name in `names`, at its key, that gives the new one."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "this key is now called {new}", {"new": new}),
            loc=(old,),
            input=given[old],
        )
        for old, new in names.items()
    ]
    return ValidationError.from_exception_data(settings.__name__, errors)


def added_keys(settings: type[BaseModel]) -> dict[str, Any]:
    """Key -> what a run that lacks it did, of the keys that were added later."""
    return {name: mark.value for name, mark in _marks(settings) if isinstance(mark, Absent)}


def former_names(settings: type[BaseModel]) -> dict[str, str]:
    """Former name -> name, of the keys that were renamed."""
    return {mark.name: name for name, mark in _marks(settings) if isinstance(mark, Formerly)}


def _marks(settings: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(name, mark) for name, field in settings.model_fields.items() for mark in field.metadata]


def as_before(settings: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """`dumped`, the JSON of `settings`, as it was written before keys were added and renamed: without added keys
    whose value is that of before, and with former names. Fingerprints of old plans cover this."""
    return in_former_names(settings, without_added(settings, dumped))


def without_added(settings: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """`dumped`, the JSON of `settings`, without added keys whose value is that of before."""
    added = added_keys(type(settings))
    kept = {name: value for name, value in dumped.items() if name not in added or added[name] != value}
    return {name: _each(without_added, getattr(settings, name), value) for name, value in kept.items()}


def in_former_names(settings: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """`dumped`, the JSON of `settings`, with former names. Digests that cover settings are of this."""
    before = {new: old for old, new in former_names(type(settings)).items()}
    return {
        before.get(name, name): _each(in_former_names, getattr(settings, name), value) for name, value in dumped.items()
    }


def in_current_names(settings: Any, recorded: Any) -> Any:
    """What a run recorded and `settings` were read from, with the names that its keys have now."""
    if isinstance(settings, BaseModel) and isinstance(recorded, Mapping):
        names = former_names(type(settings)) | {name: name for name in type(settings).model_fields}
        now = {names[key] if key in names else str(key): value for key, value in recorded.items()}
        return {name: in_current_names(getattr(settings, name, None), value) for name, value in now.items()}
    if isinstance(settings, list | tuple) and isinstance(recorded, list) and len(settings) == len(recorded):
        return [in_current_names(each, plain) for each, plain in zip(settings, recorded, strict=True)]
    if isinstance(settings, Mapping) and isinstance(recorded, Mapping) and len(settings) == len(recorded):
        pairs = zip(settings.values(), recorded.items(), strict=True)
        return {key: in_current_names(each, plain) for each, (key, plain) in pairs}
    return recorded


def _each(spell: Callable[[BaseModel, Mapping[str, Any]], Any], value: Any, dumped: Any) -> Any:
    """`spell` of each model within `value`, whose JSON is `dumped`."""
    if isinstance(value, BaseModel):
        return spell(value, dumped)
    if isinstance(value, Mapping):
        return {key: _each(spell, one, plain) for (key, plain), one in zip(dumped.items(), value.values(), strict=True)}
    if isinstance(value, list | tuple):
        return [_each(spell, each, plain) for each, plain in zip(value, dumped, strict=True)]
    return dumped


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


def without_paths(settings: Settings) -> dict[str, Any]:
    """The settings as JSON without paths: what others may read, since a path names a machine and its users."""
    return dict(_bare(settings.model_dump()))


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _bare(one) for key, one in value.items() if not isinstance(one, Path)}
    if isinstance(value, list | tuple):
        return [_bare(one) for one in value if not isinstance(one, Path)]
    return value
