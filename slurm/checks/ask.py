"""Ask a command of the system, and read what Slurm's commands print."""

import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_core.log import room_log

log = room_log(__name__)

_COMMANDS = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SINFO", "SACCT", "SACCTMGR", "SCANCEL", "SCONTROL")
SCHEDULER_VARIABLES = tuple(f"{command}_" for command in _COMMANDS)
"""Prefixes of variables by which a job, or a user's shell, changes what Slurm's commands do."""

NO_CLUSTER = "known by database"
"""Words of Slurm's commands where a name is no cluster's."""

ACCESS_VARIABLES = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Those that only say where the cluster is and who asks."""


@dataclass(frozen=True)
class CommandResult:
    """Exit status, stdout, stderr. Status 127 where there is no such command, 124 where it took too long."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def reason(self) -> str:
        """The lines of stderr that say what was wrong, in one line."""
        lines = (re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in self.err.splitlines())
        return "; ".join(line for line in lines if line) or f"exit status {self.code}"


def ask(*words: str, environ: Mapping[str, str], seconds: float = 20, stdin: str = "") -> CommandResult:
    """Run a command to its end, but not longer than `seconds`. Never raises for what the command does."""
    start = time.monotonic()
    answer = _answer(words, environ, seconds, stdin)
    log_answer(words, answer, time.monotonic() - start)
    return answer


def _answer(words: Sequence[str], environ: Mapping[str, str], seconds: float, stdin: str) -> CommandResult:
    try:
        done = subprocess.run(
            words, env=dict(environ), input=stdin, timeout=seconds, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return CommandResult(127, "", f"{words[0]}: command not found")
    except subprocess.TimeoutExpired:
        return CommandResult(124, "", f"{words[0]} gave no answer within {seconds:.0f} s")
    return CommandResult(done.returncode, done.stdout, done.stderr)


def log_answer(words: Sequence[str], answer: CommandResult, seconds: float) -> None:
    """Record what was asked, and how it was answered."""
    how = "" if answer.ok else f": {answer.reason}"
    log.debug("%s: exit status %d in %.2f s%s", shlex.join(words), answer.code, seconds, how)


def at(cluster: str | None, command: str, *words: str) -> list[str]:
    """A command of Slurm that asks a named cluster, or without one that of this machine."""
    return [command, *([f"--clusters={cluster}"] if cluster else []), *words]


def leaks_of(environ: Mapping[str, str]) -> list[str]:
    """Variables of the scheduler that change what a command does."""
    return sorted(name for name in environ if name.startswith(SCHEDULER_VARIABLES) and name not in ACCESS_VARIABLES)


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a surrounding job would leak into a new one."""
    leaks = set(leaks_of(environ))
    return {name: value for name, value in environ.items() if name not in leaks}


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: lines `Key   = value`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def parse_records(text: str) -> list[dict[str, str]]:
    """`scontrol -o show ...`: a line a thing, words `Key=value`."""
    lines = (line.split() for line in text.splitlines() if "=" in line)
    return [{key: value for key, _, value in (word.partition("=") for word in words)} for words in lines]


def parse_rows(text: str) -> list[list[str]]:
    """What `-P` (parsable) prints: a line a row, fields between bars."""
    return [line.split("|") for line in text.splitlines() if line.strip()]


def parse_version(text: str) -> tuple[int, ...] | None:
    """`slurm-wlm 22.05.8`, `slurm 23.11.4-1` as numbers; None if there are none."""
    found = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def join(words: Sequence[str], most: int = 6) -> str:
    """A list for people, cut where it is long."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
