"""Records of submits, the environment of sbatch, and what a task does before it works."""

from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.plan import Plan, slices
from cxr_core.runs.submits import Submit, new_folder, submit_folders
from jobs.task import Warned, check_cpus
from slurm.executor import clean_environment
from slurm.profile import ClusterProfile

SUBMIT = Submit("0badcafe", "real", ("shards",), 3, "site", "/home/me", resources={"cpus_per_task": 8})


def test_a_record_is_read_as_it_was_written_and_folders_are_numbered(tmp_path: Path) -> None:
    first, second = new_folder(tmp_path), new_folder(tmp_path)
    assert (first.name, second.name) == ("0001", "0002")
    SUBMIT.write(second)
    assert submit_folders(tmp_path) == [second]
    assert Submit.read(second) == SUBMIT
    (second / "submit.json").write_text("{")
    with pytest.raises(UserError, match=r"submit\.json: not the record of a submit: .*\n.*submit again"):
        Submit.read(second)


@pytest.mark.parametrize("num_tasks", [1, 3, 7, 40])
def test_given_a_plan_that_was_frozen_later_then_tasks_share_it_without_gap_or_overlap(num_tasks: int) -> None:
    plan = Plan("real", slices(200, 10), "f")
    submit = Submit("x", "real", ("shards",), num_tasks, "site", "/")
    packs = [submit.pack(plan, index) for index in range(num_tasks)]
    assert [shard for pack in packs for shard in pack] == [shard.id for shard in plan.shards]


def test_sbatch_sees_no_variable_of_the_job_that_it_is_called_in() -> None:
    ours = {"PATH": "/bin", "LANG": "C", "LC_ALL": "C", "SLURM_CONF": "/etc/slurm.conf", "CXR_NIH14": "/data"}
    leaks = {"SLURM_NTASKS": "4", "SBATCH_PARTITION": "x", "SRUN_DEBUG": "1", "PYTHONPATH": "/x", "OTHER": "1"}
    profile = ClusterProfile(name="site", env=["CXR_NIH14"])
    assert clean_environment(profile, ours | leaks) == ours


def test_given_a_mask_smaller_than_the_plan_then_both_numbers_are_named() -> None:
    check_cpus(SUBMIT, 8)
    check_cpus(SUBMIT, 64)
    with pytest.raises(UserError, match=r"may use 1 CPUs \(its affinity mask\), but the plan says 8\n.*cpu_bind"):
        check_cpus(SUBMIT, 1)


def test_a_task_is_warned_by_a_byte_and_tells_progress_from_the_second_shard_on(tmp_path: Path) -> None:
    flag = tmp_path / "1_0-0.flag"
    flag.touch()
    warned = Warned(flag)
    assert not warned()
    assert not (tmp_path / "1_0-0.flag.more").exists()
    assert not warned()
    assert (tmp_path / "1_0-0.flag.more").exists()
    flag.write_bytes(b"x")
    assert warned()
    assert not Warned(None)()
