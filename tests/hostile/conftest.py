"""An attack that succeeds must not take the machine with it."""

import resource
import signal
from collections.abc import Iterator

import pytest

_SECONDS = 120
_BYTES = 8 << 30


@pytest.fixture
def bounded() -> Iterator[None]:
    """Memory and time of a test end where an endless file or a pipe without a writer would eat them."""

    def ring(number: int, frame: object) -> None:
        pytest.fail(f"hung for {_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, hard))
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
