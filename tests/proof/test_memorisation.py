"""Does a tiny model copy the real radiographs that it learnt from? `make proof TARGET=memorisation`, some 20 minutes.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_core.data.copies import SIDE, SPECTRA, spectra
from cxr_core.evaluation.memorisation.descriptors import DESCRIPTORS, descriptor_shards, read_descriptors
from cxr_core.evaluation.memorisation.results import MemorisationResult, Nearness
from cxr_core.evaluation.memorisation.search import Search
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.report.verdicts import copies_words
from cxr_core.runs.files import read_json
from cxr_core.runs.run import Run
from tests.pipeline import cxr

pytestmark = pytest.mark.proof

LEARNT = """
name: learnt
seed: 14
stages:
  - name: real
    kind: preprocess
    data:
      kind: chestxray14
      metadata: "${CXR_NIH14}"
      images: ["${CXR_NIH14_IMAGES}"]
      missing: subset
      expect_size: null
    size: 64
  - {name: judge, kind: train, model: classifier, inputs: {dataset: real}, steps: 600, batch_size: 32,
     checkpoint_every: 300, learning_rate: 2.0e-3, warmup_steps: 50, weight_decay: 0.05}
  - {name: vae, kind: train, model: vae, inputs: {dataset: real, base: tiny_base}, steps: 300, batch_size: 4,
     checkpoint_every: 100, learning_rate: 2.0e-3, warmup_steps: 30}
  - {name: latents, kind: latents, inputs: {dataset: real, base: vae}}
  - {name: diffusion, kind: train, model: diffusion, inputs: {latents: latents, base: vae}, train_text_encoder: false,
     steps: 600, batch_size: 16, checkpoint_every: 100, keep: {last: 1, every: 300}, learning_rate: 1.0e-3,
     warmup_steps: 50, ema_decay: 0.99}
"""
"""All real images at 64 px and the tiny base fine-tuned on those of training patients, a quarter of nih14_small."""

STUDY = """
name: memorised
seed: 15
stages:
  - {{name: synthetic, kind: generate, inputs: {{model: {run}/diffusion, like: {run}/real}},
     request: {{like: train, num_images: 256}}, denoising_steps: 15, guidance: 2.0, batch_size: 32, shard_size: 128}}
  - {{name: asked, kind: generate, inputs: {{model: {run}/diffusion, like: {run}/real}},
     request: {{rare_captions: {{max_images: 5, per_caption: 8, num_captions: 16}}}},
     denoising_steps: 15, guidance: 2.0, batch_size: 32, shard_size: 128}}
  - name: study
    kind: evaluate
    inputs: {{real: {run}/real, synthetic: synthetic, judge: {run}/judge}}
    grids: {{findings: [No Finding, Effusion]}}
    memorisation:
      reidentification: {{steps: 400, batch_size: 32}}
  - name: extraction
    kind: evaluate
    inputs: {{real: {run}/real, synthetic: asked}}
    grids: {{findings: [No Finding]}}
    memorisation: {{targeted: {{max_images: 5}}}}
"""
"""Images like the training images, and images of captions that at most five of these have."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def found(nih_data: Path, runs: Path) -> dict[str, MemorisationResult]:
    environ = os.environ | {"CXR_NIH14": str(nih_data / "metadata"), "CXR_NIH14_IMAGES": str(nih_data / "images_128")}
    for name, text in (("learnt", LEARNT), ("memorised", STUDY.format(run=runs / "learnt"))):
        config = runs / f"{name}.yaml"
        config.write_text(text)
        done = cxr("run", config, "--runs", runs, env=environ, timeout=7200)
        assert done.returncode == 0, done.stderr
        seconds = {
            path.parent.name: read_json(path)["seconds"]["shards"] for path in (runs / name).glob("*/stage.json")
        }
        print(f"\n{name}, seconds of shards: {seconds}")
    return {name: _memorisation(runs / "memorised" / name) for name in ("study", "extraction")}


def test_given_the_whole_real_training_set_then_planted_copies_are_found_and_the_models_images_are_compared(
    found: dict[str, MemorisationResult],
) -> None:
    result = found["study"]
    print(f"\n{result.num_train} training images of {result.num_train_patients} patients; {copies_words(result)}")
    for way in (result.pixels, *result.embeddings):
        print(_told(way))
    print(f"planted: {[(each.kind, each.recall) for each in result.planted]}")
    print(f"left out: {result.num_left_out} images with a second name")
    for pair in result.pairs[:5]:
        print(pair.model_dump_json())
    assert result.num_train > 4000
    assert len(result.embeddings) == 2
    assert result.recall >= 0.95
    assert result.pixels.share_above is not None


def test_given_real_pairs_then_the_siamese_network_is_tried_before_it_speaks(
    found: dict[str, MemorisationResult],
) -> None:
    result = found["study"].reidentification
    assert result is not None
    print(f"\n{result.model_dump_json(exclude={'matches'})}")
    if result.matches is not None:
        print(_told(result.matches))
    assert result.auroc is not None
    assert (result.refused is None) == (result.auroc.low >= result.min_auroc)


def test_given_captions_of_few_images_then_these_are_compared_with_common_ones(
    found: dict[str, MemorisationResult],
) -> None:
    result = found["extraction"].targeted
    assert result is not None
    print(f"\n{result.model_dump_json()}")
    print(_told(found["extraction"].pixels))
    assert result.num_asked == 16
    assert result.difference is not None


@pytest.mark.parametrize(("degrees", "zoom"), [(2, 1.0), (3, 1.0), (5, 1.0), (0, 1.03), (0, 1.05), (0, 1.1)])
def test_how_far_a_copy_may_be_turned_or_enlarged_and_still_be_found(
    found: dict[str, MemorisationResult], runs: Path, degrees: float, zoom: float
) -> None:
    threshold = found["study"].pixels.threshold
    assert threshold is not None
    study = Run.open(runs / "memorised").stage("study")
    looks = [shard for shard in descriptor_shards(study.plan().shards, "real") if shard.id.startswith(DESCRIPTORS)]
    files = {shard.id: study.receipt(shard.id).paths(study.path) for shard in looks}
    search = Search(read_descriptors(study.path / "plan", "real", looks, files))
    places = np.random.default_rng(0).choice(len(search.train), 200, replace=False)
    turn = cv2.getRotationMatrix2D(((SIDE - 1) / 2,) * 2, degrees, zoom)
    thumbs = search.real.thumbnails.take(search.train[places])
    turned = np.stack([cv2.warpAffine(t, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE) for t in thumbs])
    looked = search.planted(SPECTRA, spectra(turned), turned)
    is_found = (looked.candidates == places[:, None]).any(axis=1) & (looked.scores > threshold.value)
    print(f"\nturned by {degrees} degrees, enlarged {zoom:g} times: {100 * is_found.mean():.0f} % of 200 found")
    assert is_found.mean() > 0.9 or degrees > 2 or zoom > 1.03


def _memorisation(stage: Path) -> MemorisationResult:
    result = Metrics.model_validate_json((stage / FILE).read_text()).memorisation
    assert result is not None
    return result


def _told(way: Nearness) -> str:
    sides = (way.synthetic, way.held_out, way.train)
    medians = "; ".join(
        f"{side.what}: median {side.median:.3f}, 99 % {side.high:.3f}, n {side.num_images}" for side in sides
    )
    return f"{way.name}: {medians}; threshold {way.threshold}; {way.num_above} above, share {way.share_above}"
