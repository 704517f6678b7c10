"""The Dataset on disk: WebDataset tar shards, `index.parquet` (a row an image) and `dataset.json`.

Real and synthetic data have this one form, so every stage takes either. Images are 8-bit grey PNG; pixel values 0..255.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from cxr_core.data.findings import Findings
from cxr_core.data.identity import same_patients
from cxr_core.data.index import faults
from cxr_core.data.members import odd_members
from cxr_core.data.png import check_grey, decode_grey
from cxr_core.data.tars import Tars
from cxr_core.errors import UserError
from cxr_core.runs.door import STRICT, BadFileError, Place, checked_inside, parse, place_of
from cxr_core.runs.files import atomic_path, canonical_json, sha256_of, write_json
from cxr_core.runs.receipt import Receipt
from cxr_core.runs.roles import role_of
from cxr_core.runs.tables import read_table

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
        ("request", pa.string()),  # name of the series that a synthetic image is of, "" where there is one only
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

_DIGESTED = ["image_id", "pixel_sha256", "labels", "boxes", "prompt", "seed"]

_ROW_GROUP = 1 << 16
"""Rows of the index that are written, and later read, at once."""

_CAPTION = ("image_id", "patient_id", "split", "view", "labels", "prompt", "generation")


FIRST_DRAWS = "first_draws"
"""Folder of the one kind of Dataset whose tars lie beside it: `../shards/<name>`, in its stage's folder."""
_BESIDE = "../shards/"


def checked_shard(name: str) -> str:
    """The path of a tar relative to the Dataset's folder. Raises ValueError if it leads anywhere else."""
    checked_inside(name.removeprefix("../") if name.startswith(_BESIDE) else name)
    return name


def checked_findings(names: tuple[str, ...]) -> tuple[str, ...]:
    """The vocabulary, if it is one. Raises UserError, which is a ValueError."""
    return Findings(names).names


_Text = Annotated[str, Field(max_length=200)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=1 << 50)]


