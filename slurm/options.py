"""Which options of sbatch a profile may add, and why it may not add the others."""

import re
from collections.abc import Sequence

from slurm.grammar import gres_of

_FORM = re.compile(r"--[a-z][a-z0-9-]*(=[^'\"\\`$\n]*)?")

_KEYS = {
    **{name: f"{name}:" for name in ("partition", "account", "qos", "constraint", "exclude", "mem", "time")},
    **{name: f"{name.replace('-', '_')}:" for name in ("cpus-per-task", "mail-user", "mail-type")},
    **dict.fromkeys(("clusters", "cluster"), "clusters:"),
    **dict.fromkeys(
        ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "tres-per-task"), "gpus_per_node: and gpu_type:"
    ),
    "cpus-per-gpu": "cpus_per_task:",
    "array": "array_parallelism: and max_array_size:",
    "signal": "grace_seconds:",
    **dict.fromkeys(("export", "export-file"), "env:"),
    **dict.fromkeys(
        ("nodes", "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket"),
        "ranks: of a training stage (in the config of the run)",
    ),
}
"""Option -> the key that says it."""

_REASONS = {
    **dict.fromkeys(("dependency", "kill-on-invalid-dep"), "jobs wait for each other as the stages of the run do"),
    **dict.fromkeys(("job-name", "comment"), "by its name a job is found again"),
    **dict.fromkeys(("output", "error", "open-mode"), "logs lie in the run folder, where status and logs read them"),
    "chdir": "tasks start in the folder where you called",
    **dict.fromkeys(("parsable", "quiet"), "the answer of sbatch says which job was sent"),
    **dict.fromkeys(("test-only", "wait", "wrap", "help", "usage", "version"), "sbatch must send a script and return"),
    **dict.fromkeys(("uid", "gid"), "jobs are sent as you"),
    **dict.fromkeys(("get-user-env", "propagate"), "login_shell: and setup: say what a task finds"),
    "input": "a task reads nothing",
    "no-requeue": "a task that is stopped comes back by being requeued",
}
"""Option -> why it cannot be given."""


_SHORT = dict(
    {"M": "clusters", "p": "partition", "A": "account", "q": "qos", "C": "constraint", "x": "exclude", "t": "time"},
    **{"c": "cpus-per-task", "G": "gpus", "N": "nodes", "n": "ntasks", "a": "array", "d": "dependency"},
    **{"J": "job-name", "o": "output", "e": "error", "D": "chdir", "W": "wait", "Q": "quiet", "h": "help"},
)


def check_options(options: Sequence[str]) -> None:
    """Raise ValueError, with the key to use, at an option that contradicts ours or takes jobs out of our sight."""
    for option in options:
        if re.match("-[A-Za-z]", option) and option[1] in _SHORT:
            raise ValueError(f"{option!r} is not for `sbatch:`: {_instead(_SHORT[option[1]])}")
        if not _FORM.fullmatch(option):
            raise ValueError(
                f"{option!r} is no long option of sbatch: write --name or --name=value, without quotes or $"
            )
        name = option[2:].partition("=")[0]
        full = _full(name)
        if full:
            short = f" (short for --{full})" if full != name else ""
            raise ValueError(f"--{name}{short} is not for `sbatch:`: {_instead(full)}")
    _check_gres(further_gres(options))


def further_gres(options: Sequence[str]) -> str:
    """The generic resources of `--gres`, which a job gets besides its GPUs; empty without."""
    return ",".join(option.partition("=")[2] for option in options if option.startswith("--gres="))


def _full(name: str) -> str:
    """The option that is not allowed, of which `name` is the whole name or, as sbatch has it, a beginning."""
    known = (*_KEYS, *_REASONS)
    return name if name in known else next((full for full in known if full.startswith(name)), "")


def _instead(name: str) -> str:
    return f"set {_KEYS[name]}" if name in _KEYS else _REASONS[name]


def _check_gres(text: str) -> None:
    names = {gres.name for gres in gres_of(text)} if text else set()
    if names & {"gpu", "none"}:
        raise ValueError(f"--gres={text} is not for `sbatch:`: {_instead('gpus')}")
