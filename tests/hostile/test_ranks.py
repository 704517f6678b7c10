"""What another user of a node can do to ranks that train there: connect to them, and write where they meet."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from cxr_core.errors import UserError
from cxr_core.runs.door import BadFileError
from cxr_core.runs.private import PrivatePlace
from cxr_core.training import store
from cxr_core.training.rendezvous import GROUP, OVER, SECRET, Heard, Meeting, Order, log_name, preflights, published
from cxr_core.training.store import KeyValueTable, RankStore, Server, bind_address, connect
from tests.hostile.strange_user import UID, as_stranger, needs_root, open_folder

KEY = b"k" * 32
LOOPBACK = "127.0.0.1"

PREFLIGHT = {
    "format": 1,
    "ranks": 2,
    "nodes": 1,
    "mib": 4,
    "seconds": 0.1,
    "gib_per_second": 1.0,
    "transport": "gloo, TCP",
}


@dataclass
class Host:
    """A server, what it keeps, and what it was told of strangers."""

    table: KeyValueTable = field(default_factory=KeyValueTable)
    strangers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table.set("kept", "value")
        self.server = Server(self.table, KEY, LOOPBACK, lambda num, last: self.strangers.append(num))

    def rank(self, key: bytes = KEY, port: int | None = None, seconds: float = 10) -> RankStore:
        reached = port or self.server.port
        return RankStore(timedelta(seconds=5), dial=lambda: connect([LOOPBACK], reached, key, seconds))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(store, "_GREETING_SECONDS", 0.5)
    return Host()


@pytest.fixture
def shared() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


# ---- Who connects


RANK_0 = """
import sys, os
from pathlib import Path
import torch.distributed as dist
from cxr_core.training.ranks_settings import Ranks
from cxr_core.training.rendezvous import RankPlace
from cxr_core.training.world import join, preflight
place = RankPlace(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[2]), 2, 2)
ranks = Ranks(per_node=2, all_reduce_mib=1, collective_minutes=3)
world = join(place, ranks, lambda step: None, lambda num, last: print("strangers:", num, last, flush=True))
preflight(place, ranks, world)
print(world.broadcast({"said": [1, None, "x"]} if world.rank == 0 else None), flush=True)
for ask in (lambda: dist.all_gather_object([None, None], 1), lambda: dist.gather_object(1, dst=1 - world.rank)):
    try:
        ask()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
sys.stdin.read()
dist.destroy_process_group()
world.leave()
"""

STRANGER = """
import os, sys, threading
from datetime import timedelta
import torch.distributed as dist
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
class Evil:
    def __reduce__(self):
        return os.system, (f"id -u >> {sys.argv[2]}",)
def join(port):
    try:
        store = dist.TCPStore("127.0.0.1", int(port), 2, is_master=False, timeout=timedelta(seconds=3))
        dist.init_process_group("gloo", store=store, rank=1, world_size=2, timeout=timedelta(seconds=5))
        dist.all_gather_object([None, None], Evil())
        print("joined", flush=True)
    except Exception as error:
        print("refused", flush=True)
for port in sys.argv[3:]:
    attempt = threading.Thread(target=join, args=(port,), daemon=True)
    attempt.start()
    attempt.join(8)
os._exit(0)
"""


def listening(process: int) -> dict[int, str]:
    """The TCP ports on which a process listens, with the address in the kernel's hexadecimal."""
    held = {str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir() if path.is_symlink()}
    rows = (row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:])
    found = [row[1].rsplit(":", 1) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held]
    return {int(port, 16): address for address, port in found}


