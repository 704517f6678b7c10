"""A run remembers in which image it was planned, and goes on in another only if it is told to."""

from pathlib import Path

import pytest

from cxr_core.errors import UserError
from cxr_core.runs import image
from cxr_core.runs.provenance import code
from tests.pipeline import cxr

A, B = 64 * "a", 64 * "b"


def test_given_another_image_then_the_run_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    with image.working_in(A):
        assert image.image() == code()["image"] == A
        image.check(tmp_path, "real", A)
    assert image.image() == ""
    with (
        image.working_in(B),
        pytest.raises(UserError, match=r"planned in image a{12}, and this is image b{12}(.|\n)*--accept"),
    ):
        image.check(tmp_path, "real", A)
    with image.working_in(B):
        image.accept(tmp_path)
        image.accept(tmp_path)
        image.check(tmp_path, "real", A)
    assert (tmp_path / "accepted_images").read_text() == f"{B}\n"
    with pytest.raises(UserError, match=r"planned in image a{12}, and this is no image"):
        image.check(tmp_path, "real", A)
    image.accept(tmp_path)
    image.check(tmp_path, "real", A)


def test_run_refuses_and_accepts_another_image(
    nano_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", nano_config, "--runs", tmp_path, "--stage", "real", "stages.real.data.num_images=20")
    monkeypatch.setenv(image.VARIABLE, A)
    assert cxr(*words).returncode == 0
    monkeypatch.setenv(image.VARIABLE, B)
    refused = cxr(*words)
    assert refused.returncode == 2
    assert "stage 'real' was planned in image aaaaaaaaaaaa" in refused.stderr
    assert cxr(*words, "--accept-image").returncode == 0
