"""What the Python client sends by ioctl and what it writes: nothing is done twice, and no part is taken for a whole."""

import contextlib
import errno
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryptofs.client import Context, RequestError
from cryptofs.records import Flag, Operation, Record

pytestmark = pytest.mark.mount


@contextlib.contextmanager
def signals_every(seconds: float) -> Iterator[list[int]]:
    """A handler that does nothing is called all the time; gives the list of its calls."""
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_key_is_made_once_whatever_signals_come(mount: Path) -> None:
    """A call that a signal ends may have made the key: the client must not ask for a second one, which is EBUSY."""
    for _ in range(3):
        with Context("sig", "pkcs1(rsa,sha256)", mount=mount) as context, signals_every(0.01) as came:
            public = context.generate_key(3072)
            assert public == context.public_key()
        assert came


def test_signals_that_come_all_the_time_do_not_keep_a_request_from_its_end(mount: Path) -> None:
    """A signature takes longer than the time between two signals."""
    with Context("sig", "pkcs1(rsa,sha256)", mount=mount) as context:
        context.generate_key(4096)
        digest = hashlib.sha256(b"message").digest()
        with signals_every(0.001) as came:
            signatures = [context.sign(digest) for _ in range(10)]
        assert len(came) > 10
        assert context.verify(signatures[0], digest)
        assert len(set(signatures)) == 1
        assert os.pread(context.fileno(), 4096, 0) == b"", "no answer is left behind"


def test_a_last_part_that_was_refused_is_a_part_still(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent again it ends its message, and is not taken for a message of its own."""

    def refuse(*arguments: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with Context("hash", "sha256", mount=mount) as context:
        identity = context.new_id()
        context.request(Record(Operation.DIGEST, Flag.MORE, identity, payload=b"one "))
        last = Record(Operation.DIGEST, 0, identity, payload=b"message")
        with monkeypatch.context() as patch:
            patch.setattr("cryptofs.client.context.write_record", refuse)
            with pytest.raises(RequestError) as caught:
                context.request(last)
            assert caught.value.errno == errno.EAGAIN
        assert bytes(context.request(last, 32).payload) == hashlib.sha256(b"one message").digest()
        assert bytes(context.request(last, 32).payload) == hashlib.sha256(b"message").digest()
