"""Decoding: every kind of PNG gives the right grey, everything damaged is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_core.data.images import MAX_PIXELS, UnusableImageError, read_radiograph
from cxr_core.data.png import encode_grey
from tests.radiographs import chunk, grey, png

PICTURE = grey(1, 37, 21)
GOOD = png(PICTURE)


def kind_of(data: bytes) -> str:
    with pytest.raises(UnusableImageError) as caught:
        read_radiograph(data)
    assert caught.value.detail
    return caught.value.kind


def rebuilt(*, pixel_data: bytes, header: bytes | None = None) -> bytes:
    """`GOOD` with other compressed pixel data or header, all checksums right."""
    return GOOD[:8] + chunk(b"IHDR", header or GOOD[16:29]) + chunk(b"IDAT", pixel_data) + chunk(b"IEND", b"")


def test_given_8_bit_grey_then_the_pixels_are_those_of_the_file() -> None:
    image = read_radiograph(GOOD)
    assert np.array_equal(image.pixels, PICTURE)
    assert image.oddities == ()


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_given_any_size_then_our_own_png_and_pillows_decode_to_the_same(width: int, height: int, level: int) -> None:
    pixels, out = grey(7, width, height), io.BytesIO()
    Image.fromarray(pixels).save(out, "png", compress_level=level)
    for data in (encode_grey(pixels), out.getvalue()):
        assert np.array_equal(read_radiograph(data).pixels, pixels)


def test_given_three_equal_channels_then_one_is_taken() -> None:
    image = read_radiograph(png(PICTURE, "RGB"))
    assert np.array_equal(image.pixels, PICTURE)
    assert [kind for kind, _ in image.oddities] == ["rgb"]


def test_given_an_opaque_alpha_channel_then_it_is_dropped() -> None:
    for mode in ("RGBA", "LA"):
        image = read_radiograph(png(PICTURE, mode))
        assert np.array_equal(image.pixels, PICTURE)
        assert image.oddities == (("rgba", "an alpha channel, 255 to 255 of 255"),)


def test_given_a_transparent_half_then_it_is_black() -> None:
    alpha = np.full_like(PICTURE, 255)
    alpha[:10] = 0
    image = read_radiograph(png(np.dstack([PICTURE] * 3 + [alpha])))
    assert np.array_equal(image.pixels, np.where(alpha == 255, PICTURE, 0))


def test_given_colours_then_luminance_is_taken() -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    image = read_radiograph(png(red))
    assert np.all(image.pixels == round(0.299 * 200))
    assert image.oddities == (("colour", "channels differ by up to 200 of 255"),)


def test_given_16_bits_then_the_full_range_is_scaled() -> None:
    deep = PICTURE.astype(np.uint16) * 257
    image = read_radiograph(png(deep))
    assert np.array_equal(image.pixels, PICTURE)
    assert image.oddities == (("sixteen_bit", f"16 bits, values up to {deep.max()} of 65535"),)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_given_one_bit_or_a_palette_then_it_is_expanded_as_pillow_does(mode: str) -> None:
    picture = Image.fromarray(PICTURE).convert(mode)
    out = io.BytesIO()
    picture.save(out, "png")
    assert np.array_equal(read_radiograph(out.getvalue()).pixels, np.asarray(picture.convert("L")))


@pytest.mark.parametrize(("width", "height"), [(37, 21), (1, 1), (3, 2), (5, 9)])
def test_given_an_interlaced_file_then_it_decodes(width: int, height: int) -> None:
    pixels = grey(3, width, height)
    raw = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows = pixels[y::dy, x::dx]
        raw += b"".join(b"\0" + row.tobytes() for row in rows) if rows.size else b""
    data = rebuilt(pixel_data=zlib.compress(raw), header=struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    assert np.array_equal(read_radiograph(data).pixels, pixels)


@given(st.integers(0, len(GOOD) - 1))
@settings(max_examples=60, deadline=None)
def test_given_any_beginning_of_a_file_then_it_is_truncated(length: int) -> None:
    assert kind_of(GOOD[:length]) == "truncated"


@given(st.integers(8, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_given_one_changed_byte_then_it_is_never_an_image(position: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[position] ^= change
    assert kind_of(bytes(damaged)) in {"unreadable", "truncated", "too_large"}


def test_given_pixel_data_cut_before_compression_then_it_is_truncated_though_all_checksums_are_right() -> None:
    raw = zlib.decompress(_pixel_data(GOOD))
    assert kind_of(rebuilt(pixel_data=zlib.compress(raw[: len(raw) // 2]))) == "truncated"
    assert kind_of(rebuilt(pixel_data=zlib.compress(raw)[:-3])) == "truncated"


def test_given_more_pixel_data_than_announced_then_it_is_unreadable() -> None:
    raw = zlib.decompress(_pixel_data(GOOD))
    assert kind_of(rebuilt(pixel_data=zlib.compress(raw + b"\0"))) == "unreadable"


def test_given_pixel_data_that_are_no_deflate_stream_then_it_is_unreadable() -> None:
    assert kind_of(rebuilt(pixel_data=b"not compressed at all")) == "unreadable"


def test_given_an_unknown_row_filter_then_it_is_unreadable() -> None:
    raw = bytearray(zlib.decompress(_pixel_data(GOOD)))
    raw[0] = 9
    assert kind_of(rebuilt(pixel_data=zlib.compress(bytes(raw)))) == "unreadable"


def test_given_a_text_file_named_png_then_the_message_shows_its_beginning() -> None:
    with pytest.raises(UnusableImageError, match="begins with b'Patient,'"):
        read_radiograph(b"Patient,Age\n1,57\n")


def test_given_an_impossible_header_then_it_is_unreadable() -> None:
    assert kind_of(rebuilt(pixel_data=b"", header=struct.pack(">IIBBBBB", 8, 8, 5, 0, 0, 0, 0))) == "unreadable"
    assert kind_of(rebuilt(pixel_data=b"", header=struct.pack(">IIBBBBB", 0, 8, 8, 0, 0, 0, 0))) == "unreadable"


def test_given_a_decompression_bomb_then_it_is_refused_by_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    bomb = rebuilt(pixel_data=zlib.compress(bytes(10**6)), header=struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    assert kind_of(bomb) == "too_large"


@pytest.mark.parametrize(("width", "height"), [(10**6, 1), (1, 10**6)])
def test_given_a_line_whose_square_would_fill_the_memory_then_it_is_refused_by_its_header(
    width: int, height: int
) -> None:
    assert width * height < MAX_PIXELS
    line = rebuilt(pixel_data=zlib.compress(b""), header=struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    assert kind_of(line) == "too_large"


def _pixel_data(data: bytes) -> bytes:
    start = data.index(b"IDAT") + 4
    return data[start : data.index(b"IEND") - 8]