@needs_root
def test_a_stranger_who_scans_the_ports_joins_no_ranks_and_runs_no_code(shared: Path) -> None:
    meeting, ran = Meeting.call(shared / "ranks"), shared / "ran"
    ran.touch()
    ran.chmod(0o666)

    def rank(number: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", RANK_0, str(meeting.path), str(number)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first = rank(0)
    try:
        meeting.wait_for("address.json", Any, 120)
        ports = list(listening(first.pid))
        assert ports
        stranger = [sys.executable, "-c", STRANGER, str(UID), str(ran), *map(str, ports)]
        told = subprocess.run(stranger, capture_output=True, text=True, timeout=120, check=True)
        assert "joined" not in told.stdout
        second = rank(1)
        try:
            assert first.stdout is not None
            lines = [first.stdout.readline() for _ in range(6)]
            said = [line for line in lines if not line.startswith(("strangers:", " ", "\n"))]
            assert any(line.startswith("strangers: 1 127.0.0.1") for line in lines), lines
            assert "{'said': [1, None, 'x']}\n" in said
            assert sum("would send a Python object from one rank to another" in line for line in said) >= 1
            # All of it is closed to other machines.
            for process in (first, second):
                addresses = listening(process.pid).values()
                assert addresses
                assert set(addresses) == {"0100007F"}
            assert "strangers" not in second.communicate("", 60)[0]
        finally:
            second.kill()
        first.communicate("", 60)
        assert (first.returncode, second.returncode) == (0, 0)
    finally:
        first.kill()
    assert f"{os.geteuid()}\n" not in ran.read_text()


def speak(port: int, say: Callable[[bytes], bytes]) -> bytes:
    """What a stranger hears who says this to the server's greeting, until it is left alone."""
    heard = b""
    with socket.create_connection((LOOPBACK, port), 5) as connection:
        heard += connection.recv(1 << 16)
        connection.sendall(say(heard))
        try:
            while part := connection.recv(1 << 16):
                heard += part
        except ConnectionError:
            pass
    return heard


@pytest.mark.parametrize(
    "say",
    [
        lambda greeting: b"",
        lambda greeting: b"GET / HTTP/1.1\r\n\r\n",
        lambda greeting: b"\0" * 64,
        lambda greeting: greeting * 2,
        lambda greeting: b"\xff" * (1 << 20),
        lambda greeting: os.urandom(32) + store._proof(b"x" * 32, b"rank", greeting),
        lambda greeting: greeting + store._proof(b"", b"rank", greeting + greeting),
        lambda greeting: b'["set", "kept", "evil"]',
    ],
    ids=["silence", "http", "zeros", "reflected", "a MiB", "wrong secret", "no secret", "json"],
)
def test_a_stranger_hears_a_random_number_changes_nothing_and_is_counted(
    host: Host, say: Callable[[bytes], bytes]
) -> None:
    assert len(speak(host.server.port, say)) == len(os.urandom(32))
    assert host.rank().get("kept") == b"value"
    assert host.rank().num_keys() == 1
    assert host.strangers == [1]


def test_a_crowd_of_strangers_keeps_no_rank_out_and_fills_no_log(host: Host) -> None:
    crowd = [socket.create_connection((LOOPBACK, host.server.port)) for _ in range(200)]
    assert host.rank(seconds=20).get("kept") == b"value"
    for connection in crowd:
        connection.close()
    assert len(host.strangers) <= 8
    assert host.strangers == [1 << power for power in range(len(host.strangers))]


def between(host: Host, change: Callable[[int, bytes], bytes]) -> tuple[int, list[bytes]]:
    """Somebody in the middle, who changes what a rank sends, chunk by chunk. Returns its port, and what went by."""
    listener, seen = socket.create_server((LOOPBACK, 0)), []

    def carry() -> None:
        rank, _ = listener.accept()
        server = socket.create_connection((LOOPBACK, host.server.port))

        def back() -> None:
            try:
                while part := server.recv(1 << 16):
                    rank.sendall(part)
            except OSError:
                pass
            rank.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=back, daemon=True).start()
        try:
            while part := rank.recv(1 << 16):
                seen.append(part)
                server.sendall(change(len(seen), part))
        except OSError:
            pass
        server.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=carry, daemon=True).start()
    return listener.getsockname()[1], seen


