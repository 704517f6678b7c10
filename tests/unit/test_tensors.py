"""The digest of weights is of their values, whatever laid the file out."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cxr_core.models.tensors import content_sha256


def test_given_weights_in_half_and_the_same_in_single_precision_then_their_digests_are_equal(tmp_path: Path) -> None:
    half = np.linspace(-2, 2, 24, dtype=np.float16).reshape(4, 6)
    save_file({"a": half}, tmp_path / "half")
    save_file({"a": half.astype(np.float32)}, tmp_path / "single")
    save_file({"a": half.astype(np.float32) + 1e-6}, tmp_path / "other")
    same, single, other = (content_sha256(tmp_path / name) for name in ("half", "single", "other"))
    assert same == single != other
