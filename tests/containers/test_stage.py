"""One copy of an image on a node, however many tasks come at once and whatever happens to them."""

import fcntl
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.stage import prelude, stage
from containers.store import Image, Store
from cxr_core.errors import UserError
from tests.pipeline import cxr


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    """Any bytes: a copy does not look into them."""
    return added(store, tmp_path, 3_000_000)


def added(store: Store, folder: Path, size: int) -> Image:
    made = folder / "made.sif"
    made.write_bytes(os.urandom(size))
    return store.add(made)


@pytest.fixture
def node() -> Iterator[Path]:
    """A node's own disk, with a name that a shell could stumble over."""
    with tempfile.TemporaryDirectory(prefix='a node\'s "disk" ') as folder:
        yield Path(folder)


def tasks(image: Image, node: Path, number: int) -> list[subprocess.Popen[str]]:
    """Batch shells that stage an image, say where it is and hold it until their input ends."""
    lines = "\n".join([*prelude(image, '"$NODE"'), 'echo "$CXR_IMAGE_FILE"', "read -r"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = os.environ | {"NODE": str(node)}
    return [
        subprocess.Popen(["bash", "-c", lines], env=environ, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
        for _ in range(number)
    ]


def test_given_16_tasks_at_once_then_there_is_one_copy(image: Image, node: Path) -> None:
    ended = [task.communicate("\n", timeout=60) for task in tasks(image, node, 16)]
    copy = node / f"{image.sha256}.sif"
    assert {out for out, _ in ended} == {f"{copy}\n"}
    assert "".join(err for _, err in ended).count("copied to") == 1
    assert copy.read_bytes() == image.path.read_bytes()
    assert [path.name for path in node.iterdir() if not path.name.endswith(".lock")] == [copy.name]


def test_given_the_winner_killed_midway_then_the_next_copies_again(store: Store, tmp_path: Path, node: Path) -> None:
    image = added(store, tmp_path, 150_000_000)
    (winner,) = tasks(image, node, 1)
    part = node / f".{image.sha256}.part"
    while not part.exists() or part.stat().st_size < 1_000_000:
        assert winner.poll() is None
        time.sleep(0.005)
    os.killpg(winner.pid, signal.SIGKILL)
    winner.communicate()
    assert not (node / f"{image.sha256}.sif").exists()
    ended = [task.communicate("\n", timeout=60) for task in tasks(image, node, 4)]
    assert "".join(err for _, err in ended).count("copied to") == 1
    assert Image(node / f"{image.sha256}.sif", image.sha256, image.bytes).is_sound()
    assert not part.exists()


def test_given_a_damaged_image_then_nothing_is_copied_and_the_mend_is_named(image: Image, node: Path) -> None:
    image.path.chmod(0o644)
    with image.path.open("r+b") as file:
        file.write(b"damage")
    (task,) = tasks(image, node, 1)
    _, err = task.communicate("\n", timeout=60)
    assert task.returncode == 1
    assert "is not what its name says (sha256): run cxr image verify" in err
    assert list(node.glob("*.sif")) == []
    with pytest.raises(UserError, match="could not be staged"):
        stage(image, node)


def test_given_a_disk_without_room_then_what_is_unused_goes_and_what_is_used_stays(
    store: Store,
    tmp_path: Path,
    small_disk: Path,
) -> None:
    first, second, third = (added(store, tmp_path, 3_500_000) for _ in range(3))
    assert stage(first, small_disk).parent == small_disk
    (user,) = tasks(second, small_disk, 1)
    assert user.stdout
    assert str(small_disk) in user.stdout.readline()
    assert stage(third, small_disk).parent == small_disk
    assert {path.stem for path in small_disk.glob("*.sif")} == {second.sha256, third.sha256}
    large = added(store, tmp_path, 6_000_000)
    assert stage(large, small_disk) == large.path
    user.communicate("\n")


def test_given_a_folder_that_cannot_be_written_then_the_image_is_read_where_it_lies(image: Image) -> None:
    assert stage(image, Path("/proc/nothing")) == image.path


def test_gc_lists_what_was_unused_for_long_and_never_removes_what_is_in_use(
    store: Store, tmp_path: Path, image: Image
) -> None:
    old = added(store, tmp_path, 1000)
    long_ago = time.time() - 90 * 86400
    for each in (old, image):
        os.utime(each.path, (long_ago, long_ago))
    fresh = added(store, tmp_path, 2000)
    with image.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        listed = cxr("image", "gc", "--images", store.root)
        assert listed.stdout == f"unused: {old.path} (1,000 bytes)\n"
        assert old.path.exists()
        cxr("image", "gc", "--yes", "--images", store.root)
    assert {each.sha256 for each in store.images()} == {image.sha256, fresh.sha256}
    shown = cxr("image", "list", "--images", store.root).stdout
    assert fresh.sha256[:12] in shown
    assert "built here" in shown
