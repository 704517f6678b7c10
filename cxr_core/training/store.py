"""What ranks tell each other before and beside their tensors: keys and values that rank 0 keeps, over TCP.

torch's own TCPStore believes whoever connects. Here both ends show first that they know the secret of the attempt,
each by an HMAC over two fresh nonces, and every message after that carries one too. Who does not know the secret
learns a random number, changes nothing, and is counted. Messages are JSON: nothing that is read here can be code.
"""

import hmac
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from cxr_core.errors import UserError

_NONCE = _MAC = 32
_LONGEST = 1 << 24
"""Bytes of a message. What is told here is addresses, orders and digests."""
_GREETING_SECONDS = 5.0
_MOST_GREETINGS = 64
"""Connections that may be undecided at a time; a further one is closed, and a rank tries again."""
_SLOWEST = 0.2
_ANSWER_SECONDS = 60.0
"""Beside the time that a question itself may wait: after it, rank 0 or the way to it counts as gone."""


class KeyValueTable:
    """The keys and values, in rank 0. Every method may be called by several threads; those that wait return None or
    False after so many seconds."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, seconds: float) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: key in self._values, seconds)
            return self._values.get(key)

    def share(self, key: str, num_readers: int, seconds: float) -> str | None:
        """As `get`; the last of so many readers removes it."""
        with self._changed:
            value = self.get(key, seconds)
            if value is not None and self.add(f"{key}/read", 1) == num_readers:
                del self._values[key], self._values[f"{key}/read"]
            return value

    def wait(self, keys: list[str], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: all(key in self._values for key in keys), seconds)

    def check(self, keys: list[str]) -> bool:
        return self.wait(keys, 0)

    def add(self, key: str, number: int) -> int:
        with self._changed:
            total = int(self._values.get(key, "0")) + number
            self.set(key, str(total))
            return total

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        with self._changed:
            if self._values.get(key, "") == expected:
                self.set(key, desired)
            return self._values.get(key, expected)

    def delete_key(self, key: str) -> bool:
        with self._changed:
            return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)


_VERBS = ("set", "get", "share", "wait", "check", "add", "compare_set", "delete_key", "num_keys")


class Server:
    """Serves a table at an address of this machine; `strangers` is called with their number and the last one's
    address when that number has doubled, so that no log is filled by them."""

    def __init__(self, table: KeyValueTable, secret: bytes, host: str, strangers: Callable[[int, str], None]) -> None:
        self._table, self._secret, self._strangers = table, secret, strangers
        self._num_strangers = 0
        self._greetings = threading.Semaphore(_MOST_GREETINGS)
        self._listener = socket.create_server((host, 0), family=_family(host), backlog=128)
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:  # it went away meanwhile, or there are too many open files
                time.sleep(_SLOWEST)
                continue
            if self._greetings.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                line = self._greet(connection)
            except (OSError, ValueError):
                self._count(peer)
                return
            finally:
                self._greetings.release()
            with suppress(OSError, ValueError):  # the rank has ended
                while True:
                    verb, *given = line.receive()
                    if verb not in _VERBS:
                        raise ValueError(verb)
                    line.send(getattr(self._table, verb)(*given))

    def _greet(self, connection: socket.socket) -> "_Line":
        """Raises OSError or ValueError if the other end does not know the secret, or says nothing."""
        deadline = time.monotonic() + _GREETING_SECONDS
        ours = os.urandom(_NONCE)
        connection.settimeout(_GREETING_SECONDS)
        connection.sendall(ours)
        answer = _exactly(connection, _NONCE + _MAC, deadline)
        nonces = ours + answer[:_NONCE]
        _check(answer[_NONCE:], _proof(self._secret, b"rank", nonces))
        connection.sendall(_proof(self._secret, b"server", nonces))
        return _Line(connection, _proof(self._secret, b"session", nonces), b"s", b"r")

    def _count(self, peer: str) -> None:
        self._num_strangers += 1
        if not self._num_strangers & (self._num_strangers - 1):
            self._strangers(self._num_strangers, peer)


def connect(hosts: Sequence[str], port: int, secret: bytes, seconds: float) -> "_Line":
    """A connection to a server that knows the secret. Raises UserError if within so many seconds none is reached."""
    deadline, why = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        for host in hosts:
            try:
                return _introduce(socket.create_connection((host, port), _GREETING_SECONDS), secret)
            except (OSError, ValueError) as error:
                why = str(error)
        time.sleep(_SLOWEST)
    raise UserError(
        f"rank 0 is not reached within {seconds:.0f} s ({why})",
        where=f"{' or '.join(hosts)}, port {port}, from {socket.gethostname()}",
        hint="the nodes must reach each other by TCP: ask the site about a firewall between them",
    )


def _introduce(connection: socket.socket, secret: bytes) -> "_Line":
    try:
        deadline = time.monotonic() + _GREETING_SECONDS
        theirs, ours = _exactly(connection, _NONCE, deadline), os.urandom(_NONCE)
        connection.sendall(ours + _proof(secret, b"rank", theirs + ours))
        _check(_exactly(connection, _MAC, deadline), _proof(secret, b"server", theirs + ours))
        return _Line(connection, _proof(secret, b"session", theirs + ours), b"r", b"s")
    except BaseException:
        connection.close()
        raise


class _Line:
    """A connection whose ends know each other. A message is its length, its JSON, and an HMAC that also covers who
    sent it and how many there were before: none can be altered, left out, repeated or sent back."""

    def __init__(self, connection: socket.socket, key: bytes, ours: bytes, theirs: bytes) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connection, self._key = connection, key
        self._ours, self._theirs, self._num_sent, self._num_received = ours, theirs, 0, 0

    def send(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self._connection.sendall(len(text).to_bytes(4) + text + self._mac(self._ours, self._num_sent, text))
        self._num_sent += 1

    def ask(self, question: Any, seconds: float) -> Any:
        """The answer. Raises as `receive` does, and TimeoutError if there is none within so many seconds."""
        self._connection.settimeout(seconds)
        self.send(question)
        return self.receive()

    def receive(self) -> Any:
        """Raises ConnectionError if the other end is gone, and ValueError if the message is not its."""
        size = int.from_bytes(_exactly(self._connection, 4))
        if size > _LONGEST:
            raise ValueError(f"a message of {size:,} bytes")
        message = _exactly(self._connection, size + _MAC)
        _check(message[size:], self._mac(self._theirs, self._num_received, message[:size]))
        self._num_received += 1
        return json.loads(message[:size])

    def _mac(self, sender: bytes, number: int, text: bytes) -> bytes:
        return _proof(self._key, sender, number.to_bytes(8) + text)


class RankStore(dist.Store):
    """What torch's process groups take for a store. `table` is rank 0's own; others reach it by `dial`.

    Values are bytes to torch, and Latin-1 text in JSON. A connection serves one caller at a time, so that one thread
    that waits for a key holds up no other.
    """

    def __init__(
        self, patience: timedelta, *, table: KeyValueTable | None = None, dial: Callable[[], _Line] | None = None
    ):
        super().__init__()
        self.set_timeout(patience)
        self._patience, self._table, self._dial = patience.total_seconds(), table, dial
        self._idle: list[_Line] = []

    def set(self, key: str, value: str | bytes) -> None:
        self._ask("set", key, _text(value))

    def get(self, key: str) -> bytes:
        return self._told(key, self._ask("get", key, self._patience))

    def share(self, key: str, num_readers: int) -> bytes:
        """As `get`, of a value that is removed when so many have read it."""
        return self._told(key, self._ask("share", key, num_readers, self._patience))

    def _told(self, key: str, value: str | None) -> bytes:
        if value is None:
            raise dist.DistStoreError(f"nothing was said under {key} for {self._patience:.0f} s")
        return bytes(value, "latin-1")

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        seconds = timeout.total_seconds() if timeout else self._patience
        if not self._ask("wait", keys, seconds):
            raise dist.DistStoreError(f"nothing was said under {', '.join(keys)} for {seconds:.0f} s")

    def add(self, key: str, value: int) -> int:
        return int(self._ask("add", key, value))

    def check(self, keys: list[str]) -> bool:
        return bool(self._ask("check", keys))

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        return bytes(self._ask("compare_set", key, _text(expected_value), _text(desired_value)), "latin-1")

    def delete_key(self, key: str) -> bool:
        return bool(self._ask("delete_key", key))

    def num_keys(self) -> int:
        return int(self._ask("num_keys"))

    def clone(self) -> "RankStore":
        return self

    def _ask(self, verb: str, *given: Any) -> Any:
        if self._table:
            return getattr(self._table, verb)(*given)
        assert self._dial is not None
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._dial()
        waits = given[-1] if verb in ("get", "share", "wait") else 0.0
        try:
            answer = line.ask([verb, *given], waits + _ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            raise dist.DistNetworkError(f"rank 0, which keeps what ranks say, is gone ({error})") from error
        self._idle.append(line)
        return answer


def bind_address(host: str) -> str:
    """The address of this machine on which to listen for those that call it `host`: the one of that name, but all
    where its own table of hosts gives the name a loopback address, which is none to other machines."""
    address = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    return "" if ipaddress.ip_address(address.split("%")[0]).is_loopback and host != address else address


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _proof(key: bytes, who: bytes, what: bytes) -> bytes:
    return hmac.digest(key, who + b"\0" + what, "sha256")


def _check(found: bytes, wanted: bytes) -> None:
    if not hmac.compare_digest(found, wanted):
        raise ValueError("who is there does not know the secret of these ranks")


def _exactly(connection: socket.socket, size: int, deadline: float | None = None) -> bytes:
    """So many bytes. Raises ConnectionError at the end of the stream, and TimeoutError after the deadline."""
    parts, missing = [], size
    while missing:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            raise ConnectionError("the connection was closed")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
