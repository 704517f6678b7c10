"""One YAML file a run: an ordered list of named stages, validated all at once, every mistake named by file and key."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from cxr_core.data.settings import PreprocessStage
from cxr_core.errors import UserError
from cxr_core.evaluation.settings import EvaluateStage
from cxr_core.generation.bank_settings import InvertStage
from cxr_core.generation.settings import GenerateStage
from cxr_core.home import expanded
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.runs.roles import role_of
from cxr_core.runs.run import Run, is_begun
from cxr_core.settings import OF_A_RUN, Name, Settings, in_current_names
from cxr_core.training.judge_settings import ClassifierTrain, LocaliserTrain
from cxr_core.training.pggan_settings import PgganTrain
from cxr_core.training.settings import DiffusionTrain, LatentsStage, TextEncoderTrain, VaeTrain
from cxr_core.yamlfile import line_of, parse_mapping, read_text
from jobs.checkpoints_asked import checkpoint_mistakes
from jobs.inputs import flat_inputs, inputs_of
from jobs.judges import judge_mistakes

DATASETS, LATENTS = frozenset({"preprocess", "generate"}), frozenset({"latents"})
MODELS, DENOISERS = (
    frozenset({"train.vae", "train.text_encoder", "train.diffusion"}),
    frozenset({"train.diffusion", "train.pggan"}),
)
ROLES = {
    "dataset": DATASETS,
    "like": DATASETS,
    "real": DATASETS,
    "synthetic": DATASETS,
    "base": MODELS,
    "model": DENOISERS,
    "gan": frozenset({"train.pggan"}),
    "bank": frozenset({"invert"}),
    "latents": LATENTS,
    "prior": LATENTS,
    "judge": frozenset({"train.classifier"}),
    "gate": frozenset({"train.classifier"}),
    "localiser": frozenset({"train.localiser"}),
}
"""Which kinds of stage can stand in which role of `inputs`; a train stage's kind is told with its model."""
_MODEL_ROLES = ("base", "model")
"""Roles that a model of ours can stand in too, by its name in `BUILT_IN`."""


_IMPORTED_AS = {"base": "base", "model": "base", "judge": "judge", "gate": "judge", "gan": "pggan"}
"""What a file of weights is imported as for a role."""


def _stage_tag(value: Any) -> str:
    """`kind`, or `kind.model` for a train stage: the key by which the settings class is chosen."""
    get = value.get if isinstance(value, dict) else lambda key: getattr(value, key, None)
    kind = str(get("kind"))
    return f"train.{get('model')}" if kind == "train" else kind


