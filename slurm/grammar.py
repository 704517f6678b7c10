"""What Slurm writes and reads: limits of time, amounts of memory, generic resources, numbers of jobs. Each has one
parser, which reads a text as Slurm does; `tests/slurm/test_grammar.py` compares them with a real controller."""

import math
import re
from dataclasses import dataclass

_ENDLESS = ("UNLIMITED", "INFINITE", "-1")

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2}|(?<=-))", re.ASCII)

_MEMORY = re.compile(r"(?P<number>\d+)(?P<unit>(?:[KMGT]B?)?)", re.ASCII | re.IGNORECASE)

_GRES = re.compile(
    r"(?:gres[/:])?(?P<name>[A-Za-z_]\w*)(?::(?P<type>[\w.+-]+?))??(?:[:=](?P<count>\d+)(?P<unit>[KMGTP]?))?"
    # Where they are: on which sockets, or which of them a job has.
    r"(?:\((?:S|IDX|CNT):[^)]*\))?",
    re.ASCII,
)
_BETWEEN_GRES = re.compile(r",(?![^(]*\))")

_SENT = re.compile(r"Submitted batch job (\d+)(?: on cluster (\S+))?[ \t\r]*$", re.MULTILINE)
_PARSABLE = re.compile(r"^[ \t]*(\d+)(?:;(\S+))?[ \t\r]*$", re.MULTILINE)


def minutes_of(time: str) -> int | None:
    """A limit of time in minutes, as Slurm keeps it; None if it means that there is no limit.

    The forms are M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. A part may be of one digit and as large as it likes; seconds are
    rounded up to minutes, and 0 is no limit. Raises ValueError if Slurm would refuse it.
    """
    if time.upper() in _ENDLESS:
        return None
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"{time!r} is no time to Slurm")
    parts = [int(part) for part in match["clock"].split(":") if part]
    if match["days"] is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0, 0][:3]
    return 1440 * int(match["days"] or 0) + 60 * hours + minutes + math.ceil(seconds / 60) or None


def hours_of(time: str) -> float:
    """The same in hours, infinite without a limit."""
    minutes = minutes_of(time)
    return math.inf if minutes is None else minutes / 60


def time_of(minutes: int) -> str:
    """A limit of time in the form that nobody reads otherwise: `HH:MM:00`."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def time_in_words(time: str) -> str:
    """`4 min`, `12 h`, `2 d 12 h`."""
    minutes = minutes_of(time)
    if minutes is None:
        return "no limit"
    parts = {"d": minutes // 1440, "h": minutes // 60 % 24, "min": minutes % 60}
    return " ".join(f"{number} {unit}" for unit, number in parts.items() if number)


def megabytes_of(memory: str) -> int | None:
    """An amount of memory in MB, rounded up as Slurm does; None for 0, which means all memory of a node.

    The unit is K, M, G or T, in either case, with or without a B; without a unit it is MB. Raises ValueError if Slurm
    would refuse it.
    """
    match = _MEMORY.fullmatch(memory)
    if match is None:
        raise ValueError(f"{memory!r} is no amount of memory to Slurm")
    power = "KMGT".index(match["unit"][0].upper()) if match["unit"] else 1
    return math.ceil(int(match["number"]) * 1024 ** (power - 1)) or None


def twice_memory(memory: str) -> str:
    """Twice as much, in the same unit: what no unit stands for is the cluster's to say."""
    match = _MEMORY.fullmatch(memory)
    assert match is not None
    return f"{2 * int(match['number'])}{match['unit']}"


@dataclass(frozen=True)
class Gres:
    """A generic resource: `gpu:a100:4` has the name `gpu`, the type `a100` and the count 4."""

    name: str
    type: str
    count: int

    def __str__(self) -> str:
        return ":".join(word for word in (self.name, self.type, str(self.count)) if word)


def gres_of(text: str) -> list[Gres]:
    """Generic resources as Slurm writes them to people (`gpu:a100:4(S:0-1)`), reads them (`gpu:a100:4,lscratch:1K`) and
    counts them (`gres/gpu:a100=4`). Without a count there is one. Raises ValueError for another text."""
    matches = [_GRES.fullmatch(part) for part in _BETWEEN_GRES.split(text)]
    found = [match for match in matches if match is not None]
    if len(found) < len(matches):
        raise ValueError(f"{text!r} is no list of generic resources to Slurm")
    return [Gres(match["name"], match["type"] or "", _count(match)) for match in found]


def _count(match: re.Match[str]) -> int:
    if match["count"] is None:
        return 1
    return int(match["count"]) * 1024 ** (" KMGTP".index(match["unit"]) if match["unit"] else 0)


def job_id(number: str, cluster: str) -> str:
    """The id of a job that was sent to a named cluster, as sbatch writes it: `123;cluster`."""
    return f"{number};{cluster}" if cluster else number


def number_of(job: str) -> str:
    """`123` of `123;cluster`."""
    return job.partition(";")[0]


def cluster_of(job: str) -> str:
    """`cluster` of `123;cluster`; empty for a job of the cluster that Slurm's commands ask by themselves."""
    return job.partition(";")[2]


def answered(text: str) -> str | None:
    """The id of the job of which sbatch told, between whatever else a site prints; None where that is in doubt.

    It counts what follows the words `Submitted batch job`, else the one line that is a number, as `--parsable` prints.
    """
    told = _SENT.findall(text)
    if told:
        return job_id(*told[-1])
    numbers = set(_PARSABLE.findall(text))
    return job_id(*numbers.pop()) if len(numbers) == 1 else None
