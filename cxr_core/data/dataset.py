"""The Dataset on disk: WebDataset tar shards, `index.parquet` (a row an image) and `dataset.json`.

Real and synthetic data have this one form, so every stage takes either. Images are 8-bit grey PNG; pixel values 0..255.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.data.findings import Findings
from cxr_core.data.png import decode_grey
from cxr_core.errors import UserError
from cxr_core.runs.files import atomic_path, canonical_json, read_json, sha256_file, write_json
from cxr_core.runs.receipt import Receipt

FORMAT = 1

BOX = pa.struct([("finding", pa.string()), *((name, pa.float64()) for name in ("x", "y", "w", "h"))])
"""A box in the pixel frame of the stored image: x to the right and y down from the upper left corner, in pixels."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("patient_id", pa.string()),  # "" for a synthetic image
        ("split", pa.string()),  # train, val, test; "synthetic"
        ("view", pa.string()),  # PA, AP or "" when unknown
        ("age", pa.float64()),  # years
        ("sex", pa.string()),  # M, F or ""
        ("follow_up", pa.int64()),
        ("labels", pa.int64()),  # bits, see Findings
        ("boxes", pa.list_(BOX)),
        ("prompt", pa.string()),
        ("seed", pa.int64()),  # null for a real image
        ("generation", pa.string()),  # JSON: steps, guidance, scheduler, model and config digest; "" for a real image
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("pixel_sha256", pa.string()),  # of the stored image's decoded pixels, row by row
        ("source_sha256", pa.string()),  # of the source image's decoded grey pixels; "" for a synthetic image
        ("shard", pa.string()),  # path of the tar, relative to the dataset's folder
        ("offset", pa.int64()),  # of the PNG's first byte in the tar
        ("length", pa.int64()),  # of the PNG, bytes
    ]
)

