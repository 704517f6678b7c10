"""A real controller reads each form as we do: the tables of tests/unit/test_grammar.py, asked of it."""

from collections.abc import Mapping, Sequence

from slurm.grammar import gres_of, megabytes_of, minutes_of
from slurm.values import gpus_of
from tests.slurm.cluster import Cluster
from tests.unit.test_grammar import MEMORY, NO_MEMORY, NO_TIMES, TIMES

HELD = ("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")


def taken(cluster: Cluster, option: str, texts: Sequence[str], field: str) -> dict[str, str]:
    """What `scontrol show job` says in `field` of jobs that were sent with an option; `refused` where sbatch was."""
    sent = {text: cluster.run(*HELD, f"--{option}={text}", check=False) for text in texts}
    lines = cluster.run("scontrol", "-o", "show", "job").stdout.splitlines()
    cluster.run("scancel", "--state=PENDING", "--user=root")
    shown = {}
    # A job of another test, whose folder has a newline in its name, goes on in a line without an id.
    for line in (line for line in lines if line.startswith("JobId=")):
        fields = dict(word.partition("=")[::2] for word in line.split())
        shown[fields["JobId"]] = fields.get(field, "")
    return {text: "refused" if done.returncode else shown[done.stdout.strip()] for text, done in sent.items()}


def refused(said: Mapping[str, str]) -> list[str]:
    return [text for text, value in said.items() if value == "refused"]


def test_a_controller_reads_limits_of_time_as_we_do(cluster: Cluster) -> None:
    said = taken(cluster, "time", [*TIMES, *NO_TIMES], "TimeLimit")
    assert refused(said) == NO_TIMES
    assert {text: minutes_of(said[text]) for text in TIMES} == TIMES


def test_a_controller_reads_amounts_of_memory_as_we_do(cluster: Cluster) -> None:
    said = taken(cluster, "mem", [*MEMORY, *NO_MEMORY], "MinMemoryNode")
    assert refused(said) == NO_MEMORY
    assert {text: megabytes_of(said[text]) for text in MEMORY} == MEMORY


def test_a_controller_reads_gpus_as_we_do(cluster: Cluster) -> None:
    texts = ["2", "a100:2", "a100", "gpu:2"]
    said = taken(cluster, "gpus-per-node", texts[:-1], "TresPerNode") | taken(
        cluster, "gres", texts[-1:], "TresPerNode"
    )
    assert {text: gres_of(value) for text, value in said.items()} == {text: [gpus_of(text)] for text in texts}
    (shown,) = {line.strip() for line in cluster.run("sinfo", "--noheader", "--format=%G").stdout.splitlines()}
    assert str(*gres_of(shown)) == "gpu:2"
