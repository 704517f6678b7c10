"""A run remembers by which code and libraries it was planned, and goes on with others only if it is told to."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

from cxr_core.errors import UserError
from cxr_core.runs import code, image
from cxr_core.runs.code import PACKAGES, Code
from cxr_core.runs.pack import Work, finalize, freeze, old_fingerprint, run_pack
from cxr_core.runs.plan import Plan
from cxr_core.settings import OF_A_RUN, Absent, Formerly, StageSettings, as_before
from tests.conftest import REPOSITORY
from tests.pipeline import cxr
from tests.stages import tiny_work


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages in another folder, without weights and caches."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    return folder


def test_the_code_is_its_source_text_whatever_its_folder_times_caches_and_line_ends(elsewhere: Path) -> None:
    start = time.perf_counter()
    here = Code.read(REPOSITORY).sha256
    assert time.perf_counter() - start < 1, "it is read by every process"
    (elsewhere / "jobs" / "__pycache__").mkdir(exist_ok=True)
    (elsewhere / "jobs" / "__pycache__" / "cli.py").write_text("cached")
    source = elsewhere / "jobs" / "train.py"
    text = source.read_bytes()
    source.write_bytes(text.replace(b"\n", b"\r\n"))
    assert Code.read(elsewhere).sha256 == here
    source.write_bytes(text.replace(b"steps", b"STEPS", 1))
    assert Code.read(elsewhere).sha256 != here
    source.write_bytes(text)
    (elsewhere / "cxr_core" / "new.py").write_text("")
    assert Code.read(elsewhere).sha256 != here
    (elsewhere / "cxr_core" / "new.py").unlink()


TWO = """\
name: two
stages:
  - {name: real, kind: preprocess, data: {kind: phantom, num_images: 12, size: 32}, size: 16, shard_size: 6}
  - {name: more, kind: preprocess, data: {kind: phantom, num_images: 6, size: 32, seed: 1}, size: 16}