@pytest.mark.parametrize(
    "change",
    [
        lambda number, part: part.replace(b"good", b"evil"),
        lambda number, part: part * (1 + (number > 1)),
        lambda number, part: part[:-1] + bytes([part[-1] ^ 1]) if number > 1 else part,
    ],
    ids=["altered", "repeated", "false proof"],
)
def test_what_is_changed_on_the_way_is_not_believed(host: Host, change: Callable[[int, bytes], bytes]) -> None:
    port, _ = between(host, change)
    with suppress(dist.DistNetworkError):
        host.rank(port=port).add("good", 1)
        time.sleep(0.2)
    assert not host.rank().check(["evil"])
    assert not host.rank().check(["good"]) or host.rank().get("good") == b"1"


def test_what_a_rank_said_once_is_not_believed_again(host: Host) -> None:
    port, seen = between(host, lambda number, part: part)
    host.rank(port=port).set("good", "1")
    host.rank().delete_key("good")
    speak(host.server.port, lambda greeting: b"".join(seen))
    assert not host.rank().check(["good"])
    assert host.strangers == [1]


def test_a_rank_believes_no_server_that_does_not_know_the_secret(host: Host) -> None:
    other = Server(KeyValueTable(), b"x" * 32, LOOPBACK, lambda num, last: None)
    with pytest.raises(UserError, match="rank 0 is not reached within 1 s"):
        host.rank(port=other.port, seconds=1).get("kept")
    with pytest.raises(UserError, match=rf"port {host.server.port}, from "):
        host.rank(b"y" * 32, seconds=1).set("kept", "evil")
    assert host.rank().get("kept") == b"value"


def test_where_a_name_is_a_loopback_address_to_its_own_machine_alone_others_can_connect() -> None:
    assert bind_address(LOOPBACK) == LOOPBACK
    try:
        socket.getaddrinfo("localhost", None)
    except OSError as error:
        pytest.skip(f"this machine does not know the name localhost: {error}")
    assert bind_address("localhost") == ""


def test_no_module_of_training_reads_or_writes_pickles() -> None:
    for path in Path(store.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert not re.search(
            r"\bimport pickle|(all_gather|gather|scatter)_object|broadcast_object|torch\.load", text
        ), path


# ---- Who writes where ranks meet


@needs_root
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o027])
def test_the_folder_is_closed_to_all_others_whatever_the_umask(shared: Path, umask: int) -> None:
    shared.chmod(0o2777)
    before = os.umask(umask)
    try:
        meeting = Meeting.call(shared / "ranks")
        meeting.put("order.json", Order(1))
        meeting.end()
    finally:
        os.umask(before)
    assert meeting.path.stat().st_mode & 0o777 == 0o700
    assert (meeting.path / SECRET).stat().st_mode & 0o777 == 0o600
    for act in (
        lambda: (meeting.path / SECRET).read_text(),
        lambda: (meeting.path / "order.json").read_text(),
        lambda: (meeting.path / "new").touch(),
        lambda: (meeting.path / "order.json").rename(shared / "taken"),
        lambda: (meeting.path / OVER).unlink(),
        lambda: list(meeting.path.iterdir()),
    ):
        assert as_stranger(act) == "PermissionError"


@needs_root
def test_a_folder_of_another_user_or_a_link_is_refused_and_named(shared: Path) -> None:
    shared.chmod(0o777)
    as_stranger(lambda: (shared / "ranks").mkdir())
    (shared / "victim").mkdir(mode=0o700)
    (shared / "victim" / "kept").touch()
    as_stranger(lambda: (shared / "link").symlink_to(shared / "victim"))
    for name, words in (("ranks", f"a folder of user {UID}, not of 0"), ("link", "a link")):
        for act in (
            lambda folder: Meeting.call(folder),
            lambda folder: Meeting.at(folder).make(),
            lambda folder: Meeting.at(folder).get(GROUP, Any),
            lambda folder: Meeting.at(folder).has(OVER),
            lambda folder: Meeting.at(folder).put("rank-0.json", Heard(0.0, "h", 1)),
            lambda folder: Meeting.at(folder).log(0),
            lambda folder: Meeting.at(folder).end(),
        ):
            with pytest.raises(BadFileError, match=words) as raised:
                act(shared / name)
            assert name in raised.value.where
    assert [path.name for path in (shared / "victim").iterdir()] == ["kept"]
    assert (shared / "victim").stat().st_mode & 0o777 == 0o700


