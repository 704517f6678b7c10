"""A radiograph's file to grey pixels, strictly: what is damaged is said to be, never guessed.

Pillow reads 16-bit colour as 8 bits and has another rounding of luminance, so OpenCV decodes all kinds of PNG; Pillow
reads what a file says of its orientation (`exif`). PNG specification: https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError

from cxr_core.data.depth import FULL_RANGE, Oddity, Window, to_eight_bits
from cxr_core.data.exif import orientation_of
from cxr_core.data.png import SIGNATURE

MAX_PIXELS = 100_000_000
"""Of the square an image is padded to; more are refused before anything is decompressed. NIH's have a million, the
largest detectors below 20."""

HEADER_BYTES = 33
"""Of a PNG's signature and its first chunk."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STORED = 65535
"""Largest block that deflate stores as it is."""


class UnusableImageError(Exception):
    """A file that gives no image: `kind` is unreadable, truncated or too_large."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Radiograph:
    """uint8 (height, width) pixels as stored, and what had to be converted to get them: pairs (kind, detail).

    `orientation` is EXIF's, 1 to 8: how a viewer turns the stored pixels, see `transform.upright`.
    """

    pixels: np.ndarray
    oddities: tuple[Oddity, ...] = ()
    orientation: int = 1


@dataclass(frozen=True)
class PngHeader:
    """IHDR of a PNG."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def num_bytes(self) -> int:
        """Of all rows before compression, each with its filter byte."""
        bits = self.depth * _CHANNELS[self.colour]
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in passes]
        return sum(h * (1 + -(-w * bits // 8)) for w, h in sizes if w > 0 and h > 0)


@dataclass
class _Chunks:
    """What a PNG holds beside its header: compressed pixel data, the chunks that say what their values mean (palette,
    transparency), those that tell an orientation, the significant bits of a value, and frames of an animation."""

    data: list[memoryview] = field(default_factory=list)
    palette: list[memoryview] = field(default_factory=list)
    notes: list[memoryview] = field(default_factory=list)
    bits: int | None = None
    num_frames: int = 1


def read_radiograph(png: bytes, window: Window = FULL_RANGE) -> Radiograph:
    """Decode a PNG of any depth and colour type to 8-bit grey. Raises UnusableImageError.

    `window` says which values of a 16-bit file are white and black; files of 8 bits and fewer are taken as they are.

    Everything is checked: each chunk's CRC, the end mark, the checksum and the length of the pixel data. These are
    inflated by ISA-L and handed to OpenCV stored, which undoes the filters: a third faster than OpenCV alone
    (`make bench ROW=C1b`), and nothing is decompressed that the header does not announce.
    """
    header = read_header(png)
    chunks = _chunks(png)
    raw = _inflate(b"".join(chunks.data), header)
    stored = _stored_png(png, b"".join(chunks.palette), raw)
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnusableImageError("unreadable", "damaged pixel data")
    grey, oddities = _grey(pixels, window, chunks.bits)
    if chunks.num_frames > 1:
        oddities.append(("animated", f"{chunks.num_frames} frames: only the still image is read"))
    return Radiograph(grey, tuple(oddities), orientation_of(chunks.notes))


def read_header(png: bytes) -> PngHeader:
    """The header of a PNG. Raises UnusableImageError for what is none, or too large (see `MAX_PIXELS`)."""
    if not png:
        raise UnusableImageError("truncated", "an empty file")
    if png[:8] != SIGNATURE[: len(png)]:
        raise UnusableImageError("unreadable", f"not a PNG file: {_what(png)}")
    if len(png) < HEADER_BYTES:
        raise UnusableImageError("truncated", f"ends after {len(png)} bytes")
    length, kind, width, height, depth, colour, _, _, interlace = struct.unpack(">I4sIIBBBBB", png[8:29])
    if (length, kind) != (13, b"IHDR") or depth not in _DEPTHS.get(colour, ()) or not width or not height:
        raise UnusableImageError("unreadable", "damaged header")
    if max(width, height) ** 2 > MAX_PIXELS:
        detail = f"{width} x {height} pixels; the square around them has more than {MAX_PIXELS // 10**6} megapixels"
        raise UnusableImageError("too_large", detail)
    return PngHeader(width, height, depth, colour, interlace == 1)


_OTHERS = {
    b"\xff\xd8\xff": "a JPEG",
    b"BM": "a BMP",
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"RIFF": "a WebP",
    b"\x1f\x8b": "compressed by gzip",
    b"PK": "a zip archive",
    b"\0\x05\x16\x07": "a companion file of macOS",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"<": "a web page or XML",
}


def _what(data: bytes) -> str:
    """What a file is that is no PNG, as far as its first bytes tell."""
    if data[128:132] == b"DICM":
        return "it is a DICOM file"
    found = [name for magic, name in _OTHERS.items() if data.startswith(magic)]
    return f"it is {found[0]}" if found else f"it begins with {data[:8]!r}"


def _chunks(png: bytes) -> _Chunks:
    view, at = memoryview(png), len(SIGNATURE)
    found = _Chunks()
    while at + 12 <= len(png):
        (length,), kind = struct.unpack_from(">I", png, at), png[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(png):
            break
        if isal_zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise UnusableImageError("unreadable", f"damaged at bytes {at} to {end}: wrong checksum of {kind!r}")
        if kind == b"IEND":
            return found
        _sort(kind, view[at:end], found)
        at = end
    raise UnusableImageError("truncated", f"ends after {len(png)} bytes without its end mark")


def _sort(kind: bytes, chunk: memoryview, found: _Chunks) -> None:
    """Put a whole chunk (length, kind, content, checksum) where it belongs."""
    content = chunk[8:-4]
    if kind == b"IDAT":
        found.data.append(content)
    elif kind in (b"PLTE", b"tRNS"):
        found.palette.append(chunk)
    elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
        found.notes.append(chunk)
    elif kind == b"sBIT" and len(content) and 0 < max(content) <= 16:
        found.bits = max(content)
    elif kind == b"acTL" and len(content) == 8:
        found.num_frames = int.from_bytes(content[:4], "big")


def _inflate(data: bytes, header: PngHeader) -> bytes:
    inflater = isal_zlib.decompressobj()
    try:
        raw: bytes = inflater.decompress(data, header.num_bytes + 1)
    except IsalError as error:  # type: ignore[misc]  # its stub calls the class an instance
        raise UnusableImageError("unreadable", f"damaged pixel data ({error})") from error
    if len(raw) > header.num_bytes:
        raise UnusableImageError("unreadable", f"more pixel data than {header.width} x {header.height} pixels need")
    if len(raw) < header.num_bytes or not inflater.eof:
        raise UnusableImageError("truncated", f"pixel data end after {len(raw)} of {header.num_bytes} bytes")
    return raw


def _stored_png(png: bytes, palette: bytes, raw: bytes) -> bytes:
    """A PNG with the same header whose pixel data are deflated without compression."""
    view = memoryview(raw)
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for at in range(0, len(raw), _STORED):
        block = view[at : at + _STORED]
        parts += [struct.pack("<BHH", at + _STORED >= len(raw), len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack(">I", isal_zlib.adler32(raw)))
    body = b"".join((b"IDAT", *parts))
    chunk = (struct.pack(">I", len(body) - 4), body, struct.pack(">I", isal_zlib.crc32(body)))
    return b"".join(
        (png[:HEADER_BYTES], palette, *chunk, struct.pack(">I", 0), b"IEND", struct.pack(">I", zlib.crc32(b"IEND")))
    )


def _grey(pixels: np.ndarray, window: Window, bits: int | None) -> tuple[np.ndarray, list[Oddity]]:
    """To one 8-bit channel; OpenCV's order of channels is blue, green, red, alpha."""
    oddities: list[Oddity] = []
    alpha = pixels[..., 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    pixels = pixels if alpha is None else pixels[..., :3]
    if pixels.dtype == np.uint16:
        pixels, oddities = to_eight_bits(pixels, window, bits)
        alpha = None if alpha is None else cv2.convertScaleAbs(alpha, alpha=1 / 257)
    if pixels.ndim == 2:
        return pixels, oddities
    blue, green, red = cv2.split(pixels)
    apart = max(int(cv2.absdiff(blue, green).max()), int(cv2.absdiff(blue, red).max()))
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if apart else blue
    if alpha is not None:
        least = int(alpha.min())
        oddities.append(("rgba", f"an alpha channel, {least} to 255 of 255"))
        grey = grey if least == 255 else cv2.multiply(grey, alpha, scale=1 / 255)
    if apart:
        oddities.append(("colour", f"channels differ by up to {apart} of 255"))
    elif alpha is None:
        oddities.append(("rgb", "three equal channels"))
    return grey, oddities
