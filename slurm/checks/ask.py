"""Ask a command of the system, and read what Slurm's commands print."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCHEDULER_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_")
"""Prefixes of variables by which a job, or a user's shell, changes what Slurm's commands do."""


@dataclass(frozen=True)
class Answer:
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


def ask(*words: str, environ: Mapping[str, str], seconds: float = 20, stdin: str = "") -> Answer:
    """Run a command to its end, but not longer than `seconds`. Never raises for what the command does."""
    try:
        done = subprocess.run(
            words, env=dict(environ), input=stdin, timeout=seconds, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return Answer(127, "", f"{words[0]}: command not found")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{words[0]} gave no answer within {seconds:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def leaks_of(environ: Mapping[str, str]) -> list[str]:
    """Variables of the scheduler that change what a command does. SLURM_CONF only says where the cluster is."""
    return sorted(name for name in environ if name.startswith(SCHEDULER_VARIABLES) and name != "SLURM_CONF")


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


def parse_hours(text: str) -> float:
    """A time limit as Slurm writes it (`2-00:00:00`, `04:00:00`, `30:00`, `UNLIMITED`) in hours."""
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", ""):
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        # With days, the first number is hours: `2-12` is two days and a half.
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = ([0] * (3 - len(parts)) + parts) if len(parts) > 1 else [0, *parts, 0]
    return 24 * int(days or 0) + hours + minutes / 60 + seconds / 3600


def parse_version(text: str) -> tuple[int, ...] | None:
    """`slurm-wlm 22.05.8`, `slurm 23.11.4-1` as numbers; None if there are none."""
    found = re.search(r"\b(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def join(words: Sequence[str], most: int = 6) -> str:
    """A list for people, cut where it is long."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
