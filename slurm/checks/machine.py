"""Questions to the machine on which `cxr` was called; none needs a scheduler."""

import os
import site as python_site
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxr_core.home import expanded, home
from slurm.checks import probe
from slurm.checks.ask import join, leaks_of
from slurm.checks.site import CheckResult, Site
from slurm.notes import other_cluster

_FEW_BYTES, _FEW_INODES = 20e9, 100_000
"""Below this a run of 100,000 images would not fit: about 10 GB and, with checkpoints, some ten thousand files."""

_CACHES = {
    "HF_HOME": ".cache/huggingface",
    "APPTAINER_CACHEDIR": ".apptainer/cache",
    "PIP_CACHE_DIR": ".cache/pip",
    "TORCH_HOME": ".cache/torch",
    "TRITON_CACHE_DIR": ".triton/cache",
}
"""Variable -> where the cache lies below $HOME without it."""


def run_folder(site: Site) -> CheckResult:
    """Whether files can be made, linked once and removed where run folders will lie."""
    folder = site.existing_runs
    try:
        with tempfile.TemporaryDirectory(prefix=".cxr-doctor-", dir=folder) as name:
            probe.put(Path(name), "file")
            answers = [probe.link(Path(name, "file"), Path(name, "link")) for _ in range(2)]
    except OSError as error:
        return CheckResult(
            "fail", f"cannot write to {folder} ({error.strerror})", "choose a folder that you may write to: --runs DIR"
        )
    if answers == ["ok", "EEXIST"]:
        return CheckResult("ok", f"{folder} is writable, and a hard link is made once only")
    return CheckResult(
        "warn",
        f"{folder} is writable, but has no exclusive hard links ({answers[0]}, then {answers[1]})",
        "commits fall back to claim files, which are slower: prefer another file system for runs",
    )


def room(site: Site) -> CheckResult:
    """Bytes and inodes that are left; quotas are another matter."""
    stat = os.statvfs(site.existing_runs)
    free, inodes = stat.f_bavail * stat.f_frsize, stat.f_favail
    # File systems that make inodes as they go report none at all.
    counted = stat.f_files > 0
    fact = f"{free / 1e9:.1f} GB and {f'{inodes:,} inodes' if counted else 'inodes without a limit'} free"
    fix = f"free some, or choose another folder with --runs DIR (now {site.existing_runs}); look at your quota too"
    if free <= 0 or (counted and inodes <= 0):
        return CheckResult("fail", fact, fix)
    if free < _FEW_BYTES or (counted and inodes < _FEW_INODES):
        return CheckResult("warn", f"{fact}: too few for 100,000 images", fix)
    return CheckResult("ok", fact)


def caches(site: Site) -> CheckResult:
    """Whether what is downloaded and unpacked would fill the home folder, which is small on most clusters."""
    place = Path(site.environ["HOME"]) if site.environ.get("HOME") else home()
    if place is None:
        fact = "no home folder is known: caches that no variable names go to a private temporary folder"
        return CheckResult("warn", fact, "export HOME=/a/folder")
    place = place.resolve()
    places = {name: _cache(site, name, place / rest) for name, rest in _CACHES.items()}
    inside = [name for name, path in places.items() if path.resolve().is_relative_to(place)]
    if not inside:
        return CheckResult("ok", "outside $HOME: " + ", ".join(f"{name}={path}" for name, path in places.items()))
    return CheckResult(
        "warn" if site.has_slurm else "ok",
        f"{join(inside)} {'lies' if len(inside) == 1 else 'lie'} in {place}",
        "name folders on a larger file system under `caches:` in the profile, e.g. HF_HOME: /scratch/$USER/hf",
    )


def _cache(site: Site, name: str, default: Path) -> Path:
    given = site.profile.caches.get(name) or site.environ.get(name)
    return expanded(os.path.expandvars(given)) if given else default


def python_leaks(site: Site) -> Iterator[CheckResult]:
    """Packages that a job would see here but not on a node, or the other way round."""
    if site.environ.get("PYTHONPATH"):
        yield CheckResult(
            "warn",
            f"PYTHONPATH={site.environ['PYTHONPATH']} puts packages before the installed ones",
            "unset PYTHONPATH",
        )
    user = Path(python_site.getusersitepackages())
    if python_site.ENABLE_USER_SITE and user.is_dir():
        yield CheckResult("warn", f"packages in {user} come before the installed ones", "export PYTHONNOUSERSITE=1")
    yield CheckResult("ok", f"Python {sys.version.split()[0]} at {sys.executable}")


def scheduler_leaks(site: Site) -> Iterator[CheckResult]:
    """Variables that would change what `sbatch`, `srun` and `squeue` do."""
    leaks = leaks_of(site.environ)
    if not leaks:
        yield CheckResult("ok", "no SLURM_* or SBATCH_* variable is set")
        return
    inside = " (this shell is inside a job)" if "SLURM_JOB_ID" in leaks else ""
    fix = "leave the job's shell" if inside else f"unset {' '.join(leaks[:6])}"
    yield CheckResult(
        "warn", f"set in this shell: {join(leaks)}{inside}", f"{fix}; what you submit by hand inherits them"
    )
    yield from (CheckResult("warn", *note) for note in other_cluster(site.profile, site.environ))
