"""The profile of a cluster: one YAML file a site, checked key by key, that may inherit from another."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cxr_core.errors import UserError
from cxr_core.home import expanded, home
from cxr_core.runs.door import checked_name, printable
from cxr_core.settings import Formerly, Settings
from cxr_core.yamlfile import line_of, parse_mapping, read_text
from slurm import grammar
from slurm.options import check_options
from slurm.values import Binding, Limit, Line, Memory, OneCluster, OnNode, Shell, Variable, Word, gpus_of

StageKind = Literal["preprocess", "latents", "train", "invert", "generate", "evaluate", "control"]
"""What can have resources of its own: a kind of stage, or `control`: the one-task jobs that freeze and finalize."""

_AS_TEXT = frozenset(
    {"time", "max_time", "mem", "max_mem", "gpus_per_node", "gpu_type"}
    | {"partition", "account", "qos", "constraint", "exclude", "clusters"}
)
"""Keys whose values are Slurm's, not YAML's: to YAML 04:00:00 is a number in base 60, 010 one in base 8, and the
account 0123 another number than its name."""


class Resources(Settings):
    """What one task asks the scheduler for."""

    partition: Word | None = None
    """Partition; the cluster's default if left out."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    constraint: Word | None = None
    """Features a node must have, e.g. `a100|h100`."""
    exclude: Word | None = None
    """Nodes never to be used, e.g. `node[07,12]`."""
    gpus_per_node: int = Field(default=0, ge=0, le=64)
    """GPUs of a task; of one that trains on several ranks as many as it has ranks on a node, unless this is 0. With
    their kind as Slurm writes it, `a100:4`, it sets `gpu_type` too."""
    gpu_type: Word | None = None
    """Kind of GPU as the cluster names it, e.g. `a100`."""
    cpus_per_task: int | None = Field(default=None, ge=1, le=1024)
    """CPUs of a task; as many as the stage has `threads` if left out."""
    mem: Memory | None = None
    """Memory of a node, e.g. `32G`, in MB without a unit, all of it by `0`; the cluster's default if left out."""
    max_mem: Memory | None = None
    """As much may be asked for after shards were out of memory: `cxr resume` then doubles `mem`, once."""
    time: Limit = "04:00:00"
    """Time limit as Slurm reads it: `"04:00:00"` are hours, `"2-00:00:00"` days, `240` and `"240:00"` minutes."""
    max_time: Limit | None = None
    """As much may be asked for after a shard took longer than the limit: `cxr resume` then doubles `time`, once."""
    seconds_per_item: float = Field(default=1.0, gt=0)
    """Guess at the time of one item (image, step, classifier), until receipts of the run tell the real one."""

    @model_validator(mode="before")
    @classmethod
    def _gpus_may_name_their_kind(cls, values: Any) -> Any:
        text = values.get("gpus_per_node") if isinstance(values, dict) else None
        if not isinstance(text, str) or text.isdigit():
            return values
        found = gpus_of(text)
        if found.type and values.get("gpu_type") not in (None, found.type):
            raise ValueError(f"gpus_per_node: {text} and gpu_type: {values['gpu_type']} are two kinds of GPU")
        return values | {"gpus_per_node": found.count} | ({"gpu_type": found.type} if found.type else {})

    @property
    def hours(self) -> float:
        """The time limit in hours."""
        return grammar.hours_of(self.time)

    @property
    def gpus(self) -> str | None:
        """The GPUs of a node as Slurm writes them, `a100:4`; None without."""
        words = (self.gpu_type, str(self.gpus_per_node))
        return ":".join(word for word in words if word) if self.gpus_per_node else None

    @property
    def gres(self) -> str | None:
        """The same as a generic resource, `gpu:a100:4`."""
        return f"gpu:{self.gpus}" if self.gpus else None


