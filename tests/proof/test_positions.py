"""A finding lies where the prompt puts it: phantoms, on the CPU; `make proof TARGET=positions`, about 20 minutes.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.evaluation.position.results import PositionAsked, PositionFinding, PositionResult
from cxr_core.models.checkpoints import final_checkpoint
from cxr_core.runs.files import read_json
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

MASS = ("upper left", "upper right", "middle left", "middle right")
EFFUSION = ("lower left", "lower right")
PHANTOMS = """
name: positions
seed: 9
stages:
  - name: real
    kind: preprocess
    data:
      kind: phantom
      num_images: 3200
      seed: 21
      size: 128
      boxed_patients: all
      findings: [Mass, Effusion]
      view_confounding: false
    size: 64
    prompts: {positions: {regions: grid, sides: patient}}
    shard_size: 400

  - name: localiser
    kind: train
    model: localiser
    inputs: {dataset: real}
    steps: 300
    batch_size: 32
    checkpoint_every: 300
    learning_rate: 3.0e-3
    warmup_steps: 30
    ema_decay: 0.98
    validation_images: 64

  - name: latents
    kind: latents
    inputs: {dataset: real, base: tiny_base}

  - &train
    name: placed
    kind: train
    model: diffusion
    inputs: {latents: latents, base: tiny_base}
    train_text_encoder: false
    position_probability: 0.9
    sampling: {frequency_exponent: 0.3, max_repeats: 30}
    steps: 1200
    batch_size: 16
    checkpoint_every: 400
    learning_rate: 2.0e-3
    warmup_steps: 30
    ema_decay: 0.99
    validation_images: 32
    preview: &preview {num_prompts: 1}

  - <<: *train
    name: plain
    position_probability: 0.0
    steps: 400
    checkpoint_every: 400

  - name: synthetic
    kind: generate
    inputs: {model: [placed, plain], like: real}
    requests:
      - &request
        name: placed
        counts: {COUNTS}
      - {<<: *request, name: plain, model: plain}
    denoising_steps: 12
    guidance: 3.0
    batch_size: 32
    shard_size: 224

  - name: study
    kind: evaluate
    inputs: {real: real, synthetic: synthetic, localiser: localiser}
    grids: {findings: [Mass]}
    position: {}
"""
REAL = """
name: positions_real
seed: 9
stages:
  - name: real
    kind: preprocess
    data:
      kind: chestxray14
      metadata: "{DATA}/metadata"
      images: ["{IMAGES}"]
      missing: subset
      expect_size: null
    size: 64
    move_boxed: {}
    prompts: {positions: {}}
  - name: localiser
    kind: train
    model: localiser
    inputs: {dataset: real}
    steps: 100
    batch_size: 16
    checkpoint_every: 100
    learning_rate: 2.0e-3
    validation_images: 0
  - name: synthetic
    kind: generate
    inputs: {model: tiny_base, like: real}
    request: {counts: {Mass in the upper left: 4}, view: PA}
    denoising_steps: 1
    batch_size: 4
    shard_size: 4
  - name: study
    kind: evaluate
    inputs: {real: real, synthetic: synthetic, localiser: localiser}
    grids: {findings: [Mass]}
    position: {}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    counts = {"Mass": 8, **{f"Mass in the {place}": 32 for place in MASS}}
    counts |= {f"Effusion in the {place}": 32 for place in EFFUSION}
    text = ", ".join(f"{name}: {num}" for name, num in counts.items())
    return _run(runs, "positions", PHANTOMS.replace("{COUNTS}", f"{{{text}}}"))


def _run(runs: Path, name: str, config: str) -> Path:
    path = runs / f"{name}.yaml"
    path.write_text(config)
    done = cxr("run", path, "--runs", runs, timeout=7200)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}".replace(str(runs), "RUNS"))
    return runs / name


def _result(run: Path) -> PositionResult:
    result = Metrics.model_validate_json((run / "study" / FILE).read_text()).position
    assert result is not None
    return result


def _finding(run: Path, name: str) -> PositionFinding:
    return next(each for each in _result(run).findings if each.finding == name)


def _asked(run: Path, name: str, request: str) -> PositionAsked:
    finding = _finding(run, name)
    found = next(each for each in finding.asked if each.request == request)
    print(f"\n{name}, localiser on held-out phantoms: {finding.trial.model_dump_json()}")
    print(f"{name}, {request}: {found.model_dump_json()}")
    return found


