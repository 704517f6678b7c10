"""Bytes that somebody else may have written, for every reader: made from good files by small harm, or from nothing.

A reader passes if it gives a value or raises a clear error (UserError), in bounded time. More examples:
`make proof TARGET=fuzz`, or CXR_FUZZ_EXAMPLES.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cxr_core.data.boxfile import boxes_of_json
from cxr_core.data.csvfile import Csv
from cxr_core.data.dataset import Dataset
from cxr_core.data.images import UnusableImageError, read_radiograph
from cxr_core.data.latents import LatentCache
from cxr_core.data.lists import read_list
from cxr_core.data.png import check_grey, decode_grey, encode_grey
from cxr_core.errors import UserError
from cxr_core.evaluation.cache import FeatureCache
from cxr_core.evaluation.metrics import Metrics
from cxr_core.generation.bank_folder import Bank
from cxr_core.models.checkpoints import read_checkpoints
from cxr_core.models.tensors import read_header
from cxr_core.report.picture import read_picture
from cxr_core.runs.door import read_json
from cxr_core.runs.tables import read_npy
from cxr_core.yamlfile import parse_mapping, read_text
from tests.planted import planted_rows, write_planted

Reader = Callable[[Path], object]

EXAMPLES = int(os.environ.get("CXR_FUZZ_EXAMPLES", "12"))


def effort(times: float = 1) -> settings:
    """As many examples as asked for, from one seed, so that a failure is a failure again."""
    return settings(
        max_examples=max(1, int(EXAMPLES * times)),
        deadline=None,
        database=None,
        derandomize=EXAMPLES < 1000,
        suppress_health_check=list(HealthCheck),
    )


@cache
def room() -> Path:
    """A folder of good files, of which each example changes one."""
    folder = Path(mkdtemp(prefix="fuzz"))
    write_planted(folder / "data", planted_rows(3))
    (folder / "latents").mkdir()
    latents = {
        **{"num_images": 2, "latent_shape": [4, 1, 1], "num_tokens": 3, "dtype": "float16", "dataset": "0" * 64},
        **{"findings": ["Mass"], "vae": "0" * 64, "digest": "0" * 64, "boxed_split": None, "format": 1},
        "shards": [{"moments": "moments.npy", "token_ids": "token_ids.npy", "num_images": 2}],
    }
    (folder / "latents" / "latents.json").write_text(json.dumps(latents))
    np.save(folder / "latents" / "moments.npy", np.zeros((2, 8, 1, 1), np.float16))
    np.save(folder / "latents" / "token_ids.npy", np.zeros((2, 3), np.int32))
    texts = {name: pa.array(["a", "b"]) for name in ("image_id", "patient_id", "split", "view", "prompt")}
    pq.write_table(pa.table({**texts, "labels": pa.array([0, 1])}), folder / "latents" / "rows.parquet")
    (folder / "grid.png").write_bytes(encode_grey(np.zeros((8, 8), np.uint8)))
    tensors = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "a.safetensors").write_bytes(len(tensors).to_bytes(8, "little") + tensors + bytes(8))
    (folder / "a.yaml").write_text("name: a\nstages:\n- &x {name: b, kind: train}\n- *x\n")
    (folder / "a.csv").write_text("Image Index,Patient ID,x\na.png,1,2.5\nb.png,2,\n")
    (folder / "list.txt").write_text("a.png\nb.png\n")
    (folder / "boxes.json").write_text('[{"file_name": "a.png", "syms": ["Mass"], "boxes": [[1, 2, 3, 4]]}]')
    (folder / "bank.json").write_text('{"format": 1, "model": "m", "digest": "d"}')
    entry = {"step": 1, "shard": "00000", "path": "shards/a", "sha256": None, "preview": None, "metrics": "shards/m"}
    (folder / "checkpoints.json").write_text(json.dumps({"format": 1, "checkpoints": [entry], "final": "shards/a"}))
    np.savez(folder / "key.npz", a=np.zeros(3))
    (folder / "metrics.json").write_text('{"format": 1, "real": {}, "synthetic": {}}')
    return folder


def whole_dataset(path: Path) -> object:
    dataset = Dataset.open(room() / "data")
    return [list(dataset.verify()), dataset.images(dataset.rows)]


def whole_cache(path: Path) -> object:
    cache = LatentCache.open(room() / "latents")
    return cache.rows, len(cache.moments), len(cache.token_ids)


READERS: dict[str, Reader] = {
    "data/dataset.json": whole_dataset,
    "data/index.parquet": whole_dataset,
    "data/shards/00000.tar": whole_dataset,
    "latents/latents.json": whole_cache,
    "latents/rows.parquet": whole_cache,
    "latents/moments.npy": lambda path: (whole_cache(path), read_npy(path)),
    "grid.png": lambda path: read_picture(room(), "grid.png"),
    "a.safetensors": read_header,
    "a.yaml": lambda path: parse_mapping(read_text(path), path, hint=""),
    "a.csv": lambda path: Csv.read(path).cells,
    "list.txt": lambda path: read_list(path),
    "boxes.json": boxes_of_json,
    "bank.json": lambda path: Bank.open(room()),
    "checkpoints.json": lambda path: read_checkpoints(room()),
    "key.npz": lambda path: FeatureCache(room()).read("key"),
    "metrics.json": lambda path: read_json(path, Metrics),
}
"""Good file -> what reads it."""

odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.sampled_from(["", "../x", "/etc/passwd", "now", "a\0b", "\x1b[2J", "\ud800", "x" * 5000, ".", "shards/../.."]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=3),
    max_leaves=6,
)


@st.composite
def harmed(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with a few bytes changed, cut out, put in twice or at the end."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["flip", "cut", "drop", "double", "insert", "end"]))
        if what == "flip" and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1, data[at] ^ 0x80]))
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 16))]
        elif what == "double":
            data[at:at] = data[max(0, at - 64) : at]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data += draw(st.binary(max_size=32))
    return bytes(data)


@st.composite
def harmed_json(draw: st.DrawFn, good: bytes) -> bytes:
    """A good JSON file with another value at some place, or one key more or fewer."""
    value = json.loads(good)
    place, key, at = None, None, value
    while isinstance(at, dict | list) and at and (place is None or draw(st.booleans())):
        place, key = at, draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        at = place[key]
    if isinstance(place, dict) and draw(st.booleans()):
        del place[key]
    elif place is not None:
        place[key] = draw(odd_values)
    return json.dumps(value).encode(errors="surrogatepass")


@contextmanager
def clear_errors(words: str = "") -> Iterator[None]:
    """A UserError that says `words` is well; any other error is not."""
    try:
        yield
    except UserError as error:
        if words not in str(error):
            raise AssertionError(f"{error} does not say {words!r}") from error


def survives(name: str, data: bytes) -> None:
    """The reader of a file gives a value or a clear error for `data` in its place; the good file is put back."""
    path = room() / name
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        with clear_errors():
            READERS[name](path)
    finally:
        path.write_bytes(good)


def good_files() -> list[str]:
    return list(READERS)


def read_image(data: bytes) -> None:
    """A source image, as preparing reads it, and a Dataset's own."""
    for read in (read_radiograph, lambda png: (check_grey(png, 8, where="a"), decode_grey(png, where="a"))):
        with clear_errors(), suppress(UnusableImageError):
            read(data)


def with_good_checksums(data: bytes) -> bytes:
    """Harm that is not found out by checksums alone: those of a PNG's chunks are made right again."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        out += data[at : end - 4] + zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big")
        at = end
    return bytes(out + data[at:])


def yaml_texts() -> st.SearchStrategy[str]:
    return odd_values.map(lambda value: yaml.dump({"a": value}, allow_unicode=True).replace("'", "")) | st.text(
        alphabet="[]{}:,&*!<-? \n\t'\"ab1.|>#%@`~", max_size=60
    )