class ClusterProfile(Resources):
    """A validated profile. No site's name stands in code: all that differs between clusters is here."""

    name: Word
    """The name of its file, without `.yaml`."""
    scheduler: Literal["slurm", "local"] = "slurm"
    """`slurm`, or `local`: processes on this machine, as many at once as `array_parallelism`."""
    clusters: OneCluster | None = None
    """The cluster to which jobs are sent and where they are looked for, where a site has several under one Slurm
    (`sacctmgr show clusters`); as `--clusters`, but one."""
    stages: dict[StageKind, Resources] = Field(default_factory=dict)
    """Resources by kind of stage, where they differ from those above."""
    array_parallelism: int = Field(default=64, ge=1)
    """Tasks of an array that run at once."""
    max_array_size: int = Field(default=1001, ge=1)
    """The cluster's MaxArraySize (`scontrol show config`): an array has at most that many tasks."""
    max_submit: int = Field(default=1000, ge=1)
    """Tasks that one user may have in the queue; more shards a task are packed rather than exceed it."""
    task_minutes: Annotated[float, Formerly("pack_minutes")] = Field(default=45, gt=0)
    """Work of one task: long enough to be worth a place in the queue, short enough to be lost."""
    grace_seconds: int = Field(default=90, ge=10, le=3600)
    """Warning before the time limit; a shard that ends within it is kept."""
    silent_minutes: float = Field(default=60, ge=0)
    """A task of which nothing is heard for so long is ended and requeued once; 0 waits for ever."""
    visible_seconds: float = Field(default=120, ge=0, le=3600)
    """How long a file written on one node may stay unseen on another, before it is called missing."""
    cpu_bind: Binding = "cores"
    """`srun --cpu-bind`."""
    scratch: OnNode | None = None
    """Node-local folder for temporary files, e.g. `/scratch/$USER/$SLURM_JOB_ID`; made if it is not there."""
    caches: dict[Annotated[Variable, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")], OnNode] = Field(default_factory=dict)
    """Variable -> folder of a cache off the home folder, e.g. `HF_HOME: /scratch/$USER/hf`."""
    container: Line | None = None
    """Image in which tasks run: a .sif, a sandbox folder, or what `cxr image pull` got; without one, this Python."""
    image_scratch: OnNode | None = None
    """Folder of a node's own disk for one copy of the image, which all jobs there see, e.g. `/scratch/$USER/images`;
    without it, the image is read where it lies."""
    binds: list[Line] = Field(default_factory=list)
    """Folders bound into the container besides the run folder, the working directory and the caches: data, models;
    each at its own place, or as `/data:/mnt` or `/data:/mnt:ro`."""
    price_per_gpu_hour: float = Field(default=0.0, ge=0)
    """For the cost that `cxr plan` shows, in the currency of your bill; status and report take the config's."""
    env: list[Variable] = Field(default_factory=list)
    """Variables of your shell that tasks see, besides PATH, HOME, USER and the language; all others stay behind."""
    setup: list[Shell] = Field(default_factory=list)
    """Shell lines before the work, e.g. `module load apptainer`; the first that fails ends the task."""
    login_shell: bool = True
    """Whether the job reads what a login shell reads before `setup`; false where those files cannot be read there."""
    mail_user: Word | None = None
    """Address for mail."""
    mail_type: Word | None = None
    """When to mail, e.g. `FAIL,END`."""
    sbatch: list[Line] = Field(default_factory=list)
    """Further options of sbatch, each with its dashes: `--reservation=course`. Those that a key says are refused."""

    @field_validator("setup", mode="before")
    @classmethod
    def _one_text_is_one_line(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("sbatch")
    @classmethod
    def _options_do_not_contradict(cls, value: list[str]) -> list[str]:
        check_options(value)
        return value

    @model_validator(mode="after")
    def _memory_is_given_once(self) -> "ClusterProfile":
        other = next((option for option in self.sbatch if option.startswith("--mem-per-")), None)
        if other and any(self.resources(kind).mem for kind in (None, *self.stages)):
            raise ValueError(f"sbatch: {other} contradicts mem: write `mem: null` where mem is set, or leave it out")
        return self

    @model_validator(mode="after")
    def _gpu_type_is_of_gpus(self) -> "ClusterProfile":
        if self.gpu_type and not any(self.resources(kind).gpus_per_node for kind in (None, *self.stages)):
            raise ValueError("gpu_type is set, but gpus_per_node is 0")
        return self

    def resources(self, kind: str | None) -> Resources:
        """What a task of this kind of stage asks for."""
        common = {name: getattr(self, name) for name in Resources.model_fields}
        special = {name: part.model_dump(exclude_unset=True) for name, part in self.stages.items() if name == kind}
        return Resources.model_validate(common | special.get(kind, {}))  # type: ignore[call-overload]


def load_profile(name_or_path: str | Path) -> ClusterProfile:
    """Read a profile: a path, or a name in `~/.config/cxr/clusters/` or among ours (`local`, `generic`).

    `inherits: NAME` takes the keys of another one as defaults; `stages` and `caches` are joined key by key. Raises
    UserError with file, line and key of every mistake.
    """
    path = find_profile(name_or_path)
    chain = list(_chain(path))
    merged: dict[str, Any] = {}
    for _, value in reversed(chain):
        merged = _join(merged, {key: part for key, part in value.items() if key != "inherits"})
    try:
        return ClusterProfile.model_validate({**merged, "name": path.stem})
    except ValidationError as error:
        lines = list(_explain(error, [source for source, _ in chain]))
        count = f"{len(lines)} mistake{'s' * (len(lines) > 1)} in the profile of a cluster"
        known = ", ".join(name for name in ClusterProfile.model_fields if name != "name")
        is_unknown = any(line.endswith(": unknown key") for line in lines)
        hint = f"keys are: inherits, {known}" if is_unknown else "docs/cluster-profile.md says what each key takes"
        raise UserError("\n  ".join((count, *lines)), hint=hint) from None


def folders() -> list[Path]:
    """Where profiles are looked for by name, in this order."""
    place = home()
    return [*([place / ".config" / "cxr" / "clusters"] if place else []), Path(str(files("slurm") / "clusters"))]


def own_profile(name: str) -> Path:
    """The file of a profile in the user's folder or among ours, by a name that somebody else may have written: it leads
    nowhere else. Raises UserError if it is a path, or if there is none."""
    if not _is_name(name):
        raise UserError("not the name of a profile", where=printable(name))
    return find_profile(name)


def _is_name(text: str) -> bool:
    try:
        return not checked_name(text).endswith(_ENDINGS)
    except ValueError:
        return False


_ENDINGS = (".yaml", ".yml")


def find_profile(name_or_path: str | Path, *, beside: Path | None = None) -> Path:
    """The file of a profile. Raises UserError with the names that there are."""
    given = expanded(name_or_path)
    if given.suffix in _ENDINGS:
        path = beside.parent / given if beside else given
        if path.is_file():
            return path.absolute()
    places = ([beside.parent] if beside else []) + folders()
    found = [folder / f"{name_or_path}.yaml" for folder in places if (folder / f"{name_or_path}.yaml").is_file()]
    # A site's `generic.yaml` may inherit from ours.
    found = [path.absolute() for path in found if beside is None or path.absolute() != beside]
    if not found:
        names = sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})
        raise UserError(
            "no such profile of a cluster",
            where=str(name_or_path),
            hint=f"give a path, or one of: {', '.join(names)}; yours go to ~/.config/cxr/clusters",
        )
    return found[0]


def _chain(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The profile and those it inherits from, the nearest first."""
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        if following in seen:
            circle = " -> ".join(str(each) for each in [*seen, following])
            raise UserError(f"profiles inherit in a circle: {circle}", where=str(path), hint="remove one `inherits:`")
        seen.append(following)
        value = parse_mapping(read_text(following), following, hint="start with `inherits: base`", as_text=_AS_TEXT)
        yield following, value
        parent = value.get("inherits")
        following = find_profile(str(parent), beside=following) if parent is not None else None


def _join(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**parent, **child}
    for key in ("stages", "caches"):
        old, new = parent.get(key), child.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            joined[key] = {**old, **new}
            for name in joined[key]:
                if isinstance(old.get(name), dict) and isinstance(new.get(name), dict):
                    joined[key][name] = {**old[name], **new[name]}
    return joined


def _explain(error: ValidationError, sources: Sequence[Path]) -> Iterator[str]:
    """A line for each mistake, in the file of the chain where its key stands first."""
    trees = [(path, yaml.compose(path.read_text())) for path in sources]
    for mistake in error.errors():
        keys = [part for part in mistake["loc"] if part != "[key]"]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "unknown key"
        elif mistake["type"] not in ("missing", "value_error"):
            message += f", not {mistake['input']!r}"
        path, tree = next(((path, tree) for path, tree in trees if _has(tree, keys)), trees[0])
        yield f"{path}:{line_of(tree, keys)}: {'.'.join(map(str, keys)) or 'profile'}: {message}"


def _has(node: yaml.Node | None, keys: Sequence[str | int]) -> bool:
    return bool(keys) and isinstance(node, yaml.MappingNode) and any(k.value == str(keys[0]) for k, _ in node.value)
