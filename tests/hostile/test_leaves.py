"""Identifiers are planted wherever a record, a file or a folder has room, and every byte that leaves is searched."""

import base64
import io
import json
import re
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from cxr_core.boundary import INTERNAL
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.png import encode_grey
from cxr_core.data.positions.split import BoxedSplit
from cxr_core.data.pseudonyms import VARIABLE, key, key_path
from cxr_core.errors import UserError
from cxr_core.export.model import export_model
from cxr_core.export.write import LAYOUTS, TARS, export
from cxr_core.models import stable_diffusion
from cxr_core.models.pggan import save as save_pggan
from cxr_core.models.presets import NANO
from cxr_core.models.training_data import FILE as TRAINING_DATA
from cxr_core.models.training_data import TrainingData, read_training_data
from cxr_core.report.write import render, write_report
from cxr_core.runs.files import read_json, write_json
from cxr_core.training.pggan import new_model
from cxr_core.training.pggan_settings import PgganTrain
from tests.pipeline import cxr
from tests.planted import planted_box, planted_row, planted_rows, told_series, write_planted
from tests.unit import report_run

WORD = "ZQX7"
"""Part of every identifier that is planted; in no file otherwise."""
SECRET = f"{WORD}-Doe-1957"
AGE, VISIT = 47.31415, 918273645
FORMS = (*LAYOUTS, TARS)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path_factory.mktemp("home") / "patient.key"))


# What a searcher finds in files


def unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file and all that is packed in it."""
    yield name, data
    yield name, name.encode()
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from ((f"{name}: {kind}", text) for kind, text in chunks(data))
    elif data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        text = table.to_pandas().to_csv() + repr(table.schema.metadata) + repr(pq.read_metadata(io.BytesIO(data)))
        yield f"{name}: table", text.encode()
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                yield f"{name}: header", repr(member.get_info()).encode() + repr(member.pax_headers).encode()
                yield from unpacked(f"{name}/{member.name}", (tar.extractfile(member) or io.BytesIO()).read())
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            yield from (each for one in packed.namelist() for each in unpacked(f"{name}/{one}", packed.read(one)))
    for i, found in enumerate(re.findall(rb"base64,([A-Za-z0-9+/=]{40,})", data)):
        yield from unpacked(f"{name}: picture {i}", base64.b64decode(found))


def chunks(png: bytes) -> Iterator[tuple[str, bytes]]:
    at = 8
    while at + 8 <= len(png) and png[at - 8 : at - 4] != b"IEND":
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        at += 12 + length
        yield kind.decode("latin-1"), body
        for start in range(min(len(body), 90)):
            try:
                yield f"{kind!r} inflated", zlib.decompress(body[start:])
                break
            except zlib.error:
                pass
    yield "after the end", png[at:]


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield from unpacked(path.relative_to(folder).as_posix(), path.read_bytes())


def leaks(found: Iterator[tuple[str, bytes]], *further: str) -> list[tuple[str, str]]:
    words = [WORD, str(AGE), str(VISIT), str(Path.home()), *further]
    if len(socket.gethostname()) > 3:
        words.append(socket.gethostname())
    spelt = [(word, word.encode(how)) for word in words for how in ("utf-8", "utf-16-le")]
    return sorted({(name, word) for name, data in found for word, text in spelt if text in data})


def test_the_search_finds_what_is_hidden_in_any_file(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "data", synthetic=True, tail=SECRET.encode())
    places = {name for name, _ in leaks(files_in(dataset.folder))}
    for place in ("index.parquet: table", "dataset.json", "shards/00000.tar/syn-00000000.png: tEXt"):
        assert place in places, places
    assert any("inflated" in place for place in places)
    assert any("after the end" in place for place in places)
    with pytest.raises(UserError, match="not one 8-bit grey PNG"):
        export(dataset, tmp_path / "out", "imagefolder")


# Datasets


def neighbours(png: bytes, tail: bytes) -> bytes:
    """The PNG with an identifier in every place beside its pixels."""
    texts = [(b"tEXt", b"Comment\0" + SECRET.encode()), (b"eXIf", b"MM\0*" + SECRET.encode())]
    texts += [(b"zTXt", b"Author\0\0" + zlib.compress(SECRET.encode())), (b"tIME", SECRET.encode()[:7])]
    parts = [
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text)) for kind, text in texts
    ]
    return png[:33] + b"".join(parts) + png[33:] + tail


def planted_dataset(folder: Path, *, synthetic: bool, tail: bytes = b"") -> Dataset:
    """12 images with identifiers in every column and every place that our own writers leave empty, or fill."""
    made = {"model": "a" * 64, "steps": 4, "host": SECRET, "nearest": SECRET, "gate": {"passed": True, "near": SECRET}}
    whose = {"patient_id": SECRET, "age": AGE, "sex": SECRET, "follow_up": VISIT, "source_sha256": SECRET}
    rows = [
        planted_row(
            f"syn-{i:08d}",
            **whose,
            split="synthetic" if synthetic else "train",
            seed=i,
            view=SECRET if i == 5 else "PA",
            labels=NIH.bit("Mass"),
            boxes=[planted_box({"image_id": "x"}, 32, "Mass") | {"x": float(VISIT)}],
            generation=json.dumps(made) if synthetic else "",
        )
        for i in range(12)
    ]
    about = {
        "series": told_series(learnt([SECRET])),
        "source": "chestxray14" if synthetic else {"kind": "table", "csv": f"/home/{SECRET}/a.csv"},
        "prompts": {"style": "clinical", "tokenizer": f"/home/{SECRET}/tokenizer", SECRET: SECRET},
        "boxed_split": learnt([SECRET]).boxed_split.model_dump(mode="json"),  # type: ignore[union-attr]
        **{"dtype": "float32", "batch_size": 4, "notes": [SECRET], "host": SECRET, "left_out": [SECRET]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.planted.encode_grey", lambda pixels: neighbours(encode_grey(pixels), tail))
        return write_planted(folder / SECRET, rows, synthetic=synthetic, about=about)


def learnt(moved: list[str], base: TrainingData | None = None) -> TrainingData:
    rows = pd.DataFrame(planted_rows(60))
    split = BoxedSplit(sha256="5" * 64, num_patients={"train": len(moved)}, moved=tuple(moved))
    return TrainingData.of(rows, NIH, "d" * 64, base, split)


@pytest.mark.parametrize("form", FORMS)
def test_given_identifiers_everywhere_then_an_export_of_synthetic_images_holds_none(form: str, tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "data", synthetic=True)
    export(dataset, tmp_path / "out", form)
    found = list(files_in(tmp_path / "out"))
    assert len(found) > 12
    assert leaks(iter(found), str(tmp_path)) == []


@pytest.mark.parametrize("form", [form for form in FORMS if form != "dicom"])
def test_given_real_images_then_they_leave_on_demand_alone_and_each_file_says_that_they_are_real(
    form: str, tmp_path: Path
) -> None:
    rows = [planted_row(f"{i:08d}_000", patient_id=f"{i:08d}") for i in range(4)]
    rows[0]["boxes"] = [planted_box(rows[0], 32)]
    real = write_planted(tmp_path / "real", rows)
    with pytest.raises(UserError, match="must not leave") as caught:
        export(real, tmp_path / "out", form)
    assert "--internal" in caught.value.hint
    assert not list(tmp_path.glob("*out*"))
    assert cxr("data", "export", real.folder, tmp_path / "out", "--as", form).returncode == 2
    export(real, tmp_path / "out", form, internal=True)
    # The two lists of NIH's layout are names of files, line by line, and nothing else can stand in them.
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.name.endswith("_list.txt")]
    assert len(paths) > 1
    for path in paths:
        assert any(INTERNAL.encode() in data for _, data in unpacked(path.name, path.read_bytes())), path
    assert any(b"00000003" in path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))


# Models


@pytest.mark.parametrize("kind", ["pggan", "diffusion"])
def test_given_identifiers_in_a_models_folder_and_its_run_then_what_is_given_away_holds_none(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / SECRET / "model"
    moved = [f"{SECRET}-{i}" for i in range(12)]
    if kind == "pggan":
        values = {"name": "g", "kind": "train", "model": "pggan", "inputs": {"dataset": "d"}, "preset": "nano"}
        values |= {"steps": 13, "batch_size": 4, "images_per_scale": 16, "fade_images": 12, "checkpoint_every": 13}
        folder.parent.mkdir()
        save_pggan(new_model(PgganTrain(**values), 1), folder, {"steps": 1, "host": SECRET}, scale=2, fade=1.0)
        weights = folder / "pggan.safetensors"
        save_file(load_file(weights), weights, {"format": "pt", "author": SECRET})
    else:
        stable_diffusion.save(stable_diffusion.build(NANO, 1), folder)
        for path in folder.rglob("*.json"):
            if "config" in path.name or path.name == "model_index.json":
                write_json(path, read_json(path) | {"_name_or_path": f"/home/{SECRET}", "trained_by": SECRET})
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        save_file(load_file(weights), weights, {"format": "pt", "author": SECRET})
    for extra in ("notes.txt", "preview.png"):
        (folder / extra).write_text(SECRET)
    write_json(folder / TRAINING_DATA, learnt(moved, learnt([SECRET])).model_dump(mode="json"))
    export_model(folder, tmp_path / "out")
    assert leaks(files_in(tmp_path / "out"), str(tmp_path), "5" * 64) == []
    told = read_training_data(tmp_path / "out")
    assert told is not None
    assert told.barred == {key().name(name) for name in [*moved, SECRET]}
    assert key_path().stat().st_mode & 0o077 == 0


def test_given_few_patients_then_neither_their_count_nor_one_that_tells_it_is_given_away() -> None:
    rows = pd.DataFrame(
        [
            planted_row(f"{i}", labels=NIH.bit("Hernia") if i < 3 else NIH.bit("Mass") if i < 23 else 0)
            for i in range(60)
        ]
    )
    told = TrainingData.of(rows, NIH, "d" * 64, None).public()
    assert set(told.withheld) == {"Hernia", "Mass"}
    assert set(told.findings) & {"Hernia", "Mass"} == set()
    assert (told.images, told.findings["No Finding"].patients) == (60, 37)
    assert told.of_finding("Hernia") is None
    few = TrainingData.of(rows.head(5), NIH, "d" * 64, None).public()
    assert (few.images, few.patients, few.images_sha256) == (None, None, None)
    assert "fewer than 10 patients" in few.words
    nearly = TrainingData.of(rows, NIH, "d" * 64, TrainingData.of(rows.head(58), NIH, "d" * 64, None)).public()
    assert nearly.base is None


# The report


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = report_run.full_run(tmp_path_factory.mktemp(SECRET) / "tiny", NIH)
    about = read_json(run.root / "run.json")
    about |= {"platform": SECRET, "command": SECRET, "versions": {"torch": f"file:///home/{SECRET}"}, "by": SECRET}
    (run.root / "run.json").write_text(json.dumps(about | {"git": {"commit": SECRET, "remote": SECRET}}))
    config = run.root / "config.yaml"
    config.write_text(config.read_text().replace("size: 32", f"size: 32\n  data: {{kind: table, csv: /home/{SECRET}}}"))
    return run.root


def test_given_a_run_then_its_public_report_has_no_real_image_no_id_and_no_count_of_few(reported: Path) -> None:
    real, page = Dataset.open(reported / "real"), render(reported, public=True)
    ids = [*real.rows["image_id"], *real.rows["patient_id"].unique()]
    found = [*unpacked("page", page.encode())]
    assert leaks(iter(found), *ids, str(reported)) == []
    pictures = [data for name, data in found if name.count("picture") and name.endswith(tuple("0123456789"))]
    drawn = Dataset.open(reported / "drawn")
    stored = {drawn.image(row).tobytes() for row in drawn.rows.itertuples()}
    pngs = [np.frombuffer(data, np.uint8) for data in pictures if data[:4] == b"\x89PNG"]
    shown = [cv2.imdecode(png, cv2.IMREAD_GRAYSCALE) for png in pngs]
    assert shown
    assert not [one for one in shown if one.tobytes() not in stored]
    assert "withheld" in page
    assert not re.search(r"\b[1-9] (training )?patients?\b", page)
    counted = re.findall(r"<tr>\s*<th[^>]*>[^<]*</th>\s*<td[^>]*>([^<]*)</td>\s*<td[^>]*>([^<]*)</td>\s*</tr>", page)
    assert not [cells for cells in counted if cells[1].isdigit() and 0 < int(cells[1]) < 10]


def test_given_a_run_then_its_own_report_says_at_the_top_that_it_is_internal(reported: Path) -> None:
    page = write_report(reported).read_text()
    assert INTERNAL in page[: page.index("<nav")]
    done = cxr("report", reported, "--public")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.name == "report-public.html"
    assert INTERNAL not in path.read_text()
