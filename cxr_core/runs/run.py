"""The run folder. Every command is a function of it: plan minus receipts is what is left to do."""

import difflib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Required

import yaml
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from cxr_core import yamlfile
from cxr_core.errors import UserError
from cxr_core.runs.door import MIB, BadFileError, BadFiles, Name, Place, below, checked, printable
from cxr_core.runs.files import json_text
from cxr_core.runs.locks import hold, open_lock
from cxr_core.runs.plan import Plan
from cxr_core.runs.provenance import provenance
from cxr_core.runs.receipt import Receipt

FORMAT = 1

ConfigReader = Callable[[Mapping[str, Any]], Mapping[str, Any]]


_LARGEST_CONFIG = 4 * MIB
"""Bytes of a config.yaml; YAML takes a second for a few of them."""


class _StageEntry(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: Required[Name]
    kind: Required[str]
    inputs: dict[str, Any] | None


class _Config(TypedDict, total=False):
    """What every command asks of a run's config; the rest is for those that compute (`jobs.config`)."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: Name
    stages: Required[list[_StageEntry]]
    price_per_gpu_hour: Annotated[float, Field(ge=0, le=1e9)] | None
    budget_gpu_hours: Annotated[float, Field(ge=0, le=1e12)] | None


class Facts(TypedDict):
    """What every stage.json says; each kind of stage adds facts of its own."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    digest: str


class RunHeldError(UserError):
    """Another launcher works in the run at this moment."""


@dataclass(frozen=True)
class StageFolder:
    """The part of a run folder that belongs to one stage."""

    path: Path

    @property
    def place(self) -> Place:
        return below(self.path, 1)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.jsonl"

    def plan(self) -> Plan | None:
        """The frozen plan, or None before it is frozen. Raises BadFileError if it is damaged."""
        try:
            return Plan.read(self.plan_path)
        except FileNotFoundError:
            return None

    def num_planned(self) -> int | None:
        """Shards of the frozen plan, from its first line alone; None before it is frozen."""
        try:
            return Plan.read_header(self.plan_path)["num_shards"]
        except FileNotFoundError:
            return None

    def done(self) -> set[str]:
        """Ids of the shards that have a receipt: one listing, no file is opened."""
        try:
            with (self.place / "receipts").handle() as here, os.scandir(here) as entries:
                names = [entry.name for entry in entries]
                return {name[:-5] for name in names if name[-5:] == ".json" and name[0] != "."}
        except FileNotFoundError:
            return set()

    def is_done(self, shard: str) -> bool:
        """Whether one shard has its receipt."""
        return (self.place / "receipts").has(f"{shard}.json")

    def receipt(self, shard: str) -> Receipt:
        """Raises BadFileError if it is damaged, or is the receipt of another shard."""
        return _receipt(self.place / "receipts", shard)

    def receipts(self) -> list[Receipt]:
        """All receipts, by shard id."""
        return self.receipts_of(sorted(self.done()))

    def receipts_of(self, shards: Sequence[str], bad: BadFiles | None = None) -> list[Receipt]:
        """Those of some shards, in their order. Damaged ones are added to `bad` and left out; without it, raises as
        `receipt` does."""
        if not shards:
            return []
        with (self.place / "receipts").held() as place:
            if bad is None:
                return [_receipt(place, shard) for shard in shards]
            found = [bad.read(partial(_receipt, place, shard), None) for shard in shards]
        return [receipt for receipt in found if receipt is not None]

    @property
    def is_finished(self) -> bool:
        """Whether `finalize` recorded its end; the record is not opened."""
        return self.place.has("stage.json")

    def facts(self) -> dict[str, Any] | None:
        """What `finalize` recorded in stage.json, or None while the stage is not finished. Raises BadFileError."""
        try:
            facts: dict[str, Any] = self.place.json("stage.json", dict)
        except FileNotFoundError:
            return None
        checked(facts, Facts, self.path / "stage.json")
        return facts


def _receipt(receipts: Place, shard: str) -> Receipt:
    receipt = receipts.json(f"{shard}.json", Receipt)
    if receipt.shard != shard:
        path = receipts.path / f"{shard}.json"
        raise BadFileError(f"damaged: it is the receipt of shard {receipt.shard!r}", path)
    return receipt


@dataclass(frozen=True)
class Run:
    """A run: `root` is its folder, `config` the fully resolved config as plain data."""

    root: Path
    config: Mapping[str, Any]

    @classmethod
    def open(cls, root: Path) -> "Run":
        """Open an existing run. Raises UserError if `root` is none, or if its config is none."""
        path = root / "config.yaml"
        try:
            text = Place(root).read(path.name, limit=_LARGEST_CONFIG).decode()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                "not a run: it has no config.yaml", where=str(root), hint="`cxr run CONFIG` makes one"
            ) from None
        except UnicodeDecodeError as error:
            raise BadFileError("not the config of a run: no text", path, _HINT) from error
        try:
            config = yamlfile.parse_mapping(text, path, hint=_HINT)
            checked(config, _Config, path)
        except (UserError, RecursionError) as error:
            what = error.what if isinstance(error, UserError) else "mappings in mappings, too deep"
            raise BadFileError(f"not the config of a run: {what}", path, _HINT) from error
        _refuse_doubles([stage["name"] for stage in config["stages"]], path)
        return cls(root, {**config, "stages": [dict(stage) for stage in config["stages"]]})

    @property
    def place(self) -> Place:
        return Place(self.root)

    @classmethod
    @contextmanager
    def locked(cls, root: Path, config: Mapping[str, Any], *, read: ConfigReader = dict) -> Iterator["Run"]:
        """Hold the run at `root` for one launcher; it is created if it is not there.

        `read` brings a config that an older version wrote into the form of now, with the keys that came later.
        Raises UserError if another launcher holds it, or if it was made with another config (showing the difference).
        A config with which nothing was planned yet is replaced: a first try that failed does not burn the name.
        """
        with _lock(root):
            yield cls._create_or_open(root, config, read)

    @classmethod
    @contextmanager
    def held(cls, root: Path) -> Iterator["Run"]:
        """Hold an existing run as it is. Raises UserError if `root` is none, or if another launcher holds it."""
        cls.open(root)
        with _lock(root):
            yield cls.open(root)

    @classmethod
    def _create_or_open(cls, root: Path, config: Mapping[str, Any], read: ConfigReader) -> "Run":
        if is_begun(root):
            run = cls(root, read(cls.open(root).config))
            run._refuse_another(config)
            if dump_config(run.config) != dump_config(config):
                Place(root).write("config.yaml", dump_config(config))
            return cls(root, config)
        Place(root).write("run.json", json_text({"format": FORMAT, **provenance(root, config)}))
        Place(root).write("config.yaml", dump_config(config))
        return cls(root, config)

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.root / name)

    def _refuse_another(self, config: Mapping[str, Any]) -> None:
        old, new = (dump_config(_of_content(value)) for value in (self.config, config))
        if old != new:
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "this run", "your config", "", "", 0, "")
            raise UserError(
                "this run was made with another config:\n" + "\n".join(f"    {line}" for line in lines),
                where=str(self.root),
                hint="give the changed config another `name:`, or go on with the run's own: "
                f"`cxr run {self.root / 'config.yaml'} --runs {self.root.parent}`. A key that is not in your "
                "config has another default now than when the run was made",
            )


