"""The commands a user types, run for real on a finished nano run."""

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from tests.pipeline import cxr

COMMANDS = [
    ("demo",),
    ("run",),
    ("plan",),
    ("submit",),
    ("resume",),
    ("cancel",),
    ("status",),
    ("doctor",),
    ("report",),
    ("data", "phantom"),
    ("data", "reproduce"),
    ("data", "summary"),
    ("data", "verify"),
    ("config", "schema"),
    ("model", "import"),
    ("readers", "make"),
    ("readers", "score"),
    ("config", "show"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_has_an_example(command: tuple[str, ...]) -> None:
    done = cxr(*command, "--help")
    assert done.returncode == 0
    assert f"Example: cxr {' '.join(command)}" in done.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("phantom", "data phantom"),
        ("data regenerate", "data reproduce"),
        ("model adopt", "model import --as judge"),
        ("model adopt-pggan", "model import --as pggan"),
    ],
)
def test_given_a_command_of_before_then_one_line_names_the_command_of_now(old: str, new: str) -> None:
    for words in (("here", "there", "--images", "30"), ("--help",)):
        done = cxr(*old.split(), *words)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"cxr {new}" in line


def test_status_counts_shards_and_says_done(undisturbed: Path) -> None:
    done = cxr("status", undisturbed / "nano")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert lines["real"].split() == ["preprocess", "12/12", "done"]
    assert lines["synthetic"].split() == ["generate", "24/24", "done"]


def test_status_of_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    done = cxr("status", tmp_path)
    assert done.returncode == 2
    assert "not a run: it has no config.yaml" in done.stderr


def test_plan_names_every_stage_with_its_shards_and_makes_nothing(nano_config: Path, tmp_path: Path) -> None:
    done = cxr("plan", nano_config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert rows["real"][:4] == ["real", "preprocess", "240", "12"]
    assert rows["diffusion"][3] == "10"
    assert rows["synthetic"][2:4] == ["192", "24"]
    assert not list(tmp_path.iterdir())


def test_every_stage_plans_what_it_then_does(nano_config: Path, undisturbed: Path) -> None:
    planned = cxr("plan", nano_config).stdout.splitlines()
    for line in planned[1:7]:
        name, _, _, shards = line.split()[:4]
        facts = json.loads((undisturbed / "nano" / name / "stage.json").read_text())
        # How many images there are of a split or a finding is known only later: the plan says "at most" there.
        least = 1 if name in ("latents", "study") else int(shards)
        assert least <= facts["num_shards"] <= int(shards), name


def test_summary_and_verify_of_real_and_synthetic_datasets(undisturbed: Path) -> None:
    for stage, number in (("real", 240), ("synthetic", 192)):
        summary = cxr("data", "summary", undisturbed / "nano" / stage)
        assert f"{number} images of 32 px" in summary.stdout
        verified = cxr("data", "verify", undisturbed / "nano" / stage)
        assert verified.returncode == 0, verified.stderr
        assert f"{number} images in" in verified.stdout


def test_verify_finds_a_flipped_byte(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "nano" / "synthetic", tmp_path / "synthetic")
    tar = sorted((tmp_path / "synthetic" / "shards").glob("*.tar"))[3]
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    done = cxr("data", "verify", tmp_path / "synthetic")
    assert done.returncode == 2
    assert f"shards/{tar.name}: " in done.stdout
    assert "with another sha256 than recorded" in done.stdout


def test_a_checkpoint_is_a_folder_that_diffusers_opens(undisturbed: Path) -> None:
    stage = undisturbed / "nano" / "diffusion"
    checkpoints = json.loads((stage / "checkpoints.json").read_text())
    pipeline = StableDiffusionPipeline.from_pretrained(stage / checkpoints["final"])
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size


def test_the_report_is_one_page_without_network_that_names_each_digest_and_what_was_not_run(undisturbed: Path) -> None:
    run = undisturbed / "nano"
    page = (run / "report.html").read_text()
    assert not re.findall(r'(?:src|srcset)="(?!data:)', page)
    digests = [json.loads(path.read_text())["digest"] for path in run.glob("*/stage.json")]
    assert len(digests) == 6
    assert [digest for digest in digests if digest not in page] == []
    (_, edema) = json.loads((run / "study" / "metrics.json").read_text())["utility"]
    assert edema["not_run"] in unescape(page)


def test_too_few_images_are_named_in_the_metrics(undisturbed: Path) -> None:
    metrics = json.loads((undisturbed / "nano" / "study" / "metrics.json").read_text())
    (edema,) = [entry for entry in metrics["utility"] if entry["finding"] == "Edema"]
    assert re.search(r"real test images with Edema: \d+ of 20", edema["not_run"])
    assert edema["arms"] == []


def test_phantoms_are_written_in_the_layout_of_chestxray14_and_preprocess_like_drawn_ones(tmp_path: Path) -> None:
    out = tmp_path / "phantoms"
    done = cxr("data", "phantom", out, "--images", "30", "--size", "64", "--seed", "3")
    assert done.returncode == 0, done.stderr
    with (out / "Data_Entry_2017_v2020.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 30
    again = cxr("data", "phantom", out, "--images", "30")
    assert again.returncode == 2
    assert str(out) in again.stderr


def test_the_schema_is_json_with_a_description_of_every_stage() -> None:
    schema = json.loads(cxr("config", "schema").stdout)
    assert {"PreprocessStage", "GenerateStage", "EvaluateStage"} <= set(schema["$defs"])
    found = json.loads(cxr("config", "schema", "--metrics").stdout)
    assert found["$defs"]["ExchangeRate"]["properties"]["rate"]["description"].startswith("Real images per synthetic")
