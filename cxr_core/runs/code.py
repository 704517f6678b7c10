"""Which code and which libraries make results, and whether a run may go on with those of this process.

The code is the sha256 of our source files as they are installed, whatever commit, folder or time they are of; the
libraries are those that decide pixels, losses and numbers. Both stand in every plan. Another code or another version
mixes two programs in one run, so it is refused until somebody accepts it, which is recorded in the run.
"""

import getpass
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Required

from pydantic import ConfigDict
from typing_extensions import TypedDict

import cxr_core
from cxr_core.errors import UserError
from cxr_core.runs import image
from cxr_core.runs.door import STRICT, BadFileError, Place, parse
from cxr_core.runs.files import canonical_json, json_text, sha256_text
from cxr_core.runs.plan import Plan, PlanHeader

PACKAGES = ("containers", "cxr_core", "jobs", "slurm")
"""Our packages: folders beside one another, in a checkout as in an installation."""

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "deepspeed",
    "peft",
    "xformers",
    "monai",
    "numpy",
    "scipy",
    "scikit-learn",
    "faiss-cpu",
    "pandas",
    "opencv-python-headless",
)
"""Those that decide tokens, pixels, losses, samples or statistics. What reads and writes without loss is not here."""

_MOST_NAMED = 5


@dataclass(frozen=True)
class Code:
    """The code of a process: `files` maps each source file to its sha256, line endings aside."""

    root: Path
    files: Mapping[str, str]
    libraries: Mapping[str, str]

    @cached_property
    def sha256(self) -> str:
        """Of all source files with their names."""
        return sha256_text(canonical_json(dict(self.files)))

    @cached_property
    def commit(self) -> str:
        """The commit, with "+" if files of a checkout were changed since; empty where nobody knows it."""
        return commit_of(self.root) + "+" * bool(git(self.root, "status", "--porcelain", "--", *PACKAGES))

    @classmethod
    def read(cls, root: Path) -> "Code":
        """The code whose packages lie in `root`, with the libraries of this process."""
        return cls(root, {path.relative_to(root).as_posix(): _sha256(path) for path in _sources(root)}, libraries())

    @classmethod
    @cache
    def here(cls) -> "Code":
        """The code of this process, read once."""
        return cls.read(Path(cxr_core.__file__).absolute().parents[1])

    def record(self, run: Path) -> None:
        """Keep the list of files in the run, so that a later difference can be named."""
        folder, name = (Place(run) / _LISTS).make(), _list_of(self.sha256)
        if not folder.has(name):
            folder.write(name, json_text({"format": 1, "commit": self.commit, "files": dict(self.files)}))


def libraries() -> dict[str, str]:
    """Version of each of `LIBRARIES` that is installed, and Python's without its last number."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit_of(folder: Path) -> str:
    """The commit of the code in `folder`: of the checkout, else of the image, else what pip noted of a repository that
    it installed from. Tags and history are not needed, so a shallow clone will do. Empty where nobody knows it."""
    return git(folder, "rev-parse", "HEAD") or os.environ.get("CXR_GIT_SHA", "") or _installed_from(folder)


class _Vcs(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]

    commit_id: str


class _DirectUrl(TypedDict, total=False):
    """direct_url.json of an installed package (PEP 610), as far as it names a commit."""

    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]

    vcs_info: _Vcs


def _installed_from(folder: Path) -> str:
    """The commit that pip installed into `folder`, which is a site-packages then."""
    for installed in distributions(name="cxr-suite", path=[str(folder)]):
        text = installed.read_text("direct_url.json") or "{}"
        return parse(text.encode(), _DirectUrl, folder / "direct_url.json").get("vcs_info", {}).get("commit_id", "")
    return ""


def git(folder: Path, *words: str) -> str:
    """What git says of a checkout; empty where `folder` is none, or a node has no git."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def accept(run: Path) -> None:
    """Let the run at `run` go on with the code and the libraries of this process, and record who said so and when.

    A launcher that works for an image cannot see the code in there: it accepts whatever that image holds.
    """
    if image.is_seen_from_outside():
        entry: dict[str, Any] = {"image": image.image(), "code": None, "commit": "", "libraries": {}}
    else:
        here = Code.here()
        here.record(run)
        entry = {"image": image.image(), "code": here.sha256, "commit": here.commit, "libraries": here.libraries}
    before = accepted(run)
    if not any(all(each.get(key) == value for key, value in entry.items()) for each in before):
        entry |= {"time": datetime.now(UTC).isoformat(timespec="seconds"), "by": _who()}
        Place(run).write(ACCEPTED, json_text({"format": 1, "accepted": [*before, entry]}))


ACCEPTED = "accepted_code.json"


class _Consent(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]

    image: str
    code: str | None
    commit: str
    libraries: dict[str, str]
    time: str
    by: str


