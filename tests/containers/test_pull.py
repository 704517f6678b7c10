"""Pulling from a real registry: by digest, once, and what happens when it goes wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from containers.pull import PAUSES, hint_of, may_pass, pull
from containers.reference import Reference
from containers.store import ImageLock, Store
from cxr_core.errors import UserError
from tests.containers.engines import Registry, unreliable
from tests.pipeline import cxr


class Told:
    """What a pull says and how long it would wait, without waiting."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pauses: list[float] = []

    def bring(self, reference: str, store: Store) -> Path:
        return pull(Reference.parse(reference), store, tell=self._hear, sleep=self.pauses.append).path

    def _hear(self, line: str) -> None:
        if "so far" not in line:  # how far it is depends on how fast the machine is
            self.lines.append(line)


@pytest.fixture
def told() -> Told:
    return Told()


def left_over(store: Store) -> list[Path]:
    return [path for name in ("work", "sif") for path in (store.root / name).rglob("*")]


def test_given_a_digest_then_the_image_lies_under_its_sha256_and_its_lock_says_where_it_came_from(
    registry: Registry, store: Store, told: Told
) -> None:
    path = told.bring(registry.reference(), store)
    (image,) = store.images()
    assert path == image.path == store.sif(image.sha256)
    assert image.is_sound()
    lock = ImageLock.read(store.lock_path(Reference.parse(registry.reference())))
    assert (lock.reference, lock.sif_sha256, lock.bytes) == (registry.reference(), image.sha256, image.bytes)
    assert lock.architecture == os.uname().machine
    assert re.fullmatch(r"apptainer \d+\.\d+.*", lock.engine)
    assert left_over(store) == [path]
    before = registry.downloads()
    assert told.bring(registry.reference(), store) == path
    assert registry.downloads() == before


def test_given_a_tag_then_it_is_refused_with_the_command_that_resolves_it(registry: Registry, tmp_path: Path) -> None:
    done = cxr("image", "pull", f"{registry.address}/cxr/tiny:dev", "--images", tmp_path)
    assert done.returncode == 2
    assert "a tag may name another image tomorrow" in done.stderr
    resolve = re.search(r"`(skopeo inspect .*)` prints", done.stderr)
    assert resolve
    command = resolve[1].replace("skopeo inspect", "skopeo inspect --tls-verify=false")
    said = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == registry.reference()


@pytest.mark.parametrize("text", ["cxr", "cxr/suite@sha256:12", "Debian/x@sha256:" + 64 * "0", "h.org/A:1"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write REGISTRY/NAME@sha256:DIGEST"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("said", "passes", "hint"),
    [
        ("reading manifest sha256:4290403 in 127.0.0.1:42977/x: manifest unknown", False, "no such image"),
        ("127.0.0.1:40429/x@sha256:401abc: connection refused", True, "try again later"),
        ("invalid status code from registry 429 (Too Many Requests)", True, "wait an hour"),
        ("received unexpected HTTP status: 503 Service Unavailable", True, "try again later"),
        ("error 404.", False, "no such image"),
        ("h.org/x@sha256:f404-1: requested access is denied", False, "log in first"),
    ],
)
def test_digits_of_a_port_or_a_digest_are_no_status(said: str, passes: bool, hint: str) -> None:
    assert may_pass(said) is passes
    assert hint in hint_of(said)


def test_given_a_digest_that_the_registry_has_not_then_it_is_told_at_once(
    registry: Registry, store: Store, told: Told
) -> None:
    wrong = Reference.parse(registry.reference().split("@")[0] + "@sha256:" + 64 * "0")
    with pytest.raises(UserError, match=r"manifest unknown.*\n.*this registry has no such image"):
        told.bring(str(wrong), store)
    assert told.pauses == []
    assert left_over(store) == []


def test_given_a_damaged_image_then_verify_names_it_and_a_pull_replaces_it(
    registry: Registry, store: Store, told: Told
) -> None:
    path = told.bring(registry.reference(), store)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    damaged = cxr("image", "verify", "--images", store.root)
    assert damaged.returncode == 2
    assert f"1 of 1 images are damaged: {path}" in damaged.stderr
    again = told.bring(registry.reference(), store)
    assert told.lines == [f"{path} is damaged: pulling it again"]
    assert [image.path for image in store.images()] == [again]
    assert "1 images are what their names say" in cxr("image", "verify", "--images", store.root).stdout


def test_given_connections_cut_in_the_middle_then_the_pull_tries_again_and_uses_no_part(
    registry: Registry, store: Store, told: Told
) -> None:
    with unreliable(registry, cut=2) as address:
        told.bring(registry.reference(address), store)
    (image,) = store.images()
    assert image.is_sound()
    assert left_over(store) == [image.path]


@pytest.mark.parametrize(("fault", "message"), [("cut", "unexpected EOF"), ("busy", "TOOMANYREQUESTS(.|\n)*log in")])
def test_given_a_fault_that_does_not_end_then_the_message_says_so_and_nothing_is_left(
    registry: Registry, store: Store, told: Told, fault: str, message: str
) -> None:
    with unreliable(registry, **{fault: 1000}) as address, pytest.raises(UserError, match=message):
        told.bring(registry.reference(address), store)
    assert told.pauses == list(PAUSES)
    assert all("trying again in" in line for line in told.lines)
    assert left_over(store) == []


def test_given_a_registry_that_is_too_busy_then_the_pull_backs_off_and_ends_well(
    registry: Registry, store: Store, told: Told
) -> None:
    with unreliable(registry, busy=3) as address:
        told.bring(registry.reference(address), store)
    assert told.pauses == list(PAUSES[:3])
    assert "TOOMANYREQUESTS" in told.lines[0]
    assert store.images()[0].is_sound()


def test_given_a_full_disk_then_it_is_named_and_nothing_is_left(
    registry: Registry, small_disk: Path, told: Told
) -> None:
    store = Store(small_disk)
    with pytest.raises(UserError, match=r"no space left on device(.|\n)*free some room there"):
        told.bring(registry.reference(), store)
    assert told.pauses == []
    assert left_over(store) == []


def start(reference: str, store: Store) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.cli", "image", "pull", reference, "--images", str(store.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_given_16_pulls_at_once_and_the_first_killed_midway_then_each_layer_is_downloaded_once(
    registry: Registry, store: Store
) -> None:
    with unreliable(registry) as address:
        winner = start(registry.reference(address), store)
        layers = store.work(Reference.parse(registry.reference()).digest)
        while not any(path.stat().st_size > 5_000_000 for path in layers.rglob("*") if path.is_file()):
            assert winner.poll() is None
            time.sleep(0.01)
        os.killpg(winner.pid, signal.SIGKILL)
        winner.wait()
    assert store.images() == []
    before = registry.downloads()
    pulls = [start(registry.reference(), store) for _ in range(16)]
    paths = {process.communicate(timeout=120)[0].splitlines()[0] for process in pulls}
    assert [process.returncode for process in pulls] == [0] * 16
    (image,) = store.images()
    assert paths == {str(image.path)}
    after = registry.downloads()
    assert {blob for blob in after if after[blob] - before.get(blob, 0) > 1} == set()
