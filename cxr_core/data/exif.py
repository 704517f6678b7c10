"""The orientation that a PNG states: in its EXIF, in ImageMagick's text form of that, or in XMP."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from cxr_core.data.png import encode_grey

_TAG = 0x0112
_HEADER = 33
"""Bytes of the signature and the first chunk."""
_TELLING = (b"Raw profile type", b"XML:com.adobe.xmp")
_PIXEL = encode_grey(np.zeros((1, 1), np.uint8))


def orientation_of(chunks: Sequence[bytes | memoryview]) -> int:
    """EXIF's orientation, 1 (upright) to 8, of a PNG's chunks eXIf, tEXt, zTXt and iTXt; 1 where none states one.

    Pillow reads all of these forms; it is given the chunks in a picture of one pixel, and asked only where one may
    tell. What it cannot read states nothing.
    """
    telling = [chunk for chunk in chunks if bytes(chunk[4:8]) == b"eXIf" or bytes(chunk[8:32]).startswith(_TELLING)]
    if not telling:
        return 1
    from PIL import Image

    try:
        with Image.open(io.BytesIO(b"".join((_PIXEL[:_HEADER], *telling, _PIXEL[_HEADER:])))) as picture:
            stated = picture.getexif().get(_TAG, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error, zlib.error):
        return 1
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1
