"""16-bit files: a stated white makes the right grey, and without one no file loses its grey levels unsaid."""

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from cxr_core.data.dataset import Dataset
from cxr_core.data.depth import FULL_RANGE, Window, to_eight_bits
from cxr_core.data.images import read_radiograph
from cxr_core.data.settings import Percentile
from cxr_core.errors import UserError
from tests.radiographs import chunk, deep_png, entry, grey, nih_stage, png, run_stage, write_nih

DEEP = np.random.default_rng(3).integers(0, 4096, (32, 32), dtype=np.uint16)
"""Values of a 12-bit detector."""


def kinds(deep: np.ndarray, window: Window = FULL_RANGE, bits: int | None = None) -> dict[str, str]:
    return dict(to_eight_bits(deep, window, bits)[1])


def scaled(deep: np.ndarray, white: int, black: int = 0) -> np.ndarray:
    return np.rint((np.minimum(deep.astype(float), white) - black).clip(0) * 255 / (white - black))


def with_bits(data: bytes, *bits: int) -> bytes:
    """A PNG that says how many bits of each channel count."""
    return data[:33] + chunk(b"sBIT", bytes(bits)) + data[33:]


def test_every_value_of_16_bits_becomes_the_nearest_of_256_as_before_there_was_a_white() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels, oddities = to_eight_bits(every, FULL_RANGE, None)
    assert np.array_equal(pixels, cv2.convertScaleAbs(every, alpha=1 / 257))
    assert oddities == [("sixteen_bit", "16 bits, values up to 65535 of 65535")]


def test_a_stated_white_keeps_every_grey_level_of_12_bits() -> None:
    image = read_radiograph(png(DEEP), Window(4095))
    assert np.array_equal(image.pixels, scaled(DEEP, 4095))
    assert [kind for kind, _ in image.oddities] == ["sixteen_bit"]
    assert "white 4095" in image.oddities[0][1]


@pytest.mark.parametrize(
    "deep",
    [DEEP, DEEP * 8, np.where(np.arange(32) < 31, DEEP, 65535).astype(np.uint16), DEEP + 32768],
    ids=["12 bits", "15 bits", "12 bits and letters at full white", "12 bits from an offset on"],
)
def test_without_a_stated_white_files_that_65535_does_not_fit_are_named(deep: np.ndarray) -> None:
    detail = kinds(deep)["unclear_white"]
    assert f"values {deep.min()} to {deep.max()}" in detail
    assert "grey levels" in detail


def test_a_file_that_uses_16_bits_or_has_one_value_alone_is_not_doubted() -> None:
    assert set(kinds(DEEP * 16)) == {"sixteen_bit"}
    assert set(kinds(np.full((9, 9), 4095, np.uint16))) == {"sixteen_bit"}


def test_values_above_a_stated_white_are_white_and_counted() -> None:
    deep = DEEP.copy()
    deep[0, :5] = 65535
    pixels, oddities = to_eight_bits(deep, Window(4095), None)
    assert np.array_equal(pixels, scaled(deep, 4095))
    assert oddities[1] == ("above_white", "5 of 1024 values are above the white of 4095, up to 65535")
    assert "above_white" in kinds(DEEP, Window(4000))
    assert "unclear_white" in kinds(DEEP, Window(2047))


def test_a_percentile_of_the_files_own_values_can_be_white_and_another_black() -> None:
    white, black = (round(float(np.percentile(DEEP, share))) for share in (99, 1))
    window = Window(Percentile(percentile=99), Percentile(percentile=1))
    pixels, oddities = to_eight_bits(DEEP, window, None)
    assert np.array_equal(pixels, scaled(DEEP, white, black))
    assert f"black is {black} and white {white}" in oddities[0][1]
    mostly_black = np.zeros((10, 10), np.uint16)
    mostly_black[0, 0] = 4095
    assert "white 0 is not above its black 0" in kinds(mostly_black, Window(Percentile(percentile=50)))["unclear_white"]