Stage: TypeAlias = Annotated[
    Annotated[PreprocessStage, Tag("preprocess")]
    | Annotated[LatentsStage, Tag("latents")]
    | Annotated[VaeTrain, Tag("train.vae")]
    | Annotated[TextEncoderTrain, Tag("train.text_encoder")]
    | Annotated[DiffusionTrain, Tag("train.diffusion")]
    | Annotated[ClassifierTrain, Tag("train.classifier")]
    | Annotated[LocaliserTrain, Tag("train.localiser")]
    | Annotated[PgganTrain, Tag("train.pggan")]
    | Annotated[InvertStage, Tag("invert")]
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
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """What a GPU-hour costs, in the currency of your choice: with it the report tells the cost."""
    budget_gpu_hours: float | None = Field(default=None, gt=0)
    """GPU-hours of all attempts after which no more work is started; what is committed stays."""
    stages: list[Stage] = Field(min_length=1)
    """What is done, in this order."""

    @model_validator(mode="after")
    def _inputs_fit(self) -> "RunConfig":
        mistakes = list(_input_mistakes([(stage.name, _stage_tag(stage), inputs_of(stage)) for stage in self.stages]))
        mistakes += judge_mistakes([{**stage.model_dump(), "inputs": inputs_of(stage)} for stage in self.stages])
        mistakes += checkpoint_mistakes(self.stages)
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def stage(self, name: str) -> Stage:
        """The stage of this name, or the only one of this kind. Raises UserError if there is none."""
        named = [stage for stage in self.stages if stage.name == name]
        found = named or [stage for stage in self.stages if stage.kind == name]
        if len(found) == 1:
            return found[0]
        names = ", ".join(stage.name for stage in self.stages)
        raise UserError(f"no stage {name!r} in run {self.name!r}", hint=f"its stages are: {names}")


def _input_mistakes(stages: Sequence[tuple[str, str, Mapping[str, str]]]) -> Iterator[str]:
    """Of (name, kind, inputs) in order: names used twice, and roles that cannot be filled as they say."""
    earlier: dict[str, str] = {}
    later = {name: kind for name, kind, _ in stages}
    for name, kind, inputs in stages:
        for role, given in inputs.items():
            yield from (f"stage {name!r}: {text}" for text in _role_mistake(role, given, earlier, later))
        if name in earlier:
            yield f"two stages are named {name!r}"
        earlier[name] = kind


def _role_mistake(place: str, name: str, earlier: dict[str, str], later: dict[str, str]) -> Iterator[str]:
    role = role_of(place)
    if name in earlier:
        if earlier[name] not in ROLES[role]:
            yield f"input {role!r} wants a {' or '.join(sorted(ROLES[role]))} stage, but {name!r} is {earlier[name]!r}"
    elif name in later:
        yield f"input {role!r} names {name!r}, which comes later: move that stage up"
    elif role in _MODEL_ROLES and name in BUILT_IN:
        return
    elif expanded(name).is_file():
        kind = _IMPORTED_AS.get(role)
        into = f": `cxr model import {name} OUT --as {kind}` makes one of it" if kind else ""
        yield f"input {role!r} names {name!r}, which is a file, not a folder{into}"
    elif not expanded(name).is_dir():
        yield f"input {role!r} names {name!r}, which is neither an earlier stage nor a folder"


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config: a path, or the name of one that we ship (`demo`), with `key=value` overrides.

    A key is a path of names and indices; stages are addressed by name: `seed=7`, `stages.diffusion.steps=50`.
    `${NAME}` and `${NAME:-default}` are replaced from the environment, but for lines that are comments. Raises
    UserError with every mistake.
    """
    path = find_config(source)
    text = _substitute(read_text(path), path)
    value = parse_mapping(text, path, hint="start with `name:` and `stages:`")
    for override in overrides:
        _apply(value, override)
    try:
        # What a run recorded may be given as a config, whichever version wrote it.
        is_recorded = path.name == "config.yaml" and (path.parent / "run.json").is_file()
        return RunConfig.model_validate(value, context=OF_A_RUN if is_recorded else None)
    except ValidationError as error:
        between = [line for each in error.errors() if not each["loc"] for line in _message(each).splitlines()]
        lines = [
            *_explain(error, path, text, value),
            *(f"{path}: {text}" for text in between or _raw_input_mistakes(value)),
        ]
        count = f"{len(lines)} mistake{'s' * (len(lines) > 1)} in the config"
        raise UserError("\n  ".join((count, *lines)), hint="`cxr config schema` lists every key") from None


def config_of(run: Run) -> RunConfig:
    """The config of a run, whichever version wrote it: keys that it lacks mean what they meant then.

    Raises UserError where this version cannot read it.
    """
    try:
        return RunConfig.model_validate(run.config, context=OF_A_RUN)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {_message(each)}" for each in error.errors()]
        raise UserError(
            "\n  ".join(("this version cannot read the config of this run", *lines)),
            where=str(run.root / "config.yaml"),
            hint="go on with the version that made it (run.json names its commit), or start one under another name",
        ) from error


def in_current_keys(run: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a run recorded, with the keys that were added since."""
    return resolved(config_of(Run(Path(), run)))


def continued(config: RunConfig, root: Path) -> RunConfig:
    """`config` for the run at `root`, if that was begun: a key that is new since then, and that `config` does not
    name, has the value that means what the run did, not today's default."""
    if not is_begun(root):
        return config
    run = Run.open(root)
    value, given = resolved(config), config.model_dump(mode="json", exclude_unset=True)
    meant = config_of(run)
    keep_unnamed(value, given, in_current_names(meant, run.config), resolved(meant))
    return RunConfig.model_validate(value)


def keep_unnamed(value: Any, given: Any, recorded: Any, meant: Any) -> None:
    """Put `meant` into `value` for each key that is neither `given` nor `recorded`; all four are of one shape."""
    if isinstance(value, list) and isinstance(recorded, list) and len(value) == len(recorded) == len(meant):
        for i, each in enumerate(value):
            keep_unnamed(each, given[i] if isinstance(given, list) else {}, recorded[i], meant[i])
    if not isinstance(value, dict) or not isinstance(recorded, dict) or not isinstance(meant, dict):
        return
    named = given if isinstance(given, dict) else {}
    for key in value:
        if key in recorded:
            keep_unnamed(value[key], named.get(key), recorded[key], meant.get(key))
        elif key not in named and key in meant:
            value[key] = meant[key]


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
    raise UserError("no such config file", where=source, hint=f"give a path, or one of the ready configs: {names}")


def resolved(config: RunConfig) -> dict[str, Any]:
    """The fully resolved config as plain data: every default written out, but for a price and a budget not given."""
    value = config.model_dump(mode="json")
    return {key: given for key, given in value.items() if key not in _OF_THE_LEDGER or given is not None}


_OF_THE_LEDGER = ("price_per_gpu_hour", "budget_gpu_hours")


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _substitute(text: str, path: Path) -> str:
    def value(number: int, match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            raise UserError(f"{name} is not set", where=f"{path}:{number}", hint=f"export {name}=...")
        return found

    # Comments are left alone: they may speak of variables.
    lines = enumerate(text.splitlines(keepends=True), 1)
    return "".join(
        line if line.lstrip().startswith("#") else _VARIABLE.sub(partial(value, number), line) for number, line in lines
    )


def _apply(config: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is not key=value", hint="for example: seed=7 stages.diffusion.steps=50")
    *parents, last = key.split(".")
    place: Any = config
    for name in parents:
        place = _step(place, name, override)
    if isinstance(place, list):
        raise UserError(f"{override!r} does not say which key of the stage", hint="stages.NAME.KEY=VALUE")
    if not isinstance(place, dict):
        raise UserError(f"{override!r}: {parents[-1]!r} has no parts")
    try:
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{override!r}: the value is not YAML ({error})", hint="quote it: 'key=\"text\"'") from error


def _step(place: Any, name: str, override: str) -> Any:
    if isinstance(place, list):
        for entry in place:
            if isinstance(entry, dict) and entry.get("name") == name:
                return entry
        if name.isdigit() and int(name) < len(place):
            return place[int(name)]
        names = ", ".join(str(entry.get("name")) for entry in place if isinstance(entry, dict))
        raise UserError(f"{override!r}: no {name!r} here", hint=f"there are: {names}")
    if not isinstance(place, dict):
        raise UserError(f"{override!r}: {name!r} has no parts")
    return place.setdefault(name, {})


def _explain(error: ValidationError, path: Path, text: str, value: dict[str, Any]) -> Iterator[str]:
    """A line for each mistake: file, line, key, what is wrong."""
    tree = yaml.compose(text)
    for mistake in (each for each in error.errors() if each["loc"]):
        keys = [part for part in mistake["loc"] if part not in _TAGS]
        message = _message(mistake)
        if mistake["type"] == "union_tag_invalid":
            message = _unknown_kind(mistake)
        elif mistake["type"] not in ("missing", "value_error", "extra_forbidden"):
            message += f", not {mistake['input']!r}"
        yield f"{path}:{line_of(tree, keys)}: {'.'.join(_names(keys, value))}: {message}"


def _message(mistake: Any) -> str:
    if mistake["type"] == "extra_forbidden":
        return "unknown key"
    return str(mistake["msg"]).removeprefix("Value error, ")


def _raw_input_mistakes(value: dict[str, Any]) -> Iterator[str]:
    """The mistakes between stages where pydantic stopped at the stages themselves."""
    listed = value.get("stages")
    stages = [stage for stage in listed if isinstance(stage, dict)] if isinstance(listed, list) else []
    plain = [(str(s.get("name")), _stage_tag(s), s.get("inputs") or {}) for s in stages]
    yield from _input_mistakes([(name, kind, _texts(inputs)) for name, kind, inputs in plain])
    yield from judge_mistakes([{**stage, "inputs": _texts(stage.get("inputs"))} for stage in stages])


def _texts(inputs: Any) -> dict[str, str]:
    """The roles that exist and are filled with text, or texts; the others pydantic has named."""
    given = inputs if isinstance(inputs, dict) else {}
    return flat_inputs({role: value for role, value in given.items() if role in ROLES and _is_text(value)})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _names(keys: Sequence[str | int], value: dict[str, Any]) -> Iterator[str]:
    """Keys for people: a stage by its name instead of its number."""
    for i, key in enumerate(keys):
        stage = value["stages"][key] if i == 1 and keys[0] == "stages" and isinstance(key, int) else None
        yield str(stage["name"]) if isinstance(stage, dict) and "name" in stage else str(key)


_TAGS = {
    "preprocess",
    "latents",
    *MODELS,
    "train.classifier",
    "train.localiser",
    "train.pggan",
    "invert",
    "generate",
    "evaluate",
    # kinds of `data` in a preprocess stage
    "chestxray14",
    "table",
    "phantom",
}


def _unknown_kind(mistake: Any) -> str:
    known = mistake.get("ctx", {}).get("expected_tags", "")
    given = mistake.get("ctx", {}).get("tag", "")
    return f"unknown kind {given!r}; known are {known} (a train stage is train.MODEL here)"