class AcceptedCode(TypedDict):
    """accepted_code.json."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    accepted: list[_Consent]


class _FilesOfCode(TypedDict):
    """`_code/<sha256>.json`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: int
    commit: str
    files: dict[str, str]


class _Git(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]

    commit: str


class RunRecord(TypedDict, total=False):
    """run.json, as far as a run goes by it; whatever else stands there is for people."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    format: Required[int]
    git: _Git
    versions: dict[str, str]


def accepted(run: Path) -> list[dict[str, Any]]:
    """What was accepted in a run: entries with time, by, code, commit, libraries, image."""
    try:
        return [dict(entry) for entry in Place(run).json(ACCEPTED, AcceptedCode)["accepted"]]
    except FileNotFoundError:
        return []


def check(run: Path) -> None:
    """Raise UserError if a stage of a run was planned with other code or libraries and nobody said that this is fine.

    A launcher that works for an image leaves this to the processes in there, whose code decides.
    """
    if image.is_seen_from_outside():
        return
    here = Code.here()
    for name, header in _headers(run):
        made = _made_by(run, header)
        same = (made["code"], made["libraries"]) == (here.sha256, here.libraries)
        if not same and not _is_accepted(run, here):
            raise _another(run, name, made, here)


def _is_accepted(run: Path, here: Code) -> bool:
    now_in = image.image()
    if now_in and now_in in image.accepted(run):
        return True
    return any(
        (each["code"], each["libraries"]) == (here.sha256, here.libraries)
        or (each["code"] is None and each["image"] == now_in)
        for each in accepted(run)
    )


def _headers(run: Path) -> Iterator[tuple[str, PlanHeader]]:
    """Stage and first line of each plan of the run."""
    for entry in Place(run).entries():
        if entry.is_folder:
            with suppress(FileNotFoundError, BadFileError):  # whoever reads the plan says that it is damaged
                yield entry.name, Plan.read_header(run / entry.name / "plan.jsonl")


def _made_by(run: Path, header: PlanHeader) -> dict[str, Any]:
    """Code, commit and libraries of a plan; of one that says nothing, what run.json knows."""
    parts: Mapping[str, Any] = header.get("parts", {})
    if parts:
        return {"code": parts["code"], "commit": parts["commit"], "libraries": parts["libraries"]}
    made: RunRecord = Place(run).json("run.json", RunRecord) if Place(run).has("run.json") else {"format": 1}
    versions = {name: text for name, text in made.get("versions", {}).items() if name in LIBRARIES}
    return {"code": "", "commit": made.get("git", {}).get("commit", ""), "libraries": versions}


def _another(run: Path, stage: str, made: Mapping[str, Any], here: Code) -> UserError:
    lines = [*_code_difference(run, made, here), *_library_differences(made, here)]
    commit = str(made["commit"])
    back = f"`git checkout {commit[:12]}`" if commit and commit[-1] != "+" else "the files as they were"
    return UserError(
        f"stage {stage!r} was planned by other code or libraries:\n" + "\n".join(f"    {line}" for line in lines),
        where=str(run),
        hint=f"go on with what made it ({back}), start a run under another name, or say that this one is fine: "
        "--accept-code; receipts name the code that made them",
    )


def _code_difference(run: Path, made: Mapping[str, Any], here: Code) -> Iterator[str]:
    if made["code"] == here.sha256:
        return
    before = f"{made['code'][:12] or 'not recorded'}{_of_commit(made['commit'])}"
    yield f"code: {before} -> {here.sha256[:12]}{_of_commit(here.commit)}"
    folder, name = Place(run) / _LISTS, _list_of(made["code"])
    if made["code"] and folder.has(name):
        files = folder.json(name, _FilesOfCode)["files"]
        names = sorted(name for name in {*files, *here.files} if files.get(name) != here.files.get(name))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"files that differ: {', '.join(names[:_MOST_NAMED])}{more}"


def _library_differences(made: Mapping[str, Any], here: Code) -> Iterator[str]:
    """Of a plan of before, the versions that were recorded; what was not is not known to differ."""
    before = made["libraries"]
    names = {*before, *here.libraries} if made["code"] else set(before)
    for name in sorted(names):
        old, new = before.get(name, "not installed"), here.libraries.get(name, "not installed")
        if old != new:
            yield f"{name}: {old} -> {new}"


def _of_commit(commit: str) -> str:
    if not commit:
        return ""
    return f" (commit {commit.rstrip('+')[:12]}{' with changes' if commit.endswith('+') else ''})"


_LISTS = "_code"


def _list_of(sha256: str) -> str:
    return f"{sha256[:16]}.json"


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        for folder, folders, names in os.walk(root / package):
            folders[:] = sorted(name for name in folders if name != "__pycache__" and name[0] != ".")
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py") and name[0] != ".")


def _sha256(path: Path) -> str:
    """Of a source file, whatever ends its lines."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without an entry, as in a container
        user = f"uid {os.getuid()}"
    return f"{user} on {os.uname().nodename}"