def test_a_file_states_its_own_white_by_its_significant_bits_wherever_these_lie() -> None:
    window = Window("file")
    assert np.array_equal(read_radiograph(with_bits(png(DEEP), 12), window).pixels, scaled(DEEP, 4095))
    lettered = np.where(np.arange(32) < 31, DEEP, 65535).astype(np.uint16)
    assert np.array_equal(read_radiograph(with_bits(png(lettered), 12), window).pixels, scaled(lettered, 4095))
    moved, repeated = DEEP << 4, (DEEP << 4) | (DEEP >> 8)
    dark = (DEEP >> 4) << 4  # below 4096 too, but moved up: the lower bits are zero
    for deep in (moved, repeated, dark):
        assert np.array_equal(read_radiograph(with_bits(png(deep), 12), window).pixels, scaled(deep, 65535))
    assert "no sBIT chunk" in dict(read_radiograph(png(DEEP), window).oddities)["unclear_white"]


def test_channels_have_one_white_and_alpha_keeps_its_own() -> None:
    colour = read_radiograph(deep_png(2, np.dstack([DEEP] * 3)), Window(4095))
    assert np.array_equal(colour.pixels, scaled(DEEP, 4095))
    alpha = np.full_like(DEEP, 65535)
    alpha[:16] = 0
    image = read_radiograph(deep_png(4, np.dstack([DEEP, alpha])), Window(4095))
    assert np.array_equal(image.pixels, np.where(alpha, scaled(DEEP, 4095), 0))
    assert f"up to {DEEP.max()} of" in image.oddities[0][1]


def deep_folder(folder: Path) -> Path:
    names = [f"0000000{number}_000.png" for number in range(1, 4)]
    given = {name: png(DEEP + np.uint16(number)) for number, name in enumerate(names)}
    return write_nih(folder, [entry(name) for name in names], images=given)


def test_a_set_of_12_bits_without_a_stated_white_stops_when_it_is_planned_and_the_key_is_named(tmp_path: Path) -> None:
    from jobs.preprocess import estimate

    settings = nih_stage(deep_folder(tmp_path / "nih"))
    for start in (lambda: estimate(settings, {}), lambda: run_stage(settings, tmp_path)):
        with pytest.raises(UserError, match=r"00000001_000\.png: unclear white: 16 bits, values \d+ to \d+") as caught:
            start()
        assert "`white`" in caught.value.hint
        assert "4095" in caught.value.hint
    policies = {"unclear_white": "convert"}
    with pytest.raises(UserError, match="no image is left of 3"):  # each has 16 grey levels
        run_stage(nih_stage(tmp_path / "nih", name="dark", policies=policies), tmp_path)
    as_before = nih_stage(tmp_path / "nih", name="before", policies=policies | {"few_grey_levels": "keep"})
    assert run_stage(as_before, tmp_path)[1]["problems"] == dict.fromkeys(
        ["few_grey_levels", "nearly_black", "sixteen_bit", "unclear_white"], 3
    )


def test_a_set_with_a_stated_white_has_the_pixels_of_the_same_set_in_8_bits(tmp_path: Path) -> None:
    folder = deep_folder(tmp_path / "nih")
    made, _, problems = run_stage(nih_stage(folder, data={"white": 4098}, size=32), tmp_path)
    dataset = Dataset.open(made)
    for number, row in enumerate(dataset.rows.itertuples()):
        assert np.array_equal(dataset.image(row), scaled(DEEP + number, 4098))
    assert set(problems["kind"]) == {"sixteen_bit"}


@pytest.mark.parametrize("white", [0, 65536, True, "auto", {"percentile": 101}, 12.5])
def test_what_is_no_white_is_refused_with_the_config(white: Any, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="white"):
        nih_stage(tmp_path, data={"white": white})


def test_8_bits_are_as_they_are_whatever_white_is() -> None:
    picture = grey(1)
    for window in (Window(100), Window("file"), Window(Percentile(percentile=50))):
        assert np.array_equal(read_radiograph(with_bits(png(picture), 4), window).pixels, picture)


def test_a_damaged_statement_of_significant_bits_states_nothing() -> None:
    for content in (b"", b"\0", b"\x20", struct.pack(">H", 4095)):
        data = png(DEEP)
        data = data[:33] + chunk(b"sBIT", content) + data[33:]
        assert "no sBIT chunk" in dict(read_radiograph(data, Window("file")).oddities)["unclear_white"]