@needs_root
def test_what_others_of_the_group_put_in_before_is_removed_and_not_believed(shared: Path) -> None:
    folder = shared / "ranks"
    folder.mkdir()
    folder.chmod(0o777)  # as the batch shell makes it, where the umask is 002
    (shared / "victim").write_text("kept")

    def plant() -> None:
        (folder / GROUP).write_text("{}")
        (folder / OVER).touch()
        (folder / SECRET).write_bytes(b"x" * 32)
        (folder / log_name(1)).symlink_to(shared / "victim")
        (folder / "order.json").mkdir()
        os.mkfifo(folder / "rank-0.json")

    assert as_stranger(plant) is None
    unprotected = PrivatePlace.at(folder)
    with pytest.raises(BadFileError, match=r"open to other users \(mode 777\)"):
        unprotected.has(OVER)
    follower = Meeting.at(folder).make()
    assert (follower.has(GROUP), follower.is_over, list(folder.iterdir())) == (False, False, [])
    with os.fdopen(follower.log(1), "w") as log:
        log.write("said")
    assert (shared / "victim").read_text() == "kept"
    meeting = Meeting.call(folder)
    assert meeting.secret not in (b"x" * 32, b"\0" * 32)


@needs_root
def test_a_file_of_another_user_or_a_second_name_of_ones_own_is_not_read(shared: Path) -> None:
    meeting = Meeting.call(shared / "ranks")
    meeting.put("order.json", Order(7))
    os.link(meeting.path / "order.json", shared / "second")
    meeting.put(GROUP, {"format": 1})
    os.chown(meeting.path / GROUP, UID, UID)
    for name in ("order.json", GROUP):
        with pytest.raises(BadFileError, match="of another user, or known by a second name"):
            meeting.get(name, Any)
    assert not meeting.has(GROUP)
    meeting.put("order.json", Order(8))
    assert meeting.get("order.json", Order) == Order(8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"number": "2"}', "number"),
        ('{"number": 1, "shard": {"id": 1, "start": 0, "stop": 2}}', "shard.id"),
        ('{"number": NaN}', "damaged"),
        ("[" * 100_000, "recursion"),
        ("null", "damaged"),
        ('{"number": 1, "code": "x"}', "code"),
    ],
)
def test_a_message_that_is_none_is_named_with_the_value(tmp_path: Path, text: str, words: str) -> None:
    meeting = Meeting.call(tmp_path / "ranks")
    meeting.write("order.json", text)
    with pytest.raises(BadFileError, match=words) as raised:
        meeting.get("order.json", Order)
    assert raised.value.path == tmp_path / "ranks" / "order.json"


# ---- Who reads a run of others


def test_one_bad_record_of_ranks_hides_no_other(tmp_path: Path) -> None:
    for number, text in enumerate(
        (json.dumps(PREFLIGHT), "null", '{"ranks": NaN}', json.dumps(PREFLIGHT | {"ranks": 4}))
    ):
        folder = tmp_path / "attempts" / str(number) / "ranks"
        folder.mkdir(parents=True)
        (folder / "preflight.json").write_text(text)
    (tmp_path / "attempts" / "pipe" / "ranks").mkdir(parents=True)
    os.mkfifo(tmp_path / "attempts" / "pipe" / "ranks" / "preflight.json")
    (tmp_path / "attempts" / "link").symlink_to("/")
    (tmp_path / "submits").touch()
    assert [about["ranks"] for about in preflights(tmp_path)] == [2, 4]


@needs_root
def test_a_colleague_reads_what_the_ranks_measured_and_nothing_else_of_their_folder(shared: Path) -> None:
    attempt = shared / "attempts" / "1"
    meeting = Meeting.call(attempt / "ranks")
    meeting.put("preflight.json", PREFLIGHT)
    assert as_stranger(lambda: preflights(shared)) == []
    published(meeting.path).write_text(json.dumps(PREFLIGHT))
    assert as_stranger(lambda: [about["ranks"] for about in preflights(shared)]) == [2]
    assert [about["ranks"] for about in preflights(shared)] == [2]
