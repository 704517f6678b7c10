"""What Slurm writes and reads, as our parsers read it. `tests/slurm/test_grammar.py` asks a controller the same."""

import math

import pytest

from slurm.grammar import (
    answered,
    cluster_of,
    gres_of,
    hours_of,
    megabytes_of,
    minutes_of,
    number_of,
    time_in_words,
    time_of,
    twice_memory,
)

TIMES: dict[str, int | None] = {
    "4": 4,
    "04": 4,
    "010": 10,
    "240": 240,
    "4:00": 4,
    "04:00": 4,
    "0:30": 1,
    "0:90": 2,
    "1:90": 3,
    "90:90": 92,
    "04:00:00": 240,
    "0:0:1": 1,
    "1:2:3": 63,
    "1:90:00": 150,
    "30:00:00": 1800,
    "200:00:00": 12000,
    "1-": 1440,
    "1-2": 1560,
    "1-02:3": 1563,
    "1-12:30": 2190,
    "1-25:61": 3001,
    "1-2:3:4": 1564,
    "0-04:00": 240,
    "0-00:04:00": 4,
    "2-00:00:00": 2880,
    "365-00:00:00": 525600,
    "UNLIMITED": None,
    "infinite": None,
    "-1": None,
    "0": None,
    "00:00": None,
    "0-0": None,
}
"""A limit as it may be written, and its minutes; None is no limit."""

NO_TIMES = ["", " 4", "4h", "1.5", "4:", ":30", "1::2", "1:2:3:4", "1-2-3", "-04:00", "+4", "NONE", "1d", "２:00"]

MEMORY: dict[str, int | None] = {
    "900": 900,
    "900M": 900,
    "900m": 900,
    "900MB": 900,
    "000900mb": 900,
    "2G": 2048,
    "2g": 2048,
    "2Gb": 2048,
    "1T": 1048576,
    "1TB": 1048576,
    "1024K": 1,
    "1025k": 2,
    "1K": 1,
    "0": None,
    "0G": None,
}
"""An amount as it may be written, and its MB; None is all memory of a node."""

NO_MEMORY = ["", "G", "1.5G", "1 G", "1Gi", "1GiB", "1P", "1B", "-1", "32gigs", "900Mn"]

GRES = {
    "gpu": "gpu:1",
    "gpu:4": "gpu:4",
    "gpu:a100": "gpu:a100:1",
    "gpu:a100:4": "gpu:a100:4",
    "gpu:a100:0": "gpu:a100:0",
    "gpu:4090:2": "gpu:4090:2",
    "gpu:2K": "gpu:2048",
    "gpu:nvidia_a100_3g.20gb:2": "gpu:nvidia_a100_3g.20gb:2",
    "gpu:a100:4(S:0-1)": "gpu:a100:4",
    "gpu:a100:2(IDX:0,3)": "gpu:a100:2",
    "gpu:a100:0(IDX:N/A)": "gpu:a100:0",
    "gres:gpu:a100:4": "gpu:a100:4",
    "gres/gpu=8": "gpu:8",
    "gres/gpu:a100=4": "gpu:a100:4",
    "gpu:a100:2(S:0,2),gpu:h100:2(S:1),shard:16": "gpu:a100:2 gpu:h100:2 shard:16",
    "lscratch:1K,gpu:v100x:2": "lscratch:1024 gpu:v100x:2",
}

NO_GRES = ["", "gpu::1", "gpu:a b:1", "gpu:1,", "(null)", "4", ":4"]


@pytest.mark.parametrize(("text", "minutes"), TIMES.items())
def test_a_limit_of_time_is_read_as_slurm_reads_it(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes
    assert hours_of(text) == (math.inf if minutes is None else minutes / 60)


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_slurm_refuses_as_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        minutes_of(text)


@pytest.mark.parametrize("minutes", [1, 4, 59, 60, 92, 1560, 12000])
def test_a_limit_that_we_write_is_read_as_the_same(minutes: int) -> None:
    assert minutes_of(time_of(minutes)) == minutes


@pytest.mark.parametrize(
    ("text", "words"),
    [("04:00", "4 min"), ("04:00:00", "4 h"), ("1-12:30", "1 d 12 h 30 min"), ("1440", "1 d"), ("0", "no limit")],
)
def test_a_limit_in_words_leaves_no_doubt(text: str, words: str) -> None:
    assert time_in_words(text) == words


@pytest.mark.parametrize(("text", "megabytes"), MEMORY.items())
def test_an_amount_of_memory_is_read_as_slurm_reads_it(text: str, megabytes: int | None) -> None:
    assert megabytes_of(text) == megabytes


@pytest.mark.parametrize("text", NO_MEMORY)
def test_what_slurm_refuses_as_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        megabytes_of(text)


@pytest.mark.parametrize(("text", "twice"), [("900", "1800"), ("32G", "64G"), ("32gb", "64gb"), ("0", "0")])
def test_twice_the_memory_keeps_its_unit(text: str, twice: str) -> None:
    assert twice_memory(text) == twice


@pytest.mark.parametrize(("text", "found"), GRES.items())
def test_generic_resources_are_read_with_type_and_count(text: str, found: str) -> None:
    assert " ".join(map(str, gres_of(text))) == found


@pytest.mark.parametrize("text", NO_GRES)
def test_what_is_no_generic_resource_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="generic resources"):
        gres_of(text)


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("Submitted batch job 87\n", "87"),
        ("Submitted batch job 87 on cluster gpu\n", "87;gpu"),
        ("87\n", "87"),
        ("87;gpu\n", "87;gpu"),
        ("This job costs 3 units; job 12 of 40 allowed\nSubmitted batch job 87\n", "87"),
        ("You have 1200 hours left\n42\nSubmitted batch job 87 on cluster gpu\r\nbye 7\n", "87;gpu"),
        ("Submitted batch job 5 of your 10\nSubmitted batch job 87\n", "87"),
        ("** job 12 was refused **\n87;gpu\n", "87;gpu"),
        # Two lines that are a number: the queue must say which it is.
        ("42\n87\n", None),
        ("job 12 was refused\n", None),
        ("", None),
    ],
)
def test_the_answer_of_sbatch_is_found_between_what_a_site_prints(text: str, job: str | None) -> None:
    assert answered(text) == job


def test_an_id_says_where_its_job_is() -> None:
    assert [(number_of(job), cluster_of(job)) for job in ("87", "87;gpu")] == [("87", ""), ("87", "gpu")]
