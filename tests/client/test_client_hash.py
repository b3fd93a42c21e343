"""Hash objects of the Python client, beside hashlib's."""

import concurrent.futures
import errno
import gc
import hashlib
import hmac
import io
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.waiting import wait_until

from cryptofs.client import ClosedError, Context, ForkedError, Hash, RequestError, new
from cryptofs.client.hashing import BATCH

pytestmark = pytest.mark.mount

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device that makes MACs."""
    directory = tmp_path_factory.mktemp("hash")
    text = declare("mac", "hash", "hmac(sha256)", "{secret}") + declare("seal", "aead", "gcm(aes)", "{secret}")
    with serving_config(directory, text, secret=KEY) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def nothing_kept(nothing_left_behind: None) -> Iterator[None]:
    """The traceback of an expected error keeps what it saw until the collector comes."""
    yield
    gc.collect()


@pytest.fixture
def sha256(mount: Path) -> Iterator[Callable[[], Hash]]:
    """Makes hash objects; afterwards all of their contexts are closed, and none has warned."""
    before = set(os.listdir(mount / "contexts"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield lambda: new("sha256", mount=mount)
        gc.collect()
    wait_until(lambda: not set(os.listdir(mount / "contexts")) - before)


def test_attributes(mount: Path) -> None:
    """What hashlib's objects have."""
    for name, twin in (("sha256", hashlib.sha256()), ("sha512", hashlib.sha512()), ("sha3-256", hashlib.sha3_256())):
        found = new(name, b"abc", mount=mount)
        twin.update(b"abc")
        assert (found.name, found.digest_size, found.block_size) == (name, twin.digest_size, twin.block_size)
        assert (found.digest(), found.hexdigest()) == (twin.digest(), twin.hexdigest())


def test_any_pieces(sha256: Callable[[], Hash]) -> None:
    """Updates of all sizes around the batch, digests in between, copies that go their own way."""
    draw = random.Random(1)
    sizes = (0, 1, 63, 64, 1000, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 5, 1_100_000)
    for _ in range(4):
        pairs = [(sha256(), hashlib.sha256())]
        for _ in range(12):
            mine, theirs = draw.choice(pairs)
            piece = draw.randbytes(draw.choice(sizes))
            mine.update(piece)
            theirs.update(piece)
            if draw.random() < 0.4:
                pairs.append((mine.copy(), theirs.copy()))
            if draw.random() < 0.4:
                assert mine.digest() == theirs.digest()
        for mine, theirs in pairs:
            assert mine.hexdigest() == theirs.hexdigest()
            assert mine.hexdigest() == theirs.hexdigest()


def test_file_digest(sha256: Callable[[], Hash], tmp_path: Path) -> None:
    """hashlib.file_digest takes them, for files, unbuffered files and memory."""
    data = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    with (tmp_path / "f").open("rb") as file:
        assert hashlib.file_digest(file, sha256).hexdigest() == expected  # type: ignore[arg-type]
    with (tmp_path / "f").open("rb", buffering=0) as file:
        assert hashlib.file_digest(file, sha256).hexdigest() == expected  # type: ignore[arg-type]
    assert hashlib.file_digest(io.BytesIO(data), sha256).hexdigest() == expected  # type: ignore[arg-type]


def test_in_hmac(sha256: Callable[[], Hash]) -> None:
    """Python's own HMAC builds on them: it needs block_size, copy and digest."""
    mac = hmac.new(b"key", b"text", sha256)  # type: ignore[arg-type]
    assert mac.digest() == hmac.digest(b"key", b"text", "sha256")


def test_keys(mount: Path) -> None:
    """A key of the caller's, and a device's that the caller does not see; copies carry it."""
    for made in (new("hmac(sha256)", key=KEY, mount=mount), Hash.of_device("mac", mount=mount)):
        with made as mine:
            theirs = hmac.new(KEY, digestmod="sha256")
            for size in (10, BATCH, 10):
                mine.update(bytes(size))
                theirs.update(bytes(size))
                assert mine.copy().digest() == mine.digest() == theirs.digest()
    with pytest.raises(RequestError) as caught:
        new("hmac(sha256)", mount=mount).digest()
    assert caught.value.errno == errno.ENOKEY
    with pytest.raises(RequestError, match="type aead") as caught:
        Hash.of_device("seal", mount=mount)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_small_updates_share_requests(mount: Path) -> None:
    """100,000 updates of ten bytes are a handful of requests."""
    with Context("hash", "sha256", mount=mount) as context:
        made = Hash(context)
        theirs = hashlib.sha256()
        for n in range(100_000):
            piece = b"%010d" % n
            made.update(piece)
            theirs.update(piece)
        assert made.digest() == theirs.digest()
        assert int(context.status()["completed"]) < 10


def test_dropped_copies_leave_no_messages(sha256: Callable[[], Hash]) -> None:
    """More copies one after the other than may be open at a time; and the error of too many at once."""
    made = sha256()
    made.update(bytes(BATCH))
    expected = hashlib.sha256(bytes(BATCH) + b"x").digest()
    for _ in range(300):
        copied = made.copy()
        copied.update(b"x")
    assert copied.digest() == expected
    with pytest.raises(RequestError) as caught:
        [made.copy() for _ in range(300)]
    assert caught.value.errno == errno.EDQUOT
    del copied
    with made.copy() as copied:
        copied.update(b"x")
        assert copied.digest() == expected


def test_threads(sha256: Callable[[], Hash]) -> None:
    """Each update goes in whole: eight threads give the digest of some order, which equal pieces make one."""
    made = sha256()
    piece = bytes(range(256)) * 2000
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(made.update, piece) for _ in range(24)]:
            each.result(30)
    assert made.digest() == hashlib.sha256(piece * 24).digest()


def test_closed_and_forked(sha256: Callable[[], Hash]) -> None:
    """Both are errors of their own; a copy outlives the original."""
    made = sha256()
    made.update(bytes(2 * BATCH))
    copied = made.copy()
    made.close()
    made.close()
    for call in (made.digest, made.copy, lambda: made.update(b"")):
        with pytest.raises(ClosedError):
            call()
    child = os.fork()
    if not child:
        status = 1
        try:
            for call in (copied.digest, copied.copy, lambda: copied.update(b"")):
                with pytest.raises(ForkedError):
                    call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert copied.digest() == hashlib.sha256(bytes(2 * BATCH)).digest()


def test_no_digest_of_a_part(mount: Path) -> None:
    """After an update that failed every call fails, though the daemon would answer."""
    context = Context("hash", "sha256", mount=mount)
    with Hash(context, bytes(BATCH)) as made:
        made.update(b"more")
        # the one message that is open has the last id that was given
        (context.directory / "ctl").write_text(f"cancel target={context.new_id() - 1}")
        for call in (lambda: made.update(bytes(BATCH)), made.digest, made.copy, lambda: made.update(bytes(BATCH))):
            with pytest.raises(RequestError) as caught:
                call()
            assert caught.value.errno == errno.ECANCELED


def test_wrong_arguments(mount: Path) -> None:
    """They are refused, and the state stays."""
    made = new("sha256", b"a", mount=mount)
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            made.update(wrong)  # type: ignore[arg-type]
    assert made.digest() == hashlib.sha256(b"a").digest()
    with pytest.raises(RequestError):
        new("nosuch", mount=mount)
