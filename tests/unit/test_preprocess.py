"""The preprocess stage over small folders: every oddity is found, named, and treated as its policy says."""

import getpass
import io
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import jobs.preprocess
from cxr_core.data.dataset import Dataset
from cxr_core.data.findings import NIH
from cxr_core.data.images import read_radiograph
from cxr_core.data.phantom import write_layout
from cxr_core.data.prepare import prepare
from cxr_core.data.prompts import PromptWriter
from cxr_core.data.settings import PromptSettings
from cxr_core.data.sources import plan_source
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from tests.radiographs import chest, chunk, entry, grey, nih_stage, png, run_stage, stage, write_nih

NAMES = [f"{i:08d}_000.png" for i in range(1, 9)]


def with_image(folder: Path, data: bytes, **write: object) -> Path:
    """Eight patients of one image each; the first patient's is `data`."""
    return write_nih(folder, [entry(name) for name in NAMES], images={NAMES[0]: data}, **write)  # type: ignore[arg-type]


def test_a_dataset_has_its_pixels_boxes_prompts_and_hashes(tmp_path: Path) -> None:
    rows = [entry("00000001_000.png", "Mass", view="AP"), entry("00000002_000.png")]
    wide = grey(5, 64, 32)
    boxes = ["00000001_000.png,Mass,512,512,256,256"]
    write_nih(tmp_path / "nih", rows, images={"00000001_000.png": png(wide)}, boxes=boxes)
    folder, facts, problems = run_stage(nih_stage(tmp_path / "nih", size=32, validation_share=0), tmp_path)
    dataset = Dataset.open(folder)
    row = next(dataset.rows.itertuples())
    assert list(dataset.verify()) == []
    assert facts["digest"] == dataset.info.digest
    assert facts["splits"] == {"train": 2}
    assert facts["num_patients"] == 2
    assert list(problems["kind"]) == ["mixed_sizes"]
    image = dataset.image(row)
    assert image.shape == (32, 32)
    assert np.all(image[:8] == 0)
    assert np.all(image[24:] == 0)
    halved = wide.reshape(16, 2, 32, 2).mean((1, 3))
    assert np.abs(image[8:24] - halved).max() <= 0.5
    # 512..768 of 1024 is 32..48 of 64 px and 16..24 of 32 px; the square adds 16 above, and halves.
    assert dict(row.boxes[0]) == {"finding": "Mass", "x": 16.0, "y": 16.0, "w": 8.0, "h": 4.0}
    assert row.prompt == "frontal chest x-ray, AP view, mass"
    writer = PromptWriter(PromptSettings.model_validate(dataset.info.about["prompts"]), dataset.findings)
    assert writer(row.labels, row.view) == row.prompt


def test_a_dataset_names_no_path_of_the_machine_that_made_it(tmp_path: Path) -> None:
    folder = write_nih(tmp_path / "nih", [entry(name) for name in NAMES], boxes=["00000001_000.png,Mass,1,1,9,9"])
    listed = tmp_path / "listed.txt"
    listed.write_text(NAMES[0])
    data = {"exclude_lists": [listed], "further_boxes": [{"path": folder / "BBox_List_2017.csv"}]}
    made, _, _ = run_stage(nih_stage(folder, data=data), tmp_path)
    about = Dataset.open(made).info.about
    assert (about["source"]["kind"], about["source"]["exclude_lists"]) == ("chestxray14", [])
    told = (made / "dataset.json").read_text()
    assert not [word for word in (str(tmp_path), str(Path.home()), getpass.getuser()) if f"{word}/" in told]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shard_size", [1, 3, 100])
