"""Other users of this machine: real numbers of users and groups, which need no names; root alone can become them."""

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY, require

GROUP, OTHER_GROUP = 54000, 54999
"""Numbers that no file of users knows."""


@cache
def _python() -> str:
    """A Python of this version that anybody may start: the one of this process may lie in root's home."""
    if os.getuid() != 0:
        return ""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = [sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"]
    return next((python for python in found if Path(python).exists() and _can_start(python)), "")


def _can_start(python: str) -> bool:
    try:
        return Person(54321, OTHER_GROUP).run(python, "-c", "import jobs.cli, numpy").returncode == 0
    except OSError:
        return False


def need_people() -> None:
    """Skip with the reason where this process cannot become another user."""
    require("people", os.getuid() == 0, "only root can become other users")
    require("people", bool(_python()), "no Python with these packages that another user may start")


_IN_TURN = """
import contextlib, io, json, sys, traceback
from jobs.cli import main
done = []
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["cxr", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Person:
    """A user by number, in one group, with the umask of their shell."""

    uid: int
    gid: int = GROUP
    umask: int = 0o022

    def run(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command of theirs, to its end."""
        packages = [REPOSITORY, *site.getsitepackages(), *filter(os.path.isdir, sys.path)]
        environ = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "HOME": "/nowhere",
            "LOGNAME": f"uid{self.uid}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            list(map(str, words)),
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            umask=self.umask,
            env=environ | options.pop("env", {}),
            capture_output=True,
            text=True,
            check=False,
            **{"timeout": 300, "cwd": "/"} | options,
        )

    def all_cxr(self, *commands: Sequence[str | Path]) -> list[Done]:
        """Several of their commands, one after another in one process, which starts but once."""
        given = json.dumps([[str(word) for word in words] for words in commands])
        done = self.python("-c", _IN_TURN, given)
        assert done.returncode == 0, done.stderr
        return [Done(*one) for one in json.loads(done.stdout)]

    def python(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Python, with these packages."""
        return self.run(_python(), *words, **options)

    def cxr(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Their `cxr`."""
        return self.python("-m", "jobs.cli", *words, **options)


@contextmanager
def common_folder(mode: int = 0o755) -> Iterator[Path]:
    """A folder that other users can reach, of this mode and the group."""
    folder = Path(tempfile.mkdtemp(prefix="cxr-shared-"))
    try:
        os.chown(folder, -1, GROUP)
        folder.chmod(mode)
        yield folder
    finally:
        shutil.rmtree(folder)