"""


def test_given_edited_code_then_the_run_stops_and_names_the_file_until_it_is_accepted(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(TWO)
    words = ("run", config, "--runs", tmp_path)
    assert cxr(*words, "--stage", "real").returncode == 0
    edited = elsewhere / "cxr_core" / "training" / "objective.py"
    with edited.open("a") as file:
        file.write("# another thought\n")
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    done_before = cxr(*words, "--stage", "real", cwd=tmp_path)
    assert done_before.returncode == 0, "nothing is left to make of this stage"
    refused = cxr(*words, cwd=tmp_path)
    assert refused.returncode == 2
    for word in ("stage 'real'", "files that differ: cxr_core/training/objective.py\n", "--accept-code"):
        assert word in refused.stderr
    accepted = cxr(*words, "--accept-code", cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    codes = {name: Plan.read(tmp_path / "two" / name / "plan.jsonl").parts["code"] for name in ("real", "more")}
    assert codes["more"] == Code.read(elsewhere).sha256 != codes["real"] == Code.here().sha256
    (entry,) = code.accepted(tmp_path / "two")
    assert entry["code"] == codes["more"]
    assert entry["by"]
    assert entry["time"]


def edit(work: Work, change: Callable[[dict[str, object]], dict[str, object]]) -> None:
    """Let the plan of a stage say that it was made otherwise."""
    plan = Plan.read(work.folder.plan_path)
    other = replace(plan, parts=change(dict(plan.parts)))
    replace(other, fingerprint=other.sealed()).write(work.folder.plan_path)


def test_given_another_version_of_a_library_then_it_is_named_and_can_be_accepted(tmp_path: Path) -> None:
    work, _ = tiny_work(tmp_path / "run" / "tiny")
    freeze(work)
    edit(work, lambda parts: parts | {"libraries": {**Code.here().libraries, "torch": "1.0", "xformers": "0.1"}})
    torch = Code.here().libraries["torch"]
    with pytest.raises(UserError) as refused:
        freeze(work)
    assert f"torch: 1.0 -> {torch}\n" in str(refused.value)
    assert "xformers: 0.1 -> not installed" in str(refused.value)
    assert "code:" not in str(refused.value)
    code.accept(tmp_path / "run")
    plan = freeze(work)
    run_pack(work, plan, [shard.id for shard in plan.shards])
    assert finalize(work, plan)["code"] == [Code.here().sha256]
    assert {receipt.code for receipt in work.folder.receipts()} == {Code.here().sha256}


def test_given_an_image_then_the_code_in_there_decides_and_a_launcher_outside_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, inside = tmp_path / "run", 64 * "a"
    work, _ = tiny_work(root / "tiny")
    monkeypatch.setenv(image.VARIABLE, inside)
    freeze(work)
    edit(work, lambda parts: parts | {"code": 64 * "c"})
    with image.working_in(inside):
        code.check(root)
    with pytest.raises(UserError, match=r"code: c{12} .*-> "):
        freeze(work)
    with image.working_in(inside):
        code.accept(root)
    freeze(work)
    monkeypatch.setenv(image.VARIABLE, 64 * "b")
    image.accept(root)
    freeze(work)


class Later(StageSettings):
    """The settings of `tiny_work`, with a key of a later version."""

    white: Annotated[int | None, Absent(None)] = 4095


class Renamed(StageSettings):
    """The same in a version that has renamed the key."""

    white_level: Annotated[int | None, Absent(None), Formerly("white")] = 4095


def with_settings(work: Work, settings: StageSettings) -> Work:
    return replace(work, context=replace(work.context, settings=settings))


@pytest.mark.parametrize("is_old", [True, False])
def test_given_a_plan_without_a_newer_key_then_it_goes_on_with_what_the_lack_of_it_meant(
    tmp_path: Path, is_old: bool
) -> None:
    work, _ = tiny_work(tmp_path / "run" / "tiny")
    plan = freeze(work)
    if is_old:  # as cfcd391 wrote it
        replace(plan, parts={}, fingerprint=old_fingerprint(work, plan)).write(work.folder.plan_path)
        code.accept(tmp_path / "run")
    old = Later.model_validate({"name": "tiny"}, context=OF_A_RUN)
    assert old.white is None
    assert freeze(with_settings(work, old)).shards == plan.shards
    with pytest.raises(UserError, match="settings" if is_old else r"white: None -> 4095"):
        freeze(with_settings(work, Later(name="tiny")))


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("white", [None, 4095])
def test_given_a_plan_with_a_key_that_was_renamed_since_then_it_goes_on(
    tmp_path: Path, is_old: bool, white: int | None
) -> None:
    work, _ = tiny_work(tmp_path / "run" / "tiny")
    before = with_settings(work, Later(name="tiny", white=white))
    plan = freeze(before)
    if is_old:
        replace(plan, parts={}, fingerprint=old_fingerprint(before, plan)).write(work.folder.plan_path)
        code.accept(tmp_path / "run")
    assert freeze(with_settings(work, Renamed(name="tiny", white_level=white))).shards == plan.shards
    with pytest.raises(UserError, match="settings" if is_old else r"white_level: \S+ -> 7"):
        freeze(with_settings(work, Renamed(name="tiny", white_level=7)))


def test_a_newer_key_is_left_out_where_it_says_what_was_before() -> None:
    assert "white" not in as_before(*both(Later(name="tiny", white=None)))
    assert as_before(*both(Later(name="tiny")))["white"] == 4095


def both(settings: Later) -> tuple[Later, dict[str, object]]:
    return settings, settings.model_dump(mode="json")


def test_given_a_plan_that_was_edited_then_it_is_refused(tmp_path: Path) -> None:
    work, _ = tiny_work(tmp_path / "run" / "tiny")
    freeze(work)
    path = work.folder.plan_path
    path.write_text(path.read_text().replace('"start":3', '"start":2'))
    with pytest.raises(UserError, match=r"plan\.jsonl was edited or is damaged"):
        freeze(work)
