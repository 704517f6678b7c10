"""What a command sees in a real container: few variables, named folders, no home of the user's."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.binds import Bind, bind_of, in_order
from containers.engine import architecture, enter
from containers.store import Image, Store, find_image
from cxr_core.errors import UserError
from tests.containers.engines import SITE_PACKAGES
from tests.pipeline import cxr

HOSTILE = "a space, a colon: 'a quote\" and\na newline"

TELL = """
import json, os, sys
print(json.dumps({"cwd": os.getcwd(), "here": os.listdir(), "home": os.path.expanduser("~"), "path": sys.path,
                  "local": os.path.isdir(sys.argv[1]), "environ": dict(os.environ)}))
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's home, off the folders that every container sees, with a package in ~/.local that would break all."""
    with tempfile.TemporaryDirectory(prefix="cxr-home-", dir="/srv") as folder:
        yield make_home(Path(folder) / HOSTILE, monkeypatch)


def make_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = home / ".local" / "lib" / "python3.11" / "site-packages"
    package.mkdir(parents=True)
    (package / "numpy.py").write_text("raise ImportError('of the user')")
    (home / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def seen(image: Path, cwd: Path, **options: object) -> dict[str, object]:
    words = enter(image, Image.at(image).sha256, [cwd], cwd=cwd, gpus=False, **options)  # type: ignore[arg-type]
    command = [*words, "python", "-c", TELL, str(cwd.parent / ".local")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_given_a_call_from_inside_home_then_only_that_folder_is_seen(thin_image: Path, home: Path) -> None:
    work = home / "work"
    (work / "file").touch()
    told = seen(thin_image, work)
    assert told["cwd"] == str(work)
    assert told["here"] == ["file"]
    assert told["local"] is False
    assert re.fullmatch(rf"/tmp/cxr-box-{os.getuid()}-.*-\d+\.\w{{8}}/home", str(told["home"]))


def test_given_a_bind_to_another_place_to_be_read_only_then_it_lies_there_and_cannot_be_written(
    thin_image: Path, tmp_path: Path
) -> None:
    data = tmp_path / HOSTILE
    data.mkdir()
    (data / "image.png").touch()
    binds = [bind_of("/usr/share:/opt/inside:ro"), Bind(str(data), "/mnt", is_readonly=True), data]
    words = enter(thin_image, Image.at(thin_image).sha256, [*binds, tmp_path], cwd=tmp_path, gpus=False)
    script = 'ls /mnt; touch /mnt/new; touch "$1/new" && ls -d /opt/inside'
    done = subprocess.run([*words, "sh", "-c", script, "sh", str(data)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["image.png", "/opt/inside"], done.stderr
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/data", Bind("/data", "/data")),
        ("/data:/mnt", Bind("/data", "/mnt")),
        ("/da ta,1:/mnt:ro", Bind("/da ta,1", "/mnt", is_readonly=True)),
        ("/data:/mnt:rw", Bind("/data", "/mnt")),
        ("/proc/self/fd/..", Bind("/proc/self/fd/..", "/proc/self/fd/..")),
    ],
)
def test_a_bind_is_read_as_engines_write_it(text: str, bind: Bind) -> None:
    assert bind_of(text) == bind


def test_a_folder_that_is_there_may_have_colons_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a:b:c:d"
    folder.mkdir()
    assert bind_of(str(folder)) == Bind.at_its_place(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/data:/mnt:z", "'z' is no option of a bind"),
        ("/data:ro", "an option comes third: /data:/data:ro"),
        ("/data:", "'' is no whole path"),
        ("/a:b:/c:ro", "more than two colons"),
        ("data:/mnt", "'data' is no whole path"),
        ("$SCRATCH/data", "variables are not replaced"),
        ("/data:/mnt:", "'' is no option"),
    ],
)
def test_a_bind_of_another_form_is_refused_with_the_forms_that_there_are(text: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        bind_of(text)
    assert words in str(refused.value)
    assert repr(text) in str(refused.value)
    assert "/folder:/place/inside:ro" in str(refused.value)


def test_two_folders_at_one_place_are_refused_and_what_lies_within_another_comes_after_it() -> None:
    inner, outer = Bind("/b", "/mnt/b"), Bind("/a", "/mnt", is_readonly=True)
    assert in_order([inner, outer, inner]) == [outer, inner]
    with pytest.raises(UserError, match="two folders are bound to it: /a and /c"):
        in_order([outer, Bind("/c", "/mnt/")])


def test_given_a_call_from_home_itself_then_packages_in_local_are_invisible(thin_image: Path, home: Path) -> None:
    told = seen(thin_image, home)
    assert told["here"]
    path = told["path"]
    assert isinstance(path, list)
    assert not [folder for folder in path if ".local" in folder]


def test_of_the_environment_only_what_is_listed_passes(
    thin_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "a, cache"
    cache.mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    passing = {
        "SLURM_JOB_NODELIST": "n[0,2]",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "NCCL_DEBUG": "INFO",
        "CXR_FLAG": "a=b, 'c'\nd",
        "OMP_NUM_THREADS": "2",
        "HF_HOME": str(cache),
    }
    stopped = {"LD_PRELOAD_X": "1", "PYTHONPATH": "/nowhere", "SECRET": "s", "HF_HOMES": "no"}
    for name, value in (passing | stopped).items():
        monkeypatch.setenv(name, value)
    environ = seen(thin_image, tmp_path, names=["HF_HOME"])["environ"]
    assert isinstance(environ, dict)
    assert passing.items() <= environ.items()
    assert not set(stopped) & set(environ)
    assert environ["CXR_IMAGE_SHA256"] == Image.at(thin_image).sha256
    assert environ["PYTHONNOUSERSITE"] == "1"
    assert environ["TMPDIR"] == str(tmp_path)


def test_exec_runs_the_command_of_the_image_and_passes_its_status_on(thin_image: Path, tmp_path: Path) -> None:
    bind = ("--bind", f"{SITE_PACKAGES}")
    told = cxr("image", "exec", *bind, thin_image, "--", "sh", "-c", "ls -d $0; exit 7", SITE_PACKAGES, cwd=tmp_path)
    assert (told.returncode, told.stdout) == (7, f"{SITE_PACKAGES}\n")


def test_the_architecture_of_a_sif_is_read_from_its_header(thin_image: Path, tmp_path: Path) -> None:
    assert architecture(thin_image) == os.uname().machine
    (tmp_path / "text").write_text("no image")
    assert architecture(tmp_path / "text") is None


def test_images_are_found_by_path_reference_and_sha256(store: Store, thin_image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sif"
    copy.write_bytes(thin_image.read_bytes())
    image = store.add(copy)
    assert find_image(str(thin_image)) == Image(thin_image, image.sha256, image.bytes)
    assert store.find(image.sha256[:12]) == image
    with pytest.raises(UserError, match=r"cxr image pull 127\.0\.0\.1:1/x@sha256:"):
        store.find("127.0.0.1:1/x@sha256:" + 64 * "0")
    with pytest.raises(UserError, match="where images lie is not known"):
        find_image("no/such/path.sif")
