"""The run folder. Every command is a function of it: plan minus receipts is what is left to do."""

import difflib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_atomic, write_json
from cxr_core.runs.plan import Plan
from cxr_core.runs.provenance import provenance
from cxr_core.runs.receipt import Receipt

FORMAT = 1

Reader = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class RunHeldError(UserError):
    """Another launcher works in the run at this moment."""


@dataclass(frozen=True)
class StageFolder:
    """The part of a run folder that belongs to one stage."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.jsonl"

    def plan(self) -> Plan | None:
        """The frozen plan, or None before it is frozen."""
        return Plan.read(self.plan_path) if self.plan_path.exists() else None

    def num_planned(self) -> int | None:
        """Shards of the frozen plan, from its first line alone; None before it is frozen."""
        return Plan.read_header(self.plan_path)["num_shards"] if self.plan_path.exists() else None

    def done(self) -> set[str]:
        """Ids of the shards that have a receipt: one listing, no file is opened."""
        folder = self.path / "receipts"
        if not folder.is_dir():
            return set()
        with os.scandir(folder) as entries:
            return {entry.name[:-5] for entry in entries if entry.name.endswith(".json") and entry.name[0] != "."}

    def is_done(self, shard: str) -> bool:
        """Whether one shard has its receipt."""
        return (self.path / "receipts" / f"{shard}.json").exists()

    def receipt(self, shard: str) -> Receipt:
        return Receipt.read(self.path / "receipts" / f"{shard}.json")

    def receipts(self) -> list[Receipt]:
        """All receipts, by shard id."""
        return [self.receipt(shard) for shard in sorted(self.done())]

    def facts(self) -> dict[str, Any] | None:
        """What `finalize` recorded in stage.json, or None while the stage is not finished."""
        path = self.path / "stage.json"
        return read_json(path) if path.exists() else None


@dataclass(frozen=True)
class Run:
    """A run: `root` is its folder, `config` the fully resolved config as plain data."""

    root: Path
    config: Mapping[str, Any]

    @classmethod
    def open(cls, root: Path) -> "Run":
        """Open an existing run. Raises UserError if `root` is none."""
        path = root / "config.yaml"
        if not path.is_file():
            raise UserError("not a run: it has no config.yaml", where=str(root), mend="`cxr run CONFIG` makes one")
        try:
            config = yaml.safe_load(path.read_text())
            return cls(root, {**config, "stages": [dict(stage) for stage in config["stages"]]})
        except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"not the config of a run ({error!r})",
                where=str(path),
                mend="run under another name, or put the file back",
            ) from error

    @classmethod
    @contextmanager
    def locked(cls, root: Path, config: Mapping[str, Any], *, read: Reader = dict) -> Iterator["Run"]:
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
    def _create_or_open(cls, root: Path, config: Mapping[str, Any], read: Reader) -> "Run":
        if is_begun(root):
            run = cls(root, read(cls.open(root).config))
            run._refuse_another(config)
            if dump_config(run.config) != dump_config(config):
                write_atomic(root / "config.yaml", dump_config(config))
            return cls(root, config)
        write_json(root / "run.json", {"format": FORMAT, **provenance(root, config)})
        write_atomic(root / "config.yaml", dump_config(config))
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
                mend="give the changed config another `name:`, or go on with the run's own: "
                f"`cxr run {self.root / 'config.yaml'} --runs {self.root.parent}`. A key that is not in your "
                "config has another default now than when the run was made",
            )


def is_begun(root: Path) -> bool:
    """Whether a run is there of which something was planned."""
    return (root / "config.yaml").exists() and any(root.glob("*/plan.jsonl"))


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
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(root / ".lock")
    except OSError as error:
        is_there = (root / "config.yaml").exists()
        raise UserError(
            f"cannot {'write to' if is_there else 'create'} the run folder ({error.strerror})",
            where=str(root),
            mend=f"{'ask its owner for the right, or ' if is_there else ''}choose a folder that you may write to with "
            "--runs DIR",
        ) from error
    try:
        _hold(lock, root)
        yield
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    """With the rights that the user's umask leaves to others. Who may only read it can hold it too."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not os.access(path.parent, os.W_OK):
            raise
        return os.open(path, os.O_RDONLY)


def _hold(lock: int, root: Path) -> None:
    """Take the lock without waiting. It goes by itself with its process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode().strip()
        raise RunHeldError(
            f"another cxr works in this run ({holder or 'unknown process'})",
            where=str(root),
            mend="wait until it ends, or use another name: `cxr run CONFIG name=other`",
        ) from None
    except OSError as error:
        # Some parallel file systems are mounted without locks. The commit protocol is safe without this one.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    if fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        os.ftruncate(lock, 0)
        os.write(lock, f"pid {os.getpid()} on {os.uname().nodename}\n".encode())