_CAPTION = ("image_id", "patient_id", "split", "view", "labels", "boxes", "prompt", "seed")


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says of the whole: vocabulary, size, counts, digest, and how it came to be."""

    findings: tuple[str, ...]
    size: int
    num_images: int
    digest: str
    shards: tuple[dict[str, Any], ...]  # name, bytes, sha256, num_images
    synthetic: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


class ShardWriter:
    """Writes one tar shard of PNG + JSON members and remembers where each PNG lies.

    The tar is a function of its contents alone (no times, no owners), so equal shards have equal bytes.
    """

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path, self.findings = path, findings
        self._rows: list[dict[str, Any]] = []
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def add(self, png: bytes, row: Mapping[str, Any]) -> None:
        """Append one image. `row` holds the columns of `SCHEMA` except shard, offset and length."""
        key = member_key(row["image_id"])
        offset = self._add_member(f"{key}.png", png)
        caption = {name: row[name] for name in _CAPTION} | {"findings": self.findings.decode(row["labels"])}
        if row["generation"]:
            caption["synthetic"] = json.loads(row["generation"])
        self._add_member(f"{key}.json", canonical_json(caption).encode())
        self._rows.append(dict(row) | {"shard": self.path.name, "offset": offset, "length": len(png)})

    def rows(self) -> pa.Table:
        """The rows written so far; `shard` is the tar's own name until it is committed."""
        return pa.Table.from_pylist(self._rows, schema=SCHEMA)

    def _add_member(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))
        return self._tar.offset - tarfile.BLOCKSIZE * -(-len(data) // tarfile.BLOCKSIZE)


def member_key(image_id: str) -> str:
    """The member name of an image without its ending; WebDataset cuts names at the first dot, so dots are escaped."""
    return image_id.replace("%", "%25").replace(".", "%2E")


def pixel_sha256(pixels: np.ndarray) -> str:
    """sha256 of the decoded pixels (uint8, row by row) with their shape: equal for equal images, whatever the file."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def dataset_digest(rows: pd.DataFrame) -> str:
    """sha256 over rows sorted by image id of (id, pixels, labels, boxes, prompt, seed); never names, times or bytes."""
    digest = hashlib.sha256()
    columns = ["image_id", "pixel_sha256", "labels", "boxes", "prompt", "seed"]
    for image_id, pixels, labels, boxes, prompt, seed in rows.sort_values("image_id")[columns].itertuples(index=False):
        plain = [{name: box[name] for name in ("finding", "x", "y", "w", "h")} for box in boxes]
        value = [image_id, pixels, int(labels), plain, prompt, None if pd.isna(seed) else int(seed)]
        digest.update(canonical_json(value).encode() + b"\n")
    return digest.hexdigest()


def write_index(
    folder: Path,
    rows: pd.DataFrame,
    shards: Iterable[Mapping[str, Any]],
    *,
    findings: Findings,
    size: int,
    synthetic: bool = False,
    about: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """Write `index.parquet` and, last, `dataset.json`, which makes the folder a Dataset."""
    rows = rows.sort_values("image_id", ignore_index=True)
    table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    write_parquet(folder / "index.parquet", table)
    info = DatasetInfo(
        findings=findings.names,
        size=size,
        num_images=len(rows),
        digest=dataset_digest(rows),
        shards=tuple(dict(shard) for shard in shards),
        synthetic=synthetic,
        about=dict(about or {}),
    )
    write_json(folder / "dataset.json", asdict(info))
    return info


def committed_rows(stage_folder: Path, receipts: Iterable[Receipt]) -> pd.DataFrame:
    """The rows of all shards (role "rows"), each naming its committed tar relative to the stage's folder."""
    parts = []
    for receipt in receipts:
        rows = pq.read_table(receipt.path(stage_folder, "rows")).to_pandas()
        tar = receipt.path(stage_folder, "tar").relative_to(stage_folder).as_posix()
        parts.append(rows.assign(shard=tar))
    return pd.concat(parts, ignore_index=True)


def committed_tars(stage_folder: Path, receipts: Iterable[Receipt]) -> list[dict[str, Any]]:
    """What `dataset.json` says of each shard: name, bytes, sha256, num_images."""
    return [
        {
            "name": f"shards/{data.name}",
            "bytes": data.bytes,
            "sha256": data.sha256,
            "num_images": receipt.counts["images"],
        }
        for receipt in receipts
        for data in receipt.data
        if data.role == "tar"
    ]


def write_parquet(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@dataclass(frozen=True)
class Dataset:
    """A Dataset folder opened for reading."""

    folder: Path
    info: DatasetInfo

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open a Dataset. Raises UserError where `folder` is none or was written in another format."""
        path = folder / "dataset.json"
        if not path.is_file():
            raise UserError(
                "not a Dataset: it has no dataset.json", where=str(folder), mend="give the folder of a finished stage"
            )
        try:
            info = read_json(path)
            if info.get("format") != FORMAT:
                raise UserError(f"format {info.get('format')!r}, but this version reads {FORMAT}", where=str(path))
            lists = {name: tuple(info[name]) for name in ("findings", "shards")}
            return cls(folder, DatasetInfo(**info | lists))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f"damaged ({error!r})", where=str(path), mend="make the dataset again") from error

    @cached_property
    def findings(self) -> Findings:
        return Findings(self.info.findings)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row an image (`SCHEMA`), sorted by image id."""
        return pq.read_table(self.folder / "index.parquet").to_pandas()

    def png(self, row: Any) -> bytes:
        """The stored PNG of one row (a namedtuple of `rows.itertuples()` or a Series)."""
        with (self.folder / row.shard).open("rb") as tar:
            tar.seek(row.offset)
            return tar.read(row.length)

    def image(self, row: Any) -> np.ndarray:
        """Pixels of one row: uint8 (height, width)."""
        return decode_grey(self.png(row), where=f"{row.shard}:{row.image_id}")

    def images(self, rows: pd.DataFrame) -> np.ndarray:
        """Pixels of many rows in their order: uint8 (num_rows, size, size)."""
        stack = np.empty((len(rows), self.info.size, self.info.size), np.uint8)
        for i, row in enumerate(rows.itertuples()):
            stack[i] = self.image(row)
        return stack

    def label_matrix(self, rows: pd.DataFrame) -> np.ndarray:
        """float32 (num_rows, num_findings) of 0 and 1, in the order of `findings.names`."""
        bits = np.arange(len(self.findings.names))
        return (rows["labels"].to_numpy()[:, None] >> bits & 1).astype(np.float32)

    def verify(self) -> Iterator[str]:
        """Yield one line for each thing that is not as recorded: shard bytes, image pixels, the digest."""
        for shard in self.info.shards:
            path = self.folder / shard["name"]
            if not path.is_file():
                yield f"{shard['name']}: missing"
            elif sha256_file(path) != shard["sha256"]:
                yield f"{shard['name']}: {path.stat().st_size} bytes with another sha256 than recorded"
        for row in self.rows.itertuples():
            try:
                if pixel_sha256(self.image(row)) != row.pixel_sha256:
                    yield f"{row.image_id} in {row.shard}: pixels differ from the index"
            except (UserError, OSError) as error:
                yield f"{row.image_id} in {row.shard}: {error}"
        if dataset_digest(self.rows) != self.info.digest:
            yield "index.parquet: another digest than dataset.json records"
