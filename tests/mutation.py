"""Do the tests of a module notice small defects in it? `make mutation`, or `python -m tests.mutation splits` for one.

mutmut makes a defect at a time (another comparison, number, argument, word) in a copy of the checkout and runs the
module's own tests. A defect that no test notices is printed as a difference, unless tests/mutants.yaml explains why
nobody can notice it. Words of messages are changed too: tests pin what must be said, so those that live need a look,
not always a test.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
EXPLAINED = ROOT / "tests" / "mutants.yaml"

MODULES: Mapping[str, tuple[str, Sequence[str]]] = {
    "commit": ("cxr_core/runs/commit.py", ["tests/unit/test_commit.py"]),
    "splits": ("cxr_core/data/splits.py", ["tests/unit/test_splits.py"]),
    "distances": ("cxr_core/evaluation/distances.py", ["tests/unit/test_distances.py"]),
    "data_order": ("cxr_core/training/data_order.py", ["tests/unit/test_data_order.py"]),
}
"""Short name -> module, and its own test files."""

_FOUND = {1, 3, 36, 24, -24, 152, 255}
"""Exit codes of a run that noticed: a test failed, or went on for ever."""

_SETTINGS = """\
[mutmut]
source_paths=
    cxr_core
    jobs
    slurm
    containers
only_mutate={module}
pytest_add_cli_args_test_selection=
    {tests}
also_copy=
    CHANGELOG.md
    README.md
timeout_multiplier=15
timeout_constant=15
use_git_change_detection=false
"""


@dataclass(frozen=True)
class Survivor:
    """A defect that no test noticed: its name, and its lines as a difference has them, `-old` and `+new`."""

    name: str
    change: str


@dataclass(frozen=True)
class Result:
    """How many defects a module got, how many were noticed, and which were not and why that is so, if it is known."""

    module: str
    num: int
    num_found: int
    explained: Mapping[str, Sequence[Survivor]]
    unexplained: Sequence[Survivor]

    @property
    def score(self) -> float:
        """The share noticed of those that somebody could notice."""
        num = self.num - sum(map(len, self.explained.values()))
        return self.num_found / num if num else 1.0

    def figure(self) -> str:
        num_explained = sum(map(len, self.explained.values()))
        return (
            f"{self.score:.1%}: {self.num_found} of {self.num}; {num_explained} change nothing that a test could "
            f"notice, and {len(self.unexplained)} live"
        )


def examine(name: str) -> Result:
    """Put defects into one module of a copy of the checkout, and run its tests on each."""
    module, tests = MODULES[name]
    copy = _copy(ROOT / "build" / "mutation" / name)
    (copy / "setup.cfg").write_text(_SETTINGS.format(module=module, tests="\n    ".join(tests)))
    _mutmut(copy, "run", "--max-children", os.environ.get("WORKERS", "2"))
    codes = json.loads((copy / "mutants" / f"{module}.meta").read_text())["exit_code_by_key"]
    unknown = Counter(code for code in codes.values() if code is None)
    if unknown:
        raise SystemExit(f"{module}: {unknown.total()} of {len(codes)} defects were not tried")
    living = [_survivor(copy, key) for key, code in codes.items() if code not in _FOUND]
    return settled(module, len(codes), living, yaml.safe_load(EXPLAINED.read_text()).get(module, {}))


def settled(module: str, num: int, living: Sequence[Survivor], reasons: Mapping[str, Sequence[str]]) -> Result:
    """The result, with what lives sorted by `reasons`: why -> changes that it explains."""
    why = {survivor.change: WORDING for survivor in living if is_wording(survivor.change)}
    why |= {change: reason for reason, changes in reasons.items() for change in changes}
    explained: dict[str, list[Survivor]] = {}
    for survivor in living:
        if survivor.change in why:
            explained.setdefault(why[survivor.change], []).append(survivor)
    unexplained = [survivor for survivor in living if survivor.change not in why]
    return Result(module, num, num - len(living), explained, unexplained)


WORDING = "The words around what the tests ask for: how a message is put is free."


def is_wording(change: str) -> bool:
    """Whether a text of several words was only put between XX, or into capitals or small letters, as mutmut does.

    One word alone may be a key or an option, and then another one is a defect.
    """
    lines = {line[0]: line[1:] for line in change.splitlines()}
    old, new = lines.get("-", ""), lines.get("+", "")
    if old == new or old.casefold() != new.replace("XX", "").casefold():
        return False
    texts = zip(_TEXT.findall(old), _TEXT.findall(new), strict=True)
    return all(" " in before for before, after in texts if before != after)


_TEXT = re.compile(r'"([^"]*)"')


def _copy(folder: Path) -> Path:
    """The files that git knows, as they are now, in a new `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _mutmut(copy: Path, *words: str) -> str:
    """What mutmut says. Raises SystemExit, with the end of it, if it fails."""
    command = [sys.executable, "-m", "mutmut", *words]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mutmut {' '.join(words)} failed in {copy}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def _survivor(copy: Path, key: str) -> Survivor:
    return Survivor(key.rpartition(".")[2], change_of(_mutmut(copy, "show", key)))


def change_of(difference: str) -> str:
    """The lines of a unified difference that changed, without indents: `-old` and `+new`, one below the other."""
    lines = [line for line in difference.splitlines() if line[:1] in "-+" and line[:3] not in ("---", "+++")]
    return "\n".join(line[0] + line[1:].strip() for line in lines if line)


def report(results: Sequence[Result], command: str, seconds: float) -> Iterator[str]:
    """Lines of the output: what was measured where, a line a module, and each change that lives."""
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    yield f"# date: {time.strftime('%Y-%m-%d')}"
    yield f"# commit: {commit.stdout.strip() or 'unknown'}"
    yield f"# machine: {platform.machine()}, {os.cpu_count()} cores, {seconds / 60:.0f} minutes"
    yield f"# command: {command}"
    yield "# about: tests"
    for result in results:
        yield f"# what: small defects put into {result.module}, and how many of them its own tests find"
        yield f"# figure: {result.figure()}"
    for result in results:
        for survivor in result.unexplained:
            yield f"\n{result.module}: lives, {survivor.name}\n{survivor.change}"
        for why, survivors in result.explained.items():
            yield f"\n{result.module}: {why}"
            yield from (survivor.change for survivor in survivors)


def main(names: Sequence[str]) -> None:
    unknown = set(names) - set(MODULES)
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: the modules are {', '.join(MODULES)}")
    start, results = time.monotonic(), []
    for name in names or MODULES:
        results.append(examine(name))
        print(f"{name}: {results[-1].figure()}", file=sys.stderr, flush=True)
    command = " ".join(["make mutation", *([f"ARGS='{' '.join(names)}'"] if names else [])])
    print("\n".join(report(results, command, time.monotonic() - start)))


if __name__ == "__main__":
    main(sys.argv[1:])