def test_the_digest_depends_on_neither_threads_nor_shards(threads: int, shard_size: int, tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", png(grey(99)))
    _, reference, _ = run_stage(nih_stage(folder, name="reference"), tmp_path)
    _, facts, _ = run_stage(nih_stage(folder, threads=threads, shard_size=shard_size), tmp_path)
    assert facts["digest"] == reference["digest"]
    assert facts["num_images"] == 8


def dark(seed: int, rows: slice) -> np.ndarray:
    """A picture of many grey levels that is nearly black in some of its rows."""
    picture = grey(seed)
    picture[rows] //= 8
    return picture


def greyish(seed: int) -> np.ndarray:
    """A picture whose red is one level brighter."""
    return np.dstack([grey(seed) + 1, grey(seed), grey(seed)])


EXIF = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
"""One entry: orientation 6, which viewers turn to the right."""


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return data[:33] + chunk(kind, content) + data[33:]


ODD = {
    "unreadable": b"Patient,Age\n",
    "truncated": png(grey(50))[:-40],
    "wrong_size": png(grey(51, 48, 48)),
    "sixteen_bit": png(grey(52).astype(np.uint16) * 257),
    "rgba": png(grey(53), "RGBA"),
    "rgb": png(grey(54), "RGB"),
    "colour": png(greyish(51)),
    "nearly_black": png(dark(55, slice(0, 24))),
    "nearly_white": png(255 - dark(56, slice(8, 32))),
    "animated": with_chunk(png(grey(57)), b"acTL", struct.pack(">II", 3, 0)),
    "turned": with_chunk(png(grey(58)), b"eXIf", EXIF),
    "inverted": png(255 - chest()),
    "flat": png(np.full((32, 32), 130, np.uint8)),
    "few_grey_levels": png(grey(59) // 16 * 16),
    "enlarged": png(grey(60, 8, 8)),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_an_odd_image_is_named_and_treated_by_its_policy(kind: str, tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", ODD[kind])
    data = {"expect_size": None if kind == "enlarged" else 32}
    kept_by_default = kind not in ("unreadable", "truncated", "wrong_size", "flat", "few_grey_levels")

    _, facts, problems = run_stage(nih_stage(folder, data=data, name="default"), tmp_path)
    assert list(problems["kind"]) == [kind, *(["mixed_sizes"] if kind == "enlarged" else [])]
    named = problems[problems["kind"] == kind].iloc[0]
    assert named["image_id"] == "00000001_000"
    assert named["file"].endswith("/images_001/images/00000001_000.png")
    assert named["detail"]
    assert facts["num_images"] == (8 if kept_by_default else 7)
    assert facts["problems"][kind] == 1

    policies = {"policies": {kind: "exclude"}}
    _, facts, problems = run_stage(nih_stage(folder, data=data, name="excluded", **policies), tmp_path)
    assert facts["num_images"] == 7
    assert problems.loc[problems["kind"] == kind, "action"].item() == "left out"

    if kind in ("flat", "few_grey_levels"):
        _, facts, _ = run_stage(nih_stage(folder, data=data, name="kept", policies={kind: "keep"}), tmp_path)
        assert facts["num_images"] == 8

    with pytest.raises(UserError, match=r"00000001_000.png.*") as caught:
        run_stage(nih_stage(folder, data=data, name="failed", policies={kind: "fail"}), tmp_path)
    assert f"{kind}: ..." in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_image_and_its_boxes_become_upright_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    stored = grey(61, 48, 32)
    stored[4:12, 20:40] = 255  # the box
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = with_chunk(png(stored), b"eXIf", exif.tobytes())
    boxes = [f"{NAMES[0]},Mass,{20 * 1024 / 48},{4 * 1024 / 32},{20 * 1024 / 48},{8 * 1024 / 32}"]
    rows = [entry(NAMES[0], "Mass"), entry(NAMES[1])]
    folder = write_nih(tmp_path / "nih", rows, images={NAMES[0]: data}, boxes=boxes)
    made, _, problems = run_stage(nih_stage(folder, size=48), tmp_path)
    row = next(Dataset.open(made).rows.itertuples())
    pixels, box = Dataset.open(made).image(row), row.boxes[0]
    with Image.open(io.BytesIO(data)) as picture:
        right = np.asarray(ImageOps.exif_transpose(picture))
    top, left = (48 - right.shape[0]) // 2, (48 - right.shape[1]) // 2
    assert np.array_equal(pixels[top : 48 - top, left : 48 - left], right)
    x, y, w, h = (round(box[name]) for name in "xywh")
    assert (pixels[y : y + h, x : x + w] == 255).all()
    assert w * h == 160
    turned = problems[problems["kind"] == "turned"]
    assert list(turned["action"]) == ([] if orientation == 1 else ["converted"])
    kept, _, _ = run_stage(nih_stage(folder, size=48, name="kept", policies={"turned": "keep"}), tmp_path)
    assert np.array_equal(Dataset.open(kept).image(next(Dataset.open(kept).rows.itertuples()))[8:40], stored)


@pytest.mark.parametrize("form", ["eXIf behind the pixels", "ImageMagick's", "XMP"])
def test_an_orientation_is_found_in_each_form_that_a_png_states_it_in(form: str) -> None:
    data = png(grey(62))
    raw = b"\nexif\n%8d\n%s\n" % (len(EXIF) + 6, (b"Exif\0\0" + EXIF).hex().encode())
    xmp = (
        b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description "
        b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    stated = {
        "eXIf behind the pixels": data[:-12] + chunk(b"eXIf", EXIF) + data[-12:],
        "ImageMagick's": with_chunk(data, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        "XMP": with_chunk(data, b"iTXt", xmp),
    }
    assert read_radiograph(stated[form]).orientation == 6


@pytest.mark.parametrize(
    "content", [b"", b"MM", EXIF[:-8], b"II*\0" + bytes(60), EXIF.replace(b"\x00\x06", b"\x00\x09")]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_orientation_that_cannot_be_read_is_none(content: bytes) -> None:
    assert read_radiograph(with_chunk(png(grey(62)), b"eXIf", content)).orientation == 1


def test_a_negative_can_be_made_positive(tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", ODD["inverted"])
    made, _, problems = run_stage(nih_stage(folder, size=32, policies={"inverted": "convert"}), tmp_path)
    assert list(problems["action"]) == ["converted"]
    dataset = Dataset.open(made)
    assert np.array_equal(dataset.image(next(dataset.rows.itertuples())), chest())


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (32, 32)])
def test_an_image_of_one_grey_value_is_left_out_and_its_size_is_said(shape: tuple[int, int], tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", png(np.full(shape, 7, np.uint8)))
    _, facts, problems = run_stage(nih_stage(folder), tmp_path)
    found = problems[problems["kind"] == "flat"]
    assert found["detail"].item() == f"{shape[1]} x {shape[0]} pixels, all of grey 7"
    assert found["action"].item() == "left out"
    assert facts["num_images"] == 7
    _, facts, _ = run_stage(nih_stage(folder, name="kept", policies={"flat": "keep"}), tmp_path)
    assert facts["num_images"] == 8


def test_several_sizes_are_said_once_with_their_numbers(tmp_path: Path) -> None:
    images = {NAMES[0]: png(grey(1, 64, 48)), NAMES[1]: png(grey(2, 64, 48)), NAMES[2]: png(grey(3, 40, 40))}
    folder = write_nih(tmp_path / "nih", [entry(name) for name in NAMES], images=images)
    _, facts, problems = run_stage(nih_stage(folder, shard_size=3), tmp_path)
    (detail,) = problems.loc[problems["kind"] == "mixed_sizes", "detail"]
    assert detail == "files of 3 sizes: 32 x 32 (5), 64 x 48 (2), 40 x 40 (1)"
    assert facts["problems"] == {"mixed_sizes": 3}
    with pytest.raises(UserError, match=r"files of 3 sizes.*\n.*`expect_size`"):
        run_stage(nih_stage(folder, name="failed", policies={"mixed_sizes": "fail"}), tmp_path)


def test_a_box_of_a_finding_that_the_image_does_not_have_is_named(tmp_path: Path) -> None:
    rows = [entry(NAMES[0], "Effusion|Mass"), entry(NAMES[1])]
    boxes = [f"{NAMES[0]},Mass,0,0,512,512", f"{NAMES[0]},Nodule,0,0,99,99", f"{NAMES[1]},Infiltrate,0,0,99,99"]
    folder = write_nih(tmp_path / "nih", rows, boxes=boxes)
    made, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert list(problems["image_id"]) == ["00000001_000", "00000002_000"]
    assert list(problems["detail"]) == [
        "a box of Nodule; the labels are Effusion|Mass",
        "a box of Infiltration; the labels are No Finding",
    ]
    assert facts["problems"] == {"box_without_label": 2}
    assert list(Dataset.open(made).rows["boxes"].map(len)) == [2, 1]
    made, _, problems = run_stage(
        nih_stage(folder, name="dropped", policies={"box_without_label": "convert"}), tmp_path
    )
    assert list(Dataset.open(made).rows["boxes"].map(len)) == [1, 0]
    assert set(problems["action"]) == {"box left out"}
    with pytest.raises(UserError, match="no image is left"):
        plan_source(nih_stage(folder, policies={"box_without_label": "exclude"}))
    with pytest.raises(UserError, match=r"box without label: a box of Nodule; .*\n.*make labels and boxes agree"):
        plan_source(nih_stage(folder, policies={"box_without_label": "fail"}))


def test_a_wrong_size_can_be_converted(tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", ODD["wrong_size"])
    policies = {"wrong_size": "convert"}
    _, facts, problems = run_stage(nih_stage(folder, data={"expect_size": 32}, policies=policies), tmp_path)
    assert facts["num_images"] == 8
    assert "converted" in set(problems["action"])


def test_small_images_are_counted_as_enlarged(tmp_path: Path) -> None:
    _, facts, _ = run_stage(nih_stage(with_image(tmp_path / "nih", png(grey(101, 8, 8))), size=32), tmp_path)
    assert facts["num_enlarged"] == 1


def test_a_box_that_leaves_its_image_is_cut_or_left_out(tmp_path: Path) -> None:
    name = NAMES[0]
    boxes = [f"{name},Mass,512,0,600,512", f"{name},Nodule,1024,0,10,10", f"{name},Edema,0,0,1024,1024"]
    rows = [entry(name, "Mass|Nodule|Edema") for name in NAMES]
    folder = write_nih(tmp_path / "nih", rows, boxes=boxes)
    stage_folder, _, problems = run_stage(nih_stage(folder), tmp_path)
    assert list(problems["action"]) == ["cut", "box left out"]
    kept = [dict(box) for box in Dataset.open(stage_folder).rows["boxes"][0]]
    assert kept == [
        {"finding": "Mass", "x": 8.0, "y": 0.0, "w": 8.0, "h": 8.0},
        {"finding": "Edema", "x": 0.0, "y": 0.0, "w": 16.0, "h": 16.0},
    ]
    _, facts, problems = run_stage(nih_stage(folder, name="out", policies={"box_outside": "exclude"}), tmp_path)
    assert facts["num_images"] == 7
    assert set(problems["action"]) == {"left out"}


def test_given_boxes_then_prompts_say_where_findings_are_in_the_frame_of_the_padded_square(tmp_path: Path) -> None:
    rows = [entry("00000001_000.png", "Mass"), entry("00000002_000.png", "Mass")]
    # Upper left of the picture, so on the patient's right; of the second image no box is known.
    write_nih(tmp_path / "nih", rows, boxes=["00000001_000.png,Mass,100,100,80,80"])
    folder, _, _ = run_stage(nih_stage(tmp_path / "nih", prompts={"positions": {}}), tmp_path)
    assert list(Dataset.open(folder).rows["prompt"]) == [
        "frontal chest x-ray, PA view, mass in the upper right",
        "frontal chest x-ray, PA view, mass",
    ]


def test_given_boxed_patients_to_be_moved_then_the_dataset_names_them(tmp_path: Path) -> None:
    test, boxes = NAMES[:6], [f"{name},Mass,100,100,80,80" for name in NAMES[:6]]
    folder = with_image(tmp_path / "nih", png(grey(101)), boxes=boxes, test=test)
    folder, facts, _ = run_stage(nih_stage(folder, validation_share=0, move_boxed={"train": 0.5, "val": 0.2}), tmp_path)
    record = Dataset.open(folder).info.about["boxed_split"]
    assert sum(record["num_patients"].values()) == 6
    assert facts["splits"].get("test", 0) == record["num_patients"]["test"]
    assert set(record["moved"]) == {name[:8] for name in test} - set(
        Dataset.open(folder).of_split("test")["patient_id"]
    )


def test_phantoms_may_all_have_boxes_and_only_some_findings(tmp_path: Path) -> None:
    data = {
        "kind": "phantom",
        "num_images": 60,
        "seed": 3,
        "size": 64,
        "boxed_patients": "all",
        "findings": ["Mass", "Effusion"],
    }
    folder, _, _ = run_stage(stage(data, prompts={"positions": {}}), tmp_path)
    rows = Dataset.open(folder).rows
    assert set(rows["labels"]) <= {0, *(NIH.encode(names) for names in (["Mass"], ["Effusion"], ["Mass", "Effusion"]))}
    assert ((rows["boxes"].map(len) > 0) == (rows["labels"] > 0)).all()
    assert rows.loc[rows["labels"] > 0, "prompt"].str.contains(" in the ").all()


def test_identical_pixels_under_two_names_are_kept_once_and_from_the_test_split(tmp_path: Path) -> None:
    same = {NAMES[0]: png(grey(101)), NAMES[4]: png(grey(101), "RGB")}
    folder = write_nih(tmp_path / "nih", [entry(name) for name in NAMES], images=same, test=[NAMES[4]])
    stage_folder, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["num_images"] == 7
    found = problems[problems["kind"] == "duplicate_pixels"]
    assert list(found["image_id"]) == ["00000001_000"]
    assert found["detail"].item().endswith("00000005_000.png")
    dataset = Dataset.open(stage_folder)
    assert "00000001_000" not in set(dataset.rows["image_id"])
    assert dataset.info.about["left_out"] == ["00000001_000"]
    assert list(dataset.verify()) == []


def test_identical_pixels_with_other_labels_are_all_left_out(tmp_path: Path) -> None:
    rows = [entry(NAMES[0], "Edema"), *(entry(name) for name in NAMES[1:])]
    same = {NAMES[0]: png(grey(101)), NAMES[4]: png(grey(101))}
    folder = write_nih(tmp_path / "nih", rows, images=same)
    _, facts, problems = run_stage(nih_stage(folder), tmp_path)
    assert facts["num_images"] == 6
    assert list(problems["kind"]) == ["contradicting_duplicates"] * 2
    _, facts, _ = run_stage(nih_stage(folder, name="kept", policies={"contradicting_duplicates": "keep"}), tmp_path)
    assert facts["num_images"] == 8
    with pytest.raises(UserError, match=r"the same pixels as .*00000005_000\.png, other labels"):
        run_stage(nih_stage(folder, name="failed", policies={"contradicting_duplicates": "fail"}), tmp_path)


def test_given_every_image_left_out_then_the_stage_fails_and_says_why(tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", png(grey(101)))
    with pytest.raises(UserError, match=r"no image is left of 8; problems: .*'wrong_size': 8") as caught:
        run_stage(nih_stage(folder, data={"expect_size": 1024}), tmp_path)
    assert "`expect_size`" in str(caught.value)
    assert not (tmp_path / "real" / "dataset.json").exists()


def test_an_image_that_vanished_since_the_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: the image was there when the plan was frozen"):
        row = {"image_id": "gone", "file": str(tmp_path / "gone.png")}
        prepare(nih_stage(tmp_path), row)


def test_an_image_that_the_system_refuses_to_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png: the image cannot be read \(Is a directory\)\n  -> check"):
        prepare(nih_stage(tmp_path), {"image_id": "folder", "file": str(tmp_path / "folder.png")})


def test_phantoms_drawn_on_demand_equal_those_written_in_nihs_layout(tmp_path: Path) -> None:
    write_layout(tmp_path / "nih", 24, seed=3, size=64, processes=1)
    _, drawn, problems = run_stage(
        stage({"kind": "phantom", "num_images": 24, "seed": 3, "size": 64}, name="drawn", shard_size=7), tmp_path
    )
    folder, read, _ = run_stage(nih_stage(tmp_path / "nih", data={"expect_size": 64}, name="read"), tmp_path)
    assert drawn["digest"] == read["digest"]
    assert drawn["splits"] == read["splits"]
    assert problems.empty
    assert (Dataset.open(folder).rows["boxes"].str.len() > 0).any()


def test_an_estimate_knows_the_number_of_images_and_nearly_the_bytes(tmp_path: Path) -> None:
    folder = with_image(tmp_path / "nih", png(grey(101)))
    cases = [
        (nih_stage(folder, shard_size=3), 8, 3),
        (nih_stage(folder, num_images=5), 5, 1),
        (stage({"kind": "phantom", "num_images": 10}, num_images=4), 4, 1),
        (stage({"kind": "phantom", "num_images": 10}, shard_size=4, size=64), 10, 3),
    ]
    for settings, num_items, num_shards in cases:
        estimate = jobs.preprocess.estimate(settings, {})
        assert (estimate.num_items, estimate.num_shards) == (num_items, num_shards)
    made, _, _ = run_stage(cases[-1][0], tmp_path)
    files = [path for path in made.rglob("*") if path.is_file() and "attempts" not in path.parts]
    assert len(files) == pytest.approx(estimate.num_files, abs=3)
    assert sum(path.stat().st_size for path in files) == pytest.approx(estimate.num_bytes, rel=0.5)


def test_results_come_in_order_and_few_are_computed_ahead() -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.002 if item % 3 else 0.02)
        return item

    taken: Iterator[int] = in_order(work, range(40), 2)
    assert next(taken) == 0
    assert len(started) <= 10
    assert list(taken) == list(range(1, 40))


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 1], 2))
