"""Another user of a node gets there first: into the scratch folder, a lock, a store, the caches."""

import grp
import os
import pwd
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containers.engine import enter
from containers.stage import prelude, stage
from containers.store import Image, Store, find_image
from cxr_core.errors import UserError
from cxr_core.home import only_mine
from tests.conftest import REPOSITORY

STRANGER = 65534
KEPT = "the victim's own\n"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Any bytes: what stages an image does not look into them."""
    made = tmp_path / "made.sif"
    made.write_bytes(os.urandom(100_000))
    return Store(tmp_path / "images").add(made)


@pytest.fixture
def node() -> Iterator[Path]:
    """A node's own disk, on which everybody may write, as in /tmp."""
    with tempfile.TemporaryDirectory(prefix="cxr-node-") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text(KEPT)
    return path


def stranger(script: str, folder: Path) -> None:
    """Run lines of Python as another user, in `folder`."""
    if os.geteuid() != 0:
        pytest.skip("only root may act as another user")
    child = os.fork()  # the interpreter itself may lie where the other cannot read
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            os.chdir(folder)
            os.umask(0)
            exec(script, {"os": os, "Path": Path})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, script


def forged(image: Image) -> bytes:
    """As large as the image, and another program."""
    return b"evil" + image.path.read_bytes()[4:]


@pytest.mark.parametrize("mode", ["0o777", "0o755", "0o1777"])
def test_a_scratch_folder_that_another_made_is_not_used(image: Image, node: Path, mode: str) -> None:
    stranger(f"os.mkdir('images', {mode}); os.chmod('images', {mode})", node)
    (node / "images" / f"{image.sha256}.sif").write_bytes(forged(image))
    os.chown(node / "images" / f"{image.sha256}.sif", STRANGER, STRANGER)
    used = stage(image, node / "images")
    assert used.read_bytes() == image.path.read_bytes()
    assert not used.is_relative_to(node / "images") or used.parent.stat().st_uid == os.getuid()


def test_nor_one_below_a_folder_that_another_made(image: Image, node: Path) -> None:
    stranger("os.mkdir('me')", node)
    assert stage(image, node / "me" / "images") == image.path


