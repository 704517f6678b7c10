"""One YAML file a run: an ordered list of named stages, validated all at once, every mistake named by file and key."""

import os
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from cxr_core.data.settings import PreprocessStage
from cxr_core.errors import UserError
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.generation.settings import GenerateStage
from cxr_core.settings import Name, Settings
from cxr_core.training.settings import DiffusionTrain, LatentsStage, VaeTrain

DATASETS, MODELS, LATENTS = frozenset({"preprocess", "generate"}), frozenset({"train"}), frozenset({"latents"})
ROLES = {
    "dataset": DATASETS,
    "like": DATASETS,
    "real": DATASETS,
    "synthetic": DATASETS,
    "base": MODELS,
    "model": MODELS,
    "latents": LATENTS,
}
"""Which kinds of stage can stand in which role of `inputs`."""


def _stage_tag(value: Any) -> str:
    """`kind`, or `kind.model` for a train stage: the key by which the settings class is chosen."""
    get = value.get if isinstance(value, dict) else lambda key: getattr(value, key, None)
    kind = str(get("kind"))
    return f"train.{get('model')}" if kind == "train" else kind


Stage: TypeAlias = Annotated[
    Annotated[PreprocessStage, Tag("preprocess")]
    | Annotated[LatentsStage, Tag("latents")]
    | Annotated[VaeTrain, Tag("train.vae")]
    | Annotated[DiffusionTrain, Tag("train.diffusion")]
    | Annotated[GenerateStage, Tag("generate")]
    | Annotated[EvaluateStage, Tag("evaluate")],
    Discriminator(_stage_tag),
]


class RunConfig(Settings):
    """What a run does. `cxr config schema` prints this as a JSON schema."""

    format: Literal[1] = 1
    """Version of this file's form."""
    name: Name
    """Name of the run: its folder below `--runs`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The one seed from which every other is derived."""
    stages: list[Stage] = Field(min_length=1)
    """What is done, in this order."""

    @model_validator(mode="after")
    def _inputs_fit(self) -> "RunConfig":
        mistakes = list(_input_mistakes(self.stages))
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def stage(self, name: str) -> Stage:
        """The stage of this name. Raises UserError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise UserError(f"no stage {name!r} in run {self.name!r}", mend=f"its stages are: {names}")


def inputs_of(stage: Any) -> dict[str, str]:
    """Role -> what the config names in it, without the roles left out."""
    return {role: value for role, value in stage.inputs.model_dump().items() if value is not None}


def _input_mistakes(stages: Sequence[Any]) -> Iterator[str]:
    earlier: dict[str, str] = {}
    later = {stage.name: stage.kind for stage in stages}
    for stage in stages:
        for role, name in inputs_of(stage).items():
            yield from (f"stage {stage.name!r}: {text}" for text in _role_mistake(role, name, earlier, later))
        if stage.name in earlier:
            yield f"two stages are named {stage.name!r}"
        earlier[stage.name] = stage.kind


def _role_mistake(role: str, name: str, earlier: dict[str, str], later: dict[str, str]) -> Iterator[str]:
    if name in earlier:
        if earlier[name] not in ROLES[role]:
            yield f"input {role!r} wants a {' or '.join(sorted(ROLES[role]))} stage, but {name!r} is {earlier[name]!r}"
    elif name in later:
        yield f"input {role!r} names {name!r}, which comes later: move that stage up"
    elif not Path(name).expanduser().is_dir():
        yield f"input {role!r} names {name!r}, which is neither an earlier stage nor a folder"


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config: a path, or the name of one that we ship (`demo`), with `key=value` overrides.

    A key is a path of names and indices; stages are addressed by name: `seed=7`, `stages.diffusion.steps=50`.
    `${NAME}` and `${NAME:-default}` in values are replaced from the environment. Raises UserError with every mistake.
    """
    path = find_config(source)
    text = _read(path)
    value = _parse(_substitute(text, path), path)
    for override in overrides:
        _apply(value, override)
    try:
        return RunConfig.model_validate(value)
    except ValidationError as error:
        raise UserError(_explain(error, path, text), mend="`cxr config schema` lists every key") from None


def find_config(source: str) -> Path:
    """A path as it is, or one of the ready configs by its name."""
    path = Path(source)
    if path.is_file():
        return path
    ready = Path(str(files("jobs") / "configs"))
    named = ready / f"{source}.yaml"
    if named.is_file():
        return named
    names = ", ".join(sorted(entry.stem for entry in ready.glob("*.yaml")))
    raise UserError("no such config file", where=source, mend=f"give a path, or one of the ready configs: {names}")


def resolved(config: RunConfig) -> dict[str, Any]:
    """The fully resolved config as plain data: every default written out."""
    return config.model_dump(mode="json")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise UserError("not a mapping of keys", where=str(path), mend="start with `name:` and `stages:`")
    return value


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _substitute(text: str, path: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            line = text.count("\n", 0, match.start()) + 1
            raise UserError(f"{name} is not set", where=f"{path}:{line}", mend=f"export {name}=...")
        return found

    # Comments are left alone: they may speak of variables.
    return "".join(
        line if line.lstrip().startswith("#") else _VARIABLE.sub(value, line) for line in text.splitlines(keepends=True)
    )


def _apply(config: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not key=value", mend="for example: seed=7 stages.diffusion.steps=50")
    *parents, last = key.split(".")
    place: Any = config
    for name in parents:
        place = _step(place, name, override)
    if isinstance(place, list):
        raise UserError(f"{override!r} does not say which key of the stage", mend="stages.NAME.KEY=VALUE")
    place[last] = yaml.safe_load(text)


def _step(place: Any, name: str, override: str) -> Any:
    if isinstance(place, list):
        for entry in place:
            if isinstance(entry, dict) and entry.get("name") == name:
                return entry
        if name.isdigit() and int(name) < len(place):
            return place[int(name)]
        names = ", ".join(str(entry.get("name")) for entry in place if isinstance(entry, dict))
        raise UserError(f"{override!r}: no {name!r} here", mend=f"there are: {names}")
    if not isinstance(place, dict):
        raise UserError(f"{override!r}: {name!r} has no parts")
    return place.setdefault(name, {})


def _explain(error: ValidationError, path: Path, text: str) -> str:
    """All mistakes, a line each: file, line, key, what is wrong."""
    lines = []
    tree = yaml.compose(text)
    for mistake in error.errors():
        keys = [part for part in mistake["loc"] if part not in _TAGS]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "unknown key"
        elif mistake["type"] == "union_tag_invalid":
            message = _unknown_kind(mistake)
        elif mistake["type"] not in ("missing", "value_error"):
            message += f", not {mistake['input']!r}"
        key = ".".join(map(str, keys)) or "(the whole)"
        lines.append(f"{path}:{_line_of(tree, keys)}: {key}: {message}")
    return f"{len(lines)} mistake{'s' * (len(lines) > 1)} in the config\n" + "\n".join(f"  {line}" for line in lines)


_TAGS = {"preprocess", "latents", "train.vae", "train.diffusion", "generate", "evaluate"}


def _unknown_kind(mistake: Any) -> str:
    known = mistake.get("ctx", {}).get("expected_tags", "")
    given = mistake.get("ctx", {}).get("tag", "")
    return f"unknown kind {given!r}; known are {known} (a train stage is train.MODEL here)"


def _line_of(node: yaml.Node | None, keys: Sequence[str | int]) -> int:
    """The line where the value of `keys` stands, or where the nearest thing above it starts."""
    line = 1
    for key in keys:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = (node.value[key], node.value[key])
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
