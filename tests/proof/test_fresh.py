"""Machines that have seen nothing; `make proof TARGET=fresh`, as root, an hour on two cores.

CXR_PROOF_FRESH names a folder with 12 GB of room; by default it is below the system's temporary folder. pip and git are
set up inside as they are here (PIP_*, certificates, a local folder of wheels), since a site's index may be the only one
in reach.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from containers.base import make_base
from tests.conftest import REPOSITORY
from tests.containers.engines import APPTAINER, OCI, lacking

pytestmark = pytest.mark.proof

BARE = ("python3", "python3-venv", "git", "make", "ca-certificates")
"""What the README asks of a machine: Python 3.11, git and make. Certificates, so that pip reaches an index."""

KEPT = ("PIP_", "SSL_", "REQUESTS_CA", "CURL_CA", "http_proxy", "https_proxy", "no_proxy")
"""Beginnings of the variables that say how packages are reached."""


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A folder on a disk."""
    given = os.environ.get("CXR_PROOF_FRESH")
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cxr-fresh-", dir=given) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def clone(to: Path) -> Path:
    """What is committed, alone."""
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, to], check=True)
    return to


def said(words: Sequence[str | Path], seconds: float, **options: object) -> str:
    """What a command prints; it must end well."""
    start = time.monotonic()
    done = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, **options
    )
    print(f"$ {shlex.join(map(str, words))}: {time.monotonic() - start:.0f} s")
    # Of a failing one all: its machine is gone after it.
    print("\n".join(done.stdout.splitlines()[-25 if done.returncode == 0 else 0 :]))
    assert done.returncode == 0, f"exit status {done.returncode}, see above"
    return done.stdout


def test_container_tests_pass_in_a_new_clone_with_every_cache_empty(room: Path) -> None:
    assert not lacking((*APPTAINER, *OCI)), lacking((*APPTAINER, *OCI))
    checkout, home, cache = clone(room / "caches" / "main"), room / "home", room / "cache"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CXR_", "XDG_"))}
    environ = kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "CXR_TEST_CACHE": str(cache),
        "CXR_REQUIRE": "apptainer,oci",
    }
    said(["make", ".venv/.ready", f"PYTHON={sys._base_executable}"], 1800, cwd=checkout, env=environ)  # type: ignore[attr-defined]
    words = [".venv/bin/python", "-m", "pytest", "-q", "--no-header", "tests/containers", "tests/unit/test_base.py"]
    text = said(words, 3600, cwd=checkout, env=environ)
    assert " error" not in text.splitlines()[-1]
    assert [path.name for path in cache.iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def bare(room: Path) -> Path:
    """A Debian with Python 3.11, git and make alone, and a clone of the project in it."""
    system = make_base(room / "bare", "bookworm", packages=BARE)
    clone(system / "home" / "main")
    for name in ("resolv.conf", "ssl/certs/ca-certificates.crt"):
        (system / "etc" / name).write_bytes((Path("/etc") / name).read_bytes())
    return system


def enter(system: Path, command: str, seconds: float) -> str:
    """Run a command in the clone of a system. Its mounts go with it."""
    binds = [Path(value) for name, value in os.environ.items() if name == "PIP_FIND_LINKS" and Path(value).is_dir()]
    mounts = [f"mount --rbind /dev {system}/dev", f"mount --rbind /proc {system}/proc"]
    for folder in binds:
        (system / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
        mounts.append(f"mount --bind {folder} {system}{folder}")
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    environ = kept | {"HOME": "/root", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
    inside = f"cd /home/main && {command}"
    script = " && ".join([*mounts, f"exec chroot {system} /bin/sh -c {shlex.quote(inside)}"])
    return said(["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", script], seconds, env=environ)


def test_make_demo_ends_in_a_report_on_a_bare_debian(bare: Path) -> None:
    enter(bare, "make demo", 7200)
    report = bare / "home" / "main" / "runs" / "demo" / "report.html"
    assert report.stat().st_size > 100_000


def test_make_test_is_green_on_a_bare_debian_and_says_why_each_test_is_skipped(bare: Path) -> None:
    text = enter(bare, "make test", 7200)
    skipped = [line for line in text.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    assert all(line.partition(": ")[2].strip() for line in skipped)
