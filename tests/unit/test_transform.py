"""Squares: no distortion, and boxes go where their pixels go."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxr_core.data.transform import Square, clip_box, to_image_frame

SIDES = st.integers(8, 300)


@given(SIDES, SIDES, st.integers(16, 128), st.data())
@settings(max_examples=60, deadline=None)
def test_a_box_lies_within_half_a_pixel_of_where_its_pixels_went(
    w: int, h: int, size: int, data: st.DataObject
) -> None:
    square = Square(w, h, size)
    x0, y0 = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, w)), data.draw(st.integers(y0 + 1, h))
    box = square.box({"finding": "Mass", "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0})
    back = (box["x"] / square.scale - square.left, box["y"] / square.scale - square.top)
    assert back == pytest.approx((x0, y0), abs=0.5)
    assert (box["w"] / square.scale, box["h"] / square.scale) == pytest.approx((x1 - x0, y1 - y0), abs=0.5)

    picture = np.zeros((h, w), np.uint8)
    picture[y0:y1, x0:x1] = 255
    bright = square.pixels(picture).astype(float) / 255
    if square.scale <= 1:  # by area: the light of a row or column is the box's length in it
        assert bright.sum() == pytest.approx(box["w"] * box["h"], rel=0.02, abs=2)
        lit = np.argwhere(bright > 0)
        if len(lit):
            assert (lit.min(0) >= [box["y"] - 1, box["x"] - 1]).all()
            assert (lit.max(0) <= [box["y"] + box["h"], box["x"] + box["w"]]).all()


@given(SIDES, SIDES, st.integers(16, 128))
@settings(max_examples=60, deadline=None)
def test_padding_is_black_centred_and_keeps_the_aspect(w: int, h: int, size: int) -> None:
    square = Square(w, h, size)
    assume(min(w, h) * square.scale >= 3)  # so that some row and some column is covered whole
    out = square.pixels(np.full((h, w), 200, np.uint8))
    assert out.shape == (size, size)
    assert out.dtype == np.uint8
    light = out / 200
    assert light.max(1).sum() == pytest.approx(h * square.scale, abs=1)
    assert light.max(0).sum() == pytest.approx(w * square.scale, abs=1)
    centre = np.argwhere(out).mean(0) if square.scale <= 1 else np.argwhere(out > 100).mean(0)
    assert centre == pytest.approx([(size - 1) / 2] * 2, abs=0.5 + square.scale / 2)


def test_a_square_image_halved_is_the_mean_of_every_four_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    mean = pixels.reshape(32, 2, 32, 2).mean((1, 3))
    assert np.abs(Square(64, 64, 32).pixels(pixels) - mean).max() <= 0.5


def test_boxes_of_nihs_1024_frame_fit_a_copy_of_any_size() -> None:
    box = {"finding": "Mass", "x": 512.0, "y": 256.0, "w": 128.0, "h": 64.0}
    assert to_image_frame([box], 1024, 128, 128) == [{"finding": "Mass", "x": 64.0, "y": 32.0, "w": 16.0, "h": 8.0}]
    assert to_image_frame([box], None, 128, 128) == [box]


def test_a_box_is_cut_at_the_border_and_gone_outside() -> None:
    inside = {"finding": "Mass", "x": 1.5, "y": 2.0, "w": 3.1, "h": 4.7}
    assert clip_box(inside, 10, 10) == inside
    assert clip_box(inside | {"x": -1.0}, 10, 10) == inside | {"x": 0.0, "w": pytest.approx(2.1)}
    assert clip_box(inside | {"x": 8.0}, 10, 10) == inside | {"x": 8.0, "w": 2.0}
    assert clip_box(inside | {"y": 10.0}, 10, 10) is None
