"""What the commands and the tasks of a job log: JSON lines in the run folder, lines for people on the screen."""

import json
import re
from pathlib import Path

import pytest

from tests.pipeline import cxr
from tests.radiographs import grey, png


def config(folder: Path, policies: str = "{}") -> Path:
    """A run of one preprocess stage of two images, of which one is truncated, and one file that is in no row."""
    (folder / "images").mkdir(parents=True)
    (folder / "t.csv").write_text("image,patient,labels,view\ngood.png,p0,Mass,PA\ncut.png,p1,Mass,PA\n")
    for name, data in {"good": png(grey(1)), "cut": png(grey(2))[:-30]}.items():
        (folder / "images" / f"{name}.png").write_bytes(data)
    path = folder / "small.yaml"
    path.write_text(
        f"""
name: small
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {{kind: table, csv: {folder}/t.csv, images: [{folder}/images], findings: [Mass]}}
    policies: {policies}
    size: 16
"""
    )
    return path


def records(*paths: Path) -> list[dict[str, str]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_given_a_task_of_a_job_then_its_records_are_json_lines_and_cxr_logs_shows_them(tmp_path: Path) -> None:
    done = cxr("submit", config(tmp_path), "--cluster", "local", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs" / "small" / "real"
    found = records(*stage.glob("attempts/*/log.jsonl"))
    assert {"time", "level", "logger", "stage", "shard", "attempt", "message"} <= set(found[0])
    (made,) = [record for record in found if "committed" in record["message"]]
    assert (made["level"], made["logger"], made["stage"], made["shard"]) == ("DEBUG", "cxr_core.runs", "real", "00000")
    assert (stage / "attempts" / made["attempt"]).is_dir()
    run = stage.parent
    assert "committed after" not in cxr("logs", run).stdout
    shown = cxr("-v", "logs", run, "real", "00000").stdout
    assert re.search(r"\d\d:\d\d:\d\d DEBUG cxr_core.runs: shard 00000 of real: committed after", shown)


def test_given_a_task_that_fails_then_the_shard_is_named_in_its_log_and_the_last_record_says_why(
    tmp_path: Path,
) -> None:
    done = cxr("submit", config(tmp_path, "{truncated: fail}"), "--cluster", "local", "--runs", tmp_path / "runs")
    stage = tmp_path / "runs" / "small" / "real"
    assert list(stage.glob("submits/*/*.out")), done.stderr
    (failed,) = [each for each in records(*stage.glob("attempts/*/log.jsonl")) if each["level"] == "WARNING"]
    assert failed["shard"] == "00000"
    assert "shard 00000 of real failed" in failed["message"]
    assert "cut.png" in failed["message"]
    *_, last = records(*sorted(stage.glob("submits/*/*.jsonl")))
    assert (last["level"], last["stage"], last["attempt"]) == ("ERROR", "real", "")
    (log,) = (path for path in stage.glob("submits/*/*.out") if "cut.png" in path.read_text())
    assert "warning: shard 00000 of real failed" in log.read_text()
    assert "\n  -> " in log.read_text()
    assert "WARNING cxr_core.runs: shard 00000 of real failed" in cxr("logs", stage.parent).stdout


@pytest.mark.parametrize(("option", "steps", "progress"), [("--quiet", False, False), ("--verbose", True, True)])
def test_given_an_option_before_the_command_then_it_says_less_or_more_and_the_results_stay(
    option: str, steps: bool, progress: bool, tmp_path: Path
) -> None:
    done = cxr(option, "run", config(tmp_path), "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "real" in done.stdout
    assert ("DEBUG cxr_core.runs: stage real: planned as 1 shards" in done.stderr) is steps
    assert bool(done.stderr) is progress


def test_given_both_options_then_the_command_is_refused() -> None:
    done = cxr("-v", "-q", "demo", "--dry-run")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr
