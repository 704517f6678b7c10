"""Damage done to a finished run: `cxr verify` finds it, `--repair` sets it aside, and only that is made again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.pack import Work, finalize, freeze, run_pack
from cxr_core.runs.repair import repair_run
from cxr_core.runs.run import Run, StageFolder, dump_config
from cxr_core.runs.verify import verify_run
from tests.pipeline import copy_until, cxr, cxr_here, losses, run_nano, stage_folder, start_and_kill
from tests.stages import tiny_work

SHARD = "00003"


def data_of(folder: StageFolder, shard: str, role: str) -> Path:
    return folder.receipt(shard).path(folder.path, role)


def truncate_tar(folder: StageFolder, shard: str) -> None:
    path = data_of(folder, shard, "tar")
    path.write_bytes(path.read_bytes()[:-700])


def flip_byte(folder: StageFolder, shard: str) -> None:
    path = data_of(folder, shard, "tar")
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def lose_data(folder: StageFolder, shard: str) -> None:
    data_of(folder, shard, "tar").unlink()


def truncate_receipt(folder: StageFolder, shard: str) -> None:
    path = folder.path / "receipts" / f"{shard}.json"
    path.write_text(path.read_text()[:60])


def empty_receipt(folder: StageFolder, shard: str) -> None:
    (folder.path / "receipts" / f"{shard}.json").write_text("")


def swap_in_a_receipt_of_another_plan(folder: StageFolder, shard: str) -> None:
    receipt = replace(folder.receipt(shard), plan="e" * 64)
    (folder.path / "receipts" / f"{shard}.json").write_text(receipt.to_json())


def lose_receipt(folder: StageFolder, shard: str) -> None:
    (folder.path / "receipts" / f"{shard}.json").unlink()


DAMAGES = [
    (truncate_tar, "damaged data", "bytes, "),
    (flip_byte, "damaged data", "another sha256 than recorded"),
    (lose_data, "missing data", "the receipt of shard 00003 names it"),
    (truncate_receipt, "damaged receipt", "00003.json: damaged: "),
    (empty_receipt, "damaged receipt", "00003.json: damaged: "),
    (swap_in_a_receipt_of_another_plan, "receipt of another plan", "of the plan eeeeeeeeeeee"),
    (lose_receipt, "finished without a receipt", "shard 00003 is not"),
]


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed, tmp_path / "runs")
    return tmp_path / "runs"


def digests(runs: Path) -> dict[str, str]:
    run = Run.open(runs / "nano")
    return {stage["name"]: (run.stage(stage["name"]).facts() or {})["digest"] for stage in run.config["stages"]}


def receipt_times(runs: Path) -> dict[str, int]:
    return {str(path.relative_to(runs)): path.stat().st_mtime_ns for path in runs.glob("nano/*/receipts/*.json")}


@pytest.mark.parametrize(("damage", "kind", "detail"), DAMAGES, ids=[damage.__name__ for damage, _, _ in DAMAGES])
def test_given_damage_then_verify_finds_it_and_repair_sets_only_that_shard_aside(
    damage: Callable[[StageFolder, str], None], kind: str, detail: str, copy: Path
) -> None:
    damage(stage_folder(copy, "real"), SHARD)

    found = cxr_here("verify", copy / "nano")
    assert found.returncode == 2
    assert f"real: {kind}: " in found.stdout
    assert detail in found.stdout
    assert "not as recorded (listed above)\n  -> `cxr verify" in found.stderr
    assert list((copy / "nano").glob("*/quarantine")) == [], "looking changes nothing"

    repaired = cxr_here("verify", copy / "nano", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    (quarantine,) = (copy / "nano" / "real" / "quarantine").iterdir()
    assert f"real: set aside in {quarantine}: shards {SHARD}\n" in repaired.stdout
    reason = read_json(quarantine / "reason.json")
    assert kind in [finding["kind"] for finding in reason["findings"]]
    assert stage_folder(copy, "real").facts() is None
    assert not stage_folder(copy, "real").is_done(SHARD)


def test_given_each_damage_to_a_shard_of_its_own_then_after_repair_a_run_makes_these_again_and_no_other(
    nano_config: Path, undisturbed: Path, copy: Path
) -> None:
    before, shards = receipt_times(copy), [f"{i:05d}" for i in range(len(DAMAGES))]
    for shard, (damage, _, _) in zip(shards, DAMAGES, strict=True):
        damage(stage_folder(copy, "real"), shard)
    repaired = cxr("verify", copy / "nano", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    run_nano(nano_config, copy)
    assert digests(copy) == digests(undisturbed)
    after = receipt_times(copy)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"nano/real/receipts/{shard}.json" for shard in shards}
    well = cxr("verify", copy / "nano")
    assert well.returncode == 0, well.stdout
    assert "data files are as recorded, by size and sha256" in well.stdout


def test_given_a_flipped_byte_then_quick_does_not_see_it_and_says_what_it_compared(copy: Path) -> None:
    flip_byte(stage_folder(copy, "real"), SHARD)
    done = cxr_here("verify", copy / "nano", "--quick")
    assert done.returncode == 0
    assert done.stdout.strip().endswith("as recorded, by size")
    truncate_tar(stage_folder(copy, "real"), SHARD)
    assert cxr_here("verify", copy / "nano", "--quick").returncode == 2


def test_given_a_damaged_checkpoint_then_what_it_needs_is_trained_again_and_the_rest_of_the_chain_stands(
    nano_config: Path, undisturbed: Path, copy: Path
) -> None:
    folder, before = stage_folder(copy, "diffusion"), receipt_times(copy)
    metrics = data_of(folder, "00002", "metrics")
    metrics.write_text(metrics.read_text().replace("0", "1", 1))
    repaired = cxr_here("verify", copy / "nano", "--repair")
    # Its state and those before it are long removed by the keep rule.
    assert "shards 00002, 00001, 00000" in repaired.stdout
    start_and_kill(nano_config, copy, "diffusion", after=8)  # the state in the hole must outlive a crash
    run_nano(nano_config, copy)
    assert digests(copy) == digests(undisturbed)
    assert losses(folder) == losses(stage_folder(undisturbed, "diffusion"))
    after = receipt_times(copy)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"nano/diffusion/receipts/0000{i}.json" for i in range(3)}
    assert cxr_here("verify", copy / "nano").returncode == 0


def test_given_a_damaged_plan_then_it_is_frozen_again_and_all_receipts_stand(
    nano_config: Path, undisturbed: Path, copy: Path
) -> None:
    before, path = receipt_times(copy), copy / "nano" / "synthetic" / "plan.jsonl"
    path.write_text(path.read_text()[:-40])
    found = cxr_here("verify", copy / "nano", "--repair")
    assert f"synthetic: damaged plan: {path}" in found.stdout
    assert "its plan\n" in found.stdout
    run_nano(nano_config, copy)
    assert digests(copy) == digests(undisturbed)
    assert receipt_times(copy) == before


def test_given_an_unfinished_run_then_what_a_killed_attempt_left_is_no_damage(
    nano_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy_until(undisturbed, tmp_path, "synthetic")
    start_and_kill(nano_config, tmp_path, "synthetic", after=3)
    stray = tmp_path / "nano" / "synthetic" / "shards" / f"00020-{'a' * 12}.tar"
    stray.write_bytes(b"placed, but the process was killed before its receipt")
    done = cxr_here("verify", tmp_path / "nano")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"data without a receipt: {stray}: no readable receipt names it (no damage" in done.stdout


def test_given_data_that_no_receipt_names_in_a_finished_stage_then_they_are_set_aside(copy: Path) -> None:
    stray = copy / "nano" / "real" / "shards" / "notes.txt"
    stray.write_text("not ours")
    assert cxr_here("verify", copy / "nano").returncode == 2
    assert cxr_here("verify", copy / "nano", "--repair").returncode == 0
    assert not stray.exists()
    assert [path.read_text() for path in (copy / "nano" / "real").glob("quarantine/*/shards/notes.txt")] == ["not ours"]


# Chains and inputs that are made anew with another result, as on a GPU


def tiny_run(root: Path, *, chain: bool = False, second: bool = False) -> Run:
    stages = [{"name": "tiny", "kind": "preprocess", "inputs": {}}]
    stages += [{"name": "next", "kind": "preprocess", "inputs": {"dataset": "tiny"}}] if second else []
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(dump_config({"name": root.name, "stages": stages}))
    finish(tiny_work(root / "tiny", chain=chain)[0])
    return Run.open(root)


def finish(work: Work) -> list[str]:
    plan = freeze(work)
    before = work.folder.done()
    run_pack(work, plan, [shard.id for shard in plan.shards])
    finalize(work, plan)
    return sorted(work.folder.done() - before)


def test_given_a_chain_made_again_with_another_result_then_what_followed_is_found_and_made_again(
    tmp_path: Path,
) -> None:
    run = tiny_run(tmp_path / "run", chain=True)
    folder = run.stage("tiny")
    data_of(folder, "00001", "text").write_text("damaged")
    assert list(repair_run(verify_run(run))[0].shards) == ["00001"]

    work, job = tiny_work(tmp_path / "run" / "tiny", chain=True)
    job.words = "another machine"
    with pytest.raises(UserError, match=r"another result than stands before them: 00002\n.*--repair"):
        finish(work)
    (repair,) = repair_run(verify_run(run))
    assert set(repair.shards) == {"00002", "00003", "00004"}
    assert finish(work) == ["00002", "00003", "00004"]
    assert [finding for check in verify_run(run) for finding in check.findings] == []


def test_given_a_stage_made_again_with_another_digest_then_what_was_built_on_it_is_set_aside(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", second=True)
    built, _ = tiny_work(tmp_path / "run" / "next")
    upstream = {"dataset": json.loads((tmp_path / "run" / "tiny" / "stage.json").read_text())["digest"]}
    finish(replace(built, upstream=upstream))
    assert [finding for check in verify_run(run) for finding in check.findings] == []

    facts = read_json(tmp_path / "run" / "tiny" / "stage.json")
    write_json(tmp_path / "run" / "tiny" / "stage.json", facts | {"digest": "d" * 64})
    (finding,) = [finding for check in verify_run(run) for finding in check.findings]
    assert (finding.stage, finding.kind) == ("next", "made of other inputs")
    (repair,) = repair_run(verify_run(run))
    assert repair.whole_stage
    assert sorted(path.name for path in (tmp_path / "run" / "next").iterdir()) == ["attempts", "quarantine"]
    assert len(finish(replace(built, upstream={"dataset": "d" * 64}))) == 5


def test_given_an_attempt_at_work_then_repair_waits_for_it(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    folder = run.stage("tiny")
    data_of(folder, "00001", "text").write_text("damaged")
    work, job = tiny_work(tmp_path / "run" / "tiny")
    (folder.path / "receipts" / "00004.json").unlink()

    def repair_meanwhile() -> None:
        with pytest.raises(UserError, match=r"attempt pid\d+-0-\w+ is at work in it on .*\n  -> wait until it ends"):
            repair_run(verify_run(run))

    job.trouble = {"00004": repair_meanwhile}
    run_pack(work, freeze(work), ["00004"])
    assert not (folder.path / "quarantine").exists()
