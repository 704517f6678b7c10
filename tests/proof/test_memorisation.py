"""Does a tiny model copy the real radiographs that it learnt from? `make proof TARGET=memorisation`, some 20 minutes.

CXR_PROOF_RUNS names a folder for the runs, to look at them afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import pytest

from cxr_core.evaluation.memorisation.results import MemorisationResult, Nearness
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.runs.files import read_json
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