def test_nor_one_to_which_anothers_link_leads(image: Image, node: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    stranger(f"os.symlink({str(tmp_path / 'home')!r}, 'images')", node)
    assert stage(image, node / "images") == image.path
    assert list((tmp_path / "home").iterdir()) == []


def test_in_a_folder_that_is_everybodys_a_private_one_is_made(image: Image, node: Path) -> None:
    used = stage(image, node)
    assert used.parent.stat().st_mode & 0o777 == 0o700
    assert Image(used, image.sha256, image.bytes).is_sound()
    assert node.stat().st_mode & 0o7777 == 0o1777
    with pytest.raises(AssertionError):
        stranger(f"os.rename({used.parent.name!r}, 'away')", node)
    assert stage(image, node) == used


@pytest.mark.parametrize("before", ["of the same size", "changed later, with its time set back", "a link"])
def test_a_copy_with_other_bytes_is_made_again(image: Image, tmp_path: Path, before: str) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir(mode=0o700)
    copy, other = folder / f"{image.sha256}.sif", tmp_path / "other"
    if before == "changed later, with its time set back":
        assert stage(image, folder) == copy
        times = copy.stat()
        copy.chmod(0o644)
        copy.write_bytes(forged(image))
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif before == "a link":
        other.write_bytes(image.path.read_bytes())
        copy.symlink_to(other)
    else:
        copy.write_bytes(forged(image))
    assert stage(image, folder) == copy
    assert copy.read_bytes() == image.path.read_bytes()
    assert not copy.is_symlink()


@pytest.mark.parametrize("name", [".{}.lock", ".{}.part", "{}.sif"])
def test_a_link_by_a_name_that_is_written_to_leads_nowhere(
    image: Image, tmp_path: Path, victim: Path, name: str
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir(mode=0o700)
    (folder / name.format(image.sha256)).symlink_to(victim)
    assert stage(image, folder).read_bytes() == image.path.read_bytes()
    assert victim.read_text() == KEPT


@pytest.mark.parametrize("name", [".{}.lock", ".{}.part", "{}.sif"])
def test_nor_does_anothers_link_in_anothers_folder(image: Image, node: Path, victim: Path, name: str) -> None:
    stranger(f"os.mkdir('images'); os.symlink({str(victim)!r}, 'images/{name.format(image.sha256)}')", node)
    assert stage(image, node / "images").read_bytes() == image.path.read_bytes()
    assert victim.read_text() == KEPT


def test_an_image_in_a_store_is_what_its_name_says_or_it_is_refused_by_all_who_use_it(image: Image) -> None:
    assert find_image(str(image.path)) == image
    times = image.path.stat()
    image.path.chmod(0o644)
    image.path.write_bytes(forged(image))
    os.utime(image.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    store = Store(image.path.parents[1])
    for name in (str(image.path), image.sha256, image.sha256[:8]):
        with pytest.raises(UserError, match="is not what its name says") as raised:
            find_image(name, store.root)
        assert str(image.path) in str(raised.value)
    words = enter(image.path, image.sha256, (), cwd=Path("/"), gpus=False)
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not what its name says (sha256)" in done.stderr


def test_what_another_remembered_of_an_image_is_not_believed(image: Image, node: Path) -> None:
    """XDG_CACHE_HOME may be anywhere."""
    stranger("os.mkdir('cxr-images')", node)
    evil = node / "evil.sif"
    evil.write_bytes(b"evil")
    found = evil.stat()
    times = " ".join(f"{ns // 10**9}.{ns % 10**9:09d}" for ns in (found.st_mtime_ns, found.st_ctime_ns))
    record = f"{image.sha256} {found.st_ino} {found.st_size} {times}\n"
    stranger(f"Path('cxr-images/{image.sha256}').write_text({record!r})", node)
    words = enter(evil, image.sha256, (), cwd=Path("/"), gpus=False)
    environ = os.environ | {"XDG_CACHE_HOME": str(node)}
    done = subprocess.run([*words, "true"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "is not what its name says" in done.stderr) == (1, True)


def test_the_containers_home_has_no_name_that_could_be_taken_before(image: Image, node: Path, tmp_path: Path) -> None:
    """The engine's place is taken by a program that tells where home is to be."""
    stranger(f"os.mkdir('cxr-home-{os.getuid()}')", node)
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[sys.argv.index('--home') + 1])\n")
    program.chmod(0o755)
    words = enter(image.path, image.sha256, (), cwd=Path("/"), gpus=False)
    environ = os.environ | {"TMPDIR": str(node), "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def home() -> Path:
        return Path(subprocess.run([*words, "x"], env=environ, capture_output=True, text=True, check=True).stdout[:-1])

    first = home()
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert home() != first
    assert not first.exists()  # its task is gone
    assert not list((node / f"cxr-home-{os.getuid()}").iterdir())


TELL = "from jobs.cli import main; import sys; sys.argv[1:] = ['--help']; main()"
CACHE = "import os; from jobs.environment import prepare_environment; prepare_environment(); "
CACHE += "print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code]
    there = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(words, env=there | environ, capture_output=True, text=True, check=False)


TAKEN: dict[str, Callable[[int], str]] = {
    "nothing": lambda uid: "",
    "a folder": lambda uid: f"os.mkdir('cxr-home-{uid}'); os.mkdir('torchinductor_root')",
    "a link": lambda uid: f"os.mkdir('x'); os.symlink('x', 'cxr-home-{uid}')",
    "a file": lambda uid: f"Path('cxr-home-{uid}').touch()",
}


@pytest.mark.parametrize("taken", TAKEN)
def test_compiled_code_is_kept_where_only_its_user_writes(node: Path, taken: str) -> None:
    stranger(TAKEN[taken](os.getuid()), node)
    done = python(CACHE + "; print(os.stat(os.path.dirname(os.environ['TORCHINDUCTOR_CACHE_DIR'])))", TMPDIR=str(node))
    assert done.returncode == 0, done.stderr
    place, found = done.stdout.splitlines()
    assert f"st_uid={os.getuid()}," in found
    assert "st_mode=16832" in found  # a folder, 0700
    assert Path(place).parent.parent == node
    assert Path(place).parent.exists() == (taken == "nothing")  # else it goes with the process


@pytest.mark.parametrize("name", ["TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR"])
def test_a_cache_of_code_that_others_can_write_to_is_refused_by_name(node: Path, name: str) -> None:
    stranger("os.mkdir('cache')", node)
    done = python(TELL, **{name: str(node / "cache")})
    assert done.returncode == 2
    assert f"{name}={node / 'cache'}: others can write to this cache" in done.stderr
    assert "Traceback" not in done.stderr
    (node / "mine").mkdir(mode=0o700)
    assert python(TELL, **{name: str(node / "mine")}).returncode == 0


def is_mine(path: Path) -> tuple[bool, bool]:
    """What the shell and what Python say."""
    lines = 'cd /; . "$0"; only_mine "$1" > /dev/null'
    shell = subprocess.run(["bash", "-c", lines, REPOSITORY / "containers" / "trust.sh", path], check=False)
    return shell.returncode == 0, only_mine(path)


def test_a_link_that_leads_on_to_a_link_of_anothers_is_not_followed(node: Path, tmp_path: Path) -> None:
    home = tmp_path / "a home\nof 'mine'\n"
    home.mkdir(mode=0o700)
    stranger(f"os.symlink({str(home)!r}, 'theirs')", node)
    (tmp_path / "mine").symlink_to(os.path.relpath(home, tmp_path))
    (tmp_path / "on").symlink_to(node / "theirs")
    assert is_mine(tmp_path / "mine") == (True, True)
    assert is_mine(tmp_path / "on") == (False, False)


def test_a_list_of_further_users_makes_a_folder_theirs(node: Path) -> None:
    (node / "mine").mkdir(mode=0o770)
    (node / "mine").chmod(0o770)
    assert is_mine(node / "mine") == (is_alone(), is_alone())
    entries = [(1, 7, -1), (2, 7, STRANGER), (4, 7, -1), (16, 7, -1), (32, 0, -1)]
    text = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, may, who % 2**32) for tag, may, who in entries)
    try:
        os.setxattr(node / "mine", "system.posix_acl_access", text)
    except OSError as error:
        pytest.skip(f"no lists of users on this file system: {error}")
    assert is_mine(node / "mine") == (False, False)


def is_alone() -> bool:
    group = grp.getgrgid(os.getgid())
    return group.gr_name == pwd.getpwuid(os.getuid()).pw_name and len(group.gr_mem) == 0


def test_a_scratch_folder_that_is_there_for_more_keeps_its_mode(image: Image, node: Path) -> None:
    (node / "home").mkdir()
    (node / "home").chmod(0o755)
    used = stage(image, node / "home")
    assert used.parent == node / "home" / f"cxr-images-{os.getuid()}"
    assert (node / "home").stat().st_mode & 0o777 == 0o755


def test_a_disk_that_fills_meanwhile_is_no_failure(image: Image, node: Path) -> None:
    lines = ["cp() { head -c 10 > ${!#}; return 1; }", *prelude(image, f'"{node}"'), 'echo "${CXR_IMAGE_FILE:-none}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "none\n")
    assert "read where it lies" in done.stderr