def test_given_a_model_that_learnt_places_then_a_mass_lies_in_the_cell_asked_for(run: Path) -> None:
    mass, trial = _asked(run, "Mass", "placed"), _finding(run, "Mass").trial
    assert trial.guess is not None
    assert mass.hit_rate is not None
    assert mass.guess is not None
    assert mass.hit_rate.value >= 0.6
    assert mass.hit_rate.low > max(mass.guess, trial.guess)


def test_given_a_model_that_learnt_places_then_an_effusion_lies_on_the_side_asked_for(run: Path) -> None:
    effusion = _asked(run, "Effusion", "placed")
    assert effusion.laterality is not None
    assert effusion.laterality.value >= 0.9


@pytest.mark.parametrize("finding", ["Mass", "Effusion"])
def test_given_a_model_that_never_read_a_place_then_it_stays_at_chance(run: Path, finding: str) -> None:
    asked = _asked(run, finding, "plain")
    assert asked.laterality is not None
    assert asked.hit_rate is not None
    assert asked.guess is not None
    assert asked.laterality.low <= 0.5 <= asked.laterality.high
    if finding == "Mass":
        assert asked.hit_rate.low <= max(asked.guess, _finding(run, finding).trial.guess or 0)


@pytest.mark.parametrize("words", ["mass in the middle", "pleural effusion in the lower"])
def test_given_the_same_noise_when_left_and_right_change_places_then_so_does_the_finding(run: Path, words: str) -> None:
    from cxr_core.evaluation.position.locate import Finder
    from cxr_core.generation.shard import to_uint8
    from cxr_core.models import sampler

    model = sampler.load_model(final_checkpoint(run / "placed"), "float32")
    prompts = [f"frontal chest x-ray, PA view, {words} {side}" for side in ("left", "right")]
    texts, seeds = sampler.encode_prompts(model, ["", *prompts]), list(range(16))
    finder = Finder(final_checkpoint(run / "localiser", "localiser"))
    which = finder.info.findings.index("Mass" if "mass" in words else "Effusion")
    middles = []
    for prompt in prompts:
        text = texts[prompt].expand(len(seeds), -1, -1)
        latents = sampler.sample(model, text, texts[""], seeds, scheduler="dpmsolver++", steps=12, guidance=3.0)
        maps = finder.maps(to_uint8(sampler.decode(model, latents)))[:, which]
        middles.append(np.array([np.unravel_index(int(heat.argmax()), heat.shape)[1] / len(heat) for heat in maps]))
    flipped = (middles[0] > 0.5) & (middles[1] < 0.5)
    print(f"\n{words}: of 16 noises {flipped.sum()} show it on the patient's left, then on the right")
    assert flipped.mean() >= 0.85


def test_given_the_whole_proof_then_it_took_so_long(run: Path) -> None:
    seconds = {stage.parent.name: read_json(stage)["seconds"] for stage in sorted(run.glob("*/stage.json"))}
    print(f"\nseconds: {seconds}")
    assert (run / "report.html").stat().st_size > 100_000


def test_given_the_real_boxes_that_have_pixels_then_the_localiser_is_refused_for_want_of_images(
    nih_data: Path, runs: Path
) -> None:
    images = _each_image_once(nih_data, runs / "images")
    run = _run(runs, "positions_real", REAL.replace("{DATA}", str(nih_data)).replace("{IMAGES}", str(images)))
    result = _result(run)
    print(f"\nlocaliser from {result.learnt_from}")
    for each in result.findings:
        print(
            f"{each.finding}: refused, {each.trial.refused}" if each.trial.refused else f"{each.finding}: {each.trial}"
        )
    assert result.findings
    assert all(each.trial.refused is not None and "n = " in each.trial.refused for each in result.findings)
    assert all(asked.hit_rate is None for each in result.findings for asked in each.asked)


def _each_image_once(nih_data: Path, folder: Path) -> Path:
    """Links to the images at hand, which are there in two sizes, some in both."""
    folder.mkdir(exist_ok=True)
    for file in (file for size in (1024, 128) for file in sorted((nih_data / f"images_{size}").glob("*.png"))):
        if not (folder / file.name).is_symlink():
            (folder / file.name).symlink_to(file)
    return folder