_HINT = "run under another name, or put the file back"


def _refuse_doubles(names: list[str], path: Path) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadFileError(f"not the config of a run: two stages are called {twice[0]!r}", path, _HINT)


def is_begun(root: Path) -> bool:
    """Whether a run is there of which something was planned."""
    place = Place(root)
    folders = (place / entry.name for entry in place.entries() if entry.is_folder)
    return place.has("config.yaml") and any(folder.has("plan.jsonl") for folder in folders)


def _of_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what may be changed at any time: no data depend on it, or only their last digits, as on the
    number of ranks."""
    kept = {key: value for key, value in config.items() if key not in ("price_per_gpu_hour", "budget_gpu_hours")}
    stages = [{key: value for key, value in stage.items() if key != "ranks"} for stage in config.get("stages", ())]
    return kept | ({"stages": stages} if "stages" in config else {})


def dump_config(config: Mapping[str, Any]) -> str:
    """The one spelling of a resolved config."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open_lock(Place(root), ".lock"))
        except OSError as error:
            is_there = (root / "config.yaml").exists()
            raise UserError(
                f"cannot {'write to' if is_there else 'create'} the run folder ({error.strerror})",
                where=str(root),
                hint=f"{'ask its owner for the right, or ' if is_there else ''}choose a folder that you may write to "
                "with --runs DIR",
            ) from error
        _hold(lock, root)
        yield


def _hold(lock: int, root: Path) -> None:
    """Take the lock without waiting. It goes by itself with its process, however that ends."""
    try:
        is_free = hold(lock)
    except OSError as error:
        is_free = True
        # Some parallel file systems are mounted without locks. The commit protocol is safe without this one.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    if not is_free:
        holder = printable(os.pread(lock, 200, 0).decode(errors="replace").strip())
        raise RunHeldError(
            f"another cxr works in this run ({holder or 'unknown process'})",
            where=str(root),
            hint="wait until it ends, or use another name: `cxr run CONFIG name=other`",
        )
    if fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        os.ftruncate(lock, 0)
        os.write(lock, f"pid {os.getpid()} on {os.uname().nodename}\n".encode())