class ShardInfo(TypedDict):
    """A tar shard as `dataset.json` lists it; `name` is its path relative to the dataset's folder."""

    name: Annotated[str, AfterValidator(checked_shard)]
    bytes: _Count
    sha256: _Digest
    num_images: _Count


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says of the whole: vocabulary, size, counts, digest, and how it came to be."""

    __pydantic_config__ = STRICT

    findings: Annotated[tuple[_Text, ...], AfterValidator(checked_findings)]
    size: Annotated[int, Field(ge=1, le=10_000)]
    num_images: _Count
    digest: _Digest
    shards: tuple[ShardInfo, ...]
    synthetic: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


class ShardWriter:
    """Writes one tar shard of PNG + JSON members and remembers where each PNG lies.

    The tar is a function of its contents alone (no times, no owners), so equal shards have equal bytes. It is plain
    ustar but for names over 100 bytes, which pax headers hold.
    """

    def __init__(self, path: Path, findings: Findings, notes: Mapping[str, str] | None = None) -> None:
        """`notes` stand in the JSON of every image."""
        self.path, self.findings, self.notes = path, findings, notes or {}
        self._rows: list[dict[str, Any]] = []
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by __exit__

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
        self._add_member(f"{key}.json", canonical_json({**caption(row, self.findings), **self.notes}).encode())
        self._rows.append(dict(row) | {"shard": self.path.name, "offset": offset, "length": len(png)})

    def rows(self) -> pa.Table:
        """The rows written so far; `shard` is the tar's own name until it is committed."""
        return pa.Table.from_pylist(self._rows, schema=SCHEMA)

    def _add_member(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))
        return self._tar.offset - tarfile.BLOCKSIZE * -(-len(data) // tarfile.BLOCKSIZE)


def caption(row: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """What the JSON beside an image's PNG in a tar says of it.

    Boxes and the record of generation are texts (JSON): readers take the types of all images from the first few, and
    these may have no box, or other keys.
    """
    return {name: row[name] for name in _CAPTION} | {
        "seed": None if pd.isna(row["seed"]) else int(row["seed"]),
        "boxes": boxes_text(row["boxes"]),
        "findings": findings.decode(row["labels"]),
        "synthetic": bool(row["generation"]),
    }


def boxes_text(boxes: Iterable[Mapping[str, Any]]) -> str:
    """Boxes as JSON, `[{"finding":"Mass","h":12.0,"w":10.0,"x":4.0,"y":6.0}]`; pixels of the stored image."""
    return canonical_json([{name: box[name] for name in ("finding", *"xywh")} for box in boxes])


def member_key(image_id: str) -> str:
    """The member name of an image without its ending.

    WebDataset cuts names at the first dot, so dots are escaped; `datasets` passes over names that begin with two
    underscores, so the first of these is escaped too.
    """
    key = image_id.replace("%", "%25").replace(".", "%2E")
    return f"%5F{key[1:]}" if key.startswith("__") else key


def pixel_sha256(pixels: np.ndarray) -> str:
    """sha256 of the decoded pixels (uint8, row by row) with their shape: equal for equal images, whatever the file."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


class DatasetDigest:
    """sha256 over rows by image id of (id, pixels, labels, boxes, prompt, seed); never names, times or bytes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._last = ""

    def update(self, rows: pd.DataFrame) -> None:
        """Take in further rows; their ids are above all before."""
        for image_id, pixels, labels, boxes, prompt, seed in rows[_DIGESTED].itertuples(index=False):
            assert image_id >= self._last, f"{image_id} after {self._last}"
            plain = [{name: box[name] for name in ("finding", *"xywh")} for box in boxes]
            value = [image_id, pixels, int(labels), plain, prompt, None if pd.isna(seed) else int(seed)]
            self._digest.update(canonical_json(value).encode() + b"\n")
            self._last = image_id

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def dataset_digest(rows: pd.DataFrame) -> str:
    """The `DatasetDigest` of rows in any order."""
    digest = DatasetDigest()
    digest.update(rows.sort_values("image_id"))
    return digest.hexdigest()


def write_index(
    folder: Path,
    rows: pd.DataFrame,
    shards: Iterable[ShardInfo],
    *,
    findings: Findings,
    size: int,
    synthetic: bool = False,
    about: Mapping[str, Any] | None = None,
) -> DatasetInfo:
    """Write `index.parquet` and, last, `dataset.json`, which makes the folder a Dataset."""
    table = pa.Table.from_pandas(rows.sort_values("image_id"), schema=SCHEMA, preserve_index=False)
    return write_index_of_parts(
        folder, [table], shards, findings=findings, size=size, synthetic=synthetic, about=about or {}
    )


def write_index_of_parts(
    folder: Path,
    parts: Iterable[pa.Table],
    shards: Iterable[ShardInfo],
    *,
    findings: Findings,
    size: int,
    synthetic: bool,
    about: Mapping[str, Any],
) -> DatasetInfo:
    """`write_index` for more rows than memory holds: tables of `SCHEMA`, each with ids above those before."""
    num_images, digest = 0, DatasetDigest()
    with atomic_path(folder / "index.parquet") as temporary, _writer(temporary) as writer:
        for table in _gathered(parts):
            digest.update(table.select(_DIGESTED).to_pandas())
            writer.write_table(table)
            num_images += len(table)
    info = DatasetInfo(
        findings=findings.names,
        size=size,
        num_images=num_images,
        digest=digest.hexdigest(),
        shards=tuple(shards),
        synthetic=synthetic,
        about=dict(about),
    )
    write_json(folder / "dataset.json", asdict(info))
    return info


def _writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, SCHEMA, compression="zstd")


def _gathered(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of small tables in larger ones: a file of ten million rows must not have a row group for each shard."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= _ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def committed_parts(
    stage_folder: Path, receipts: Iterable[Receipt], *, rows_role: str = "rows", tar_role: str = "tar"
) -> Iterator[pa.Table]:
    """The rows of each shard by image id, naming its committed tar relative to the stage's folder."""
    for receipt in receipts:
        rows = read_table(place_of(receipt.path(stage_folder, rows_role), stage_folder), SCHEMA).sort_by("image_id")
        tar = receipt.path(stage_folder, tar_role).relative_to(stage_folder).as_posix()
        yield rows.set_column(SCHEMA.get_field_index("shard"), "shard", pa.array([tar] * len(rows), pa.string()))


def committed_rows(stage_folder: Path, receipts: Iterable[Receipt]) -> pd.DataFrame:
    """All of `committed_parts` in one table."""
    return pa.concat_tables(committed_parts(stage_folder, receipts)).to_pandas()


def committed_tars(stage_folder: Path, receipts: Iterable[Receipt]) -> list[ShardInfo]:
    """What `dataset.json` says of each shard."""
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
    """A Dataset folder opened for reading.

    The index is authoritative: an image is in the Dataset if it has a row. Shards may hold more images, the duplicates
    that were found when all shards were there and left out (their ids: `left_out` of `info.about`); who reads the tars
    alone has to skip these. Test images of patients in `barred` are left out of `rows`.
    """

    folder: Path
    info: DatasetInfo
    barred: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open a Dataset. Raises UserError where `folder` is none, is damaged or was written in another format."""
        path = folder / "dataset.json"
        if not path.is_file():
            raise UserError(
                "not a Dataset: it has no dataset.json", where=str(folder), hint="give the folder of a finished stage"
            )
        try:
            text = Place(folder).read(path.name)
            number = parse(text, dict[str, Any], path).get("format")
            info = parse(text, DatasetInfo, path) if number == FORMAT else None
        except (OSError, UserError) as error:
            raise _damaged(path, _detail(error), error) from error
        if info is None:
            raise UserError(
                f"format {number!r}, but this version reads {FORMAT}",
                where=str(path),
                hint="read it with the version that wrote it, or make the dataset again",
            )
        return cls(folder, info)

    def marks(self) -> dict[str, str]:
        """What tells its content, by the digest and by each byte of the index, which holds more than that is of."""
        with Place(self.folder).open(_INDEX) as file:
            return {"dataset": self.info.digest, "index": sha256_of(file)}

    def given_as(self, role: str) -> "Dataset":
        """Itself, if it fits the role: `synthetic`, or a further place in it, or any other, which is of real images.

        Raises UserError where it does not: numbers of a real Dataset would be told of a model.
        """
        wants_synthetic = role_of(role) == "synthetic"
        if self.info.synthetic == wants_synthetic:
            return self
        kind, stage = ("synthetic", "generate") if wants_synthetic else ("real", "preprocess")
        raise UserError(
            f"is a {'synthetic' if self.info.synthetic else 'real'} Dataset, but is given as `{role}`",
            where=str(self.folder),
            hint=f"give a Dataset of {kind} images there, as a {stage} stage makes it",
        )

    @cached_property
    def findings(self) -> Findings:
        return Findings(self.info.findings)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row an image (`SCHEMA`), sorted by image id. Raises UserError where the index is missing, damaged or
        holds what no Dataset of `info` has."""
        table = self._table()
        for fault in self._faults(table):
            raise _damaged(self.folder / _INDEX, fault)
        rows = table.to_pandas()
        if not self.barred:
            return rows
        barred = same_patients(rows["patient_id"], self.barred)
        return rows[~((rows["split"] == "test") & barred)].reset_index(drop=True)

    def barring(self, patients: frozenset[str]) -> "Dataset":
        """The same without the test images of some patients."""
        return replace(self, barred=patients)

    def of_split(self, split: str) -> pd.DataFrame:
        """The rows of one split, numbered anew."""
        return self.rows[self.rows["split"] == split].reset_index(drop=True)

    def png(self, row: Any) -> bytes:
        """The stored PNG of one row (a namedtuple of `rows.itertuples()` or a Series).

        Raises UserError where its shard is missing, unreadable, too short or no file of this Dataset, and where it is
        no PNG of the Dataset's size.
        """
        path = self.folder / row.shard
        try:
            png = self._tars.read(self._below(row.shard), row.offset, row.length)
        except (OSError, UserError) as error:
            raise _damaged(path, f"image {row.image_id!r} cannot be read: {_detail(error)}", error) from error
        if len(png) != row.length:
            raise _damaged(path, f"ends before image {row.image_id!r} does")
        check_grey(png, self.info.size, where=f"{row.shard}:{row.image_id}")
        return png

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
        missing = [shard["name"] for shard in self.info.shards if not self._has(shard["name"])]
        yield from (f"{name}: missing" for name in missing)
        for shard in self.info.shards:
            if shard["name"] not in missing:
                yield from self._verify_shard(shard)
        try:
            found = [f"index.parquet: {fault}" for fault in self._faults(self._table())]
            rows = self.rows if not found else None
        except UserError as error:
            found, rows = [f"index.parquet: {error.what}"], None
        yield from found
        if rows is not None:
            yield from self._verify_images(rows[~rows["shard"].isin(missing)])
            if dataset_digest(rows) != self.info.digest:
                yield "index.parquet: another digest than dataset.json records"

    def _verify_images(self, rows: pd.DataFrame) -> Iterator[str]:
        for row in rows.itertuples():
            try:
                if pixel_sha256(self.image(row)) != row.pixel_sha256:
                    yield f"{row.image_id} in {row.shard}: pixels differ from the index"
            except UserError as error:
                yield f"{row.image_id} in {row.shard}: {error.what}"

    def _verify_shard(self, shard: ShardInfo) -> Iterator[str]:
        place, name = self._place.within(self._below(shard["name"]))
        try:
            with place.open(name) as file:
                size = os.fstat(file.fileno()).st_size
                is_other = size != shard["bytes"] or sha256_of(file) != shard["sha256"]
                if is_other:
                    yield f"{shard['name']}: {size} bytes with another sha256 than recorded"
                file.seek(0)
                yield from (f"{shard['name']}: {fault}" for fault in odd_members(file, is_whole=not is_other))
        except (OSError, UserError) as error:
            yield f"{shard['name']}: cannot be read: {_detail(error)}"

    def _table(self) -> pa.Table:
        try:
            return read_table((Place(self.folder), _INDEX), SCHEMA)
        except (OSError, UserError) as error:
            raise _damaged(self.folder / _INDEX, _detail(error), error) from error

    def _faults(self, table: pa.Table) -> Iterator[str]:
        info, shards = self.info, [shard["name"] for shard in self.info.shards]
        return faults(table, num_images=info.num_images, size=info.size, num_findings=len(info.findings), shards=shards)

    @cached_property
    def _tars(self) -> Tars:
        return Tars(self._place)

    @cached_property
    def _place(self) -> Place:
        """The folder that the tars lie in: the Dataset's, or of first draws that of their stage."""
        folder = self.folder.absolute()
        return Place(folder.parent if folder.name == FIRST_DRAWS else folder)

    def _below(self, shard: str) -> str:
        """The path of a tar below `_place`."""
        if self._place.path == self.folder.absolute():
            return shard
        return shard.removeprefix("../") if shard.startswith(_BESIDE) else f"{FIRST_DRAWS}/{shard}"

    def _has(self, shard: str) -> bool:
        """Whether there is anything where a tar must be."""
        try:
            place, name = self._place.within(self._below(shard))
            return place.has(name)
        except BadFileError:
            return True  # which `_verify_shard` names


_INDEX = "index.parquet"


def _detail(error: Exception) -> str:
    return (
        error.what.removeprefix("damaged: ")
        if isinstance(error, UserError)
        else getattr(error, "strerror", None) or repr(error)
    )


def _damaged(path: Path, detail: str, cause: Exception | None = None) -> UserError:
    if isinstance(cause, PermissionError):
        return UserError(f"not readable ({detail})", where=str(path), hint="ask its owner for the right to read it")
    return UserError(f"damaged ({detail})", where=str(path), hint="put the file back from a copy, or make it again")
