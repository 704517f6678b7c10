"""What in a profile, or beside it, may mean another thing than was meant: said wherever jobs are planned or sent."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from slurm.grammar import time_in_words, time_of
from slurm.profile import ClusterProfile

_CLUSTER_VARIABLES = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
"""By which sbatch chooses a cluster, the first before the second."""


class Note(NamedTuple):
    """What is so, and what to write where another thing was meant."""

    fact: str
    hint: str

    def __str__(self) -> str:
        return f"{self.fact}; {self.hint}"


def notes_on(profile: ClusterProfile, environ: Mapping[str, str] | None = None) -> list[Note]:
    """About each limit that is minutes to Slurm and hours to many people, and about a cluster that the shell names and
    the profile does not. `environ` is ours by default."""
    return [*short_limits(profile), *other_cluster(profile, os.environ if environ is None else environ)]


def short_limits(profile: ClusterProfile) -> list[Note]:
    """Limits of the form M:S."""
    if profile.scheduler != "slurm":
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for kind in (None, *profile.stages):
        for key in ("time", "max_time"):
            text = getattr(profile.resources(kind), key)
            if text is not None and re.fullmatch(r"\d+:\d+", text) and (kind is None or text != getattr(profile, key)):
                found.setdefault((key, text), []).append(f"stages.{kind}.{key}" if kind else key)
    return [_short(text, ", ".join(places)) for (_, text), places in found.items()]


def _short(text: str, places: str) -> Note:
    hours, minutes = text.split(":")
    meant = time_of(60 * int(hours) + int(minutes))
    fact = f'{places}: "{text}" is {time_in_words(text)} to Slurm, which reads minutes and seconds'
    return Note(fact, f'for hours and minutes write "{meant}"')


def other_cluster(profile: ClusterProfile, environ: Mapping[str, str]) -> list[Note]:
    """A cluster that the shell names: what is sent there by hand and what a run sends would lie apart."""
    name, given = next(((name, environ[name]) for name in _CLUSTER_VARIABLES if environ.get(name)), ("", ""))
    if profile.scheduler != "slurm" or given in ("", profile.clusters):
        return []
    where = f"to {profile.clusters}, as the profile says" if profile.clusters else "to the cluster of this machine"
    fact = f"{name}={given} of this shell is not used: jobs go {where}"
    return [Note(fact, f"to send them there set `clusters: {given}` in the profile")]
