"""Files and iterators of any length through the Python client, beside the command line, devices and other libraries."""

import errno
import gc
import io
import itertools
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config

from cryptofs.client import Context, Refused, RequestError, decrypt_file, decrypt_pieces, encrypt_file, encrypt_pieces
from cryptofs.formats.sealed import MAGIC, SEGMENT

pytestmark = pytest.mark.mount

KEY = bytes(range(32))
HEADER = len(MAGIC) + 16
NAMES = {
    "ctr": ("skcipher", "ctr(aes)"),
    "cbc": ("skcipher", "cbc(aes)"),
    "ecb": ("skcipher", "ecb(aes)"),
    "gcm": ("aead", "gcm(aes)"),
    "rfc7539": ("aead", "rfc7539(chacha20,poly1305)"),
    "ccm": ("aead", "ccm(aes)"),
}
OWN = [name for name in NAMES if name != "ccm"]
SIZES = (0, 1, 15, 16, 17, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 1_300_001)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device of each kind, all with the one key."""
    directory = tmp_path_factory.mktemp("files")
    sections = [declare(name, *each, "{secret}") for name, each in NAMES.items()]
    with serving_config(directory, "".join(sections), secret=KEY) as daemon:
        yield daemon


@pytest.fixture
def own(mount: Path) -> Callable[[str], Context]:
    """Opens a context with the key."""
    return lambda name: Context(*NAMES[name], key=KEY, mount=mount)


@pytest.fixture
def device(mount: Path) -> Callable[[str], Context]:
    """Opens a context of a device."""
    return lambda name: Context.of_device(name, mount=mount)


def run(call: Callable[..., int], context: Context, data: Any, **more: Any) -> bytes:
    """What encrypt_file or decrypt_file writes; a bytes object is read as a file."""
    sink = io.BytesIO()
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    assert call(context, source, sink, **more) == len(sink.getvalue())
    return sink.getvalue()


def refused(number: int, call: Callable[[], object]) -> str:
    """The message of an error that must come."""
    with pytest.raises(RequestError) as caught:
        call()
    assert caught.value.errno == number
    return caught.value.message


@pytest.mark.parametrize("name", OWN)
def test_there_and_back(own: Callable[[str], Context], device: Callable[[str], Context], name: str) -> None:
    """All lengths around a segment; a device with the same key opens it, and the other way round."""
    with own(name) as mine, device(name) as theirs:
        for size in SIZES:
            data = os.urandom(size)
            for one, other in ((mine, theirs), (theirs, mine), (mine, mine)):
                assert run(decrypt_file, other, run(encrypt_file, one, data)) == data


def test_a_device_alone(device: Callable[[str], Context]) -> None:
    """ccm, whose nonces only a device lays out."""
    with device("ccm") as context:
        data = os.urandom(200_000)
        assert run(decrypt_file, context, run(encrypt_file, context, data)) == data


def test_the_formats(own: Callable[[str], Context]) -> None:
    """Another library makes the same of them."""
    data = os.urandom(700_001)
    with own("ctr") as context:
        sealed = run(encrypt_file, context, data)
        assert Cipher(AES(KEY), CTR(sealed[:16])).decryptor().update(sealed[16:]) == data
        assert run(encrypt_file, context, data, iv=sealed[:16]) == sealed[16:]
        assert run(decrypt_file, context, sealed[16:], iv=bytearray(sealed[:16])) == data
    with own("cbc") as context:
        sealed = run(encrypt_file, context, data)
        unpadder = padding.PKCS7(128).unpadder()
        clear = Cipher(AES(KEY), CBC(sealed[:16])).decryptor().update(sealed[16:])
        assert unpadder.update(clear) + unpadder.finalize() == data
        whole = data[:600_000]
        bare = run(encrypt_file, context, whole, iv=bytes(16), padding=False)
        assert Cipher(AES(KEY), CBC(bytes(16))).encryptor().update(whole) == bare
        assert run(decrypt_file, context, bare, iv=bytes(16), padding=False) == whole
    with own("gcm") as context:
        sealed = run(encrypt_file, context, data)
        assert sealed.startswith(MAGIC)
        identity, at, clear = sealed[len(MAGIC) : HEADER], HEADER, b""
        for index in range(11):
            segment = sealed[at : at + 12 + SEGMENT + 16]
            associated = identity + index.to_bytes(8, "big") + bytes([index == 10])
            clear += AESGCM(KEY).decrypt(segment[:12], segment[12:], associated)
            at += len(segment)
        assert clear == data


@pytest.mark.parametrize("name", ["cbc", "gcm"])
def test_any_pieces(own: Callable[[str], Context], name: str) -> None:
    """Iterators of bytes-like pieces of all sizes, none too, and files that read little at a time."""
    data = os.urandom(400_000)
    cuts = (0, 0, 1, 10, 10, 70_000, 270_002, 400_000)
    pieces = [memoryview(data)[begin:end] for begin, end in itertools.pairwise(cuts)]

    class Slow(io.RawIOBase):
        def __init__(self, text: bytes) -> None:
            self.inner = io.BytesIO(text)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 10_007))

    class Partial(io.RawIOBase):
        def __init__(self) -> None:
            self.taken = b""

        def write(self, text: Any) -> int:
            self.taken += bytes(text[:9_999])
            return min(len(text), 9_999)

    with own(name) as context:
        for source in (iter(pieces), pieces, Slow(data), (bytearray(piece) for piece in pieces)):
            sealed = b"".join(encrypt_pieces(context, source))
            assert run(decrypt_file, context, sealed) == data
            assert b"".join(decrypt_pieces(context, Slow(sealed))) == data
            assert (
                b"".join(decrypt_pieces(context, [sealed[at : at + 7919] for at in range(0, len(sealed), 7919)]))
                == data
            )
        partial = Partial()
        assert encrypt_file(context, pieces, partial) == len(partial.taken)
        assert run(decrypt_file, context, partial.taken) == data
        # the context is its own again when an iterator was left
        left = encrypt_pieces(context, pieces)
        next(left)
        del left
        assert run(decrypt_file, context, run(encrypt_file, context, b"x")) == b"x"


@pytest.mark.parametrize("open_", ["own", "device"])
def test_changes_are_noticed(open_: str, request: pytest.FixtureRequest) -> None:
    """Each segment is bound to its place; what comes before the change is given out, and nothing of it."""
    data = os.urandom(5 * SEGMENT + 100)
    step = 12 + SEGMENT + 16
    with request.getfixturevalue(open_)("gcm") as context:
        sealed = run(encrypt_file, context, data)
        segments = [sealed[at : at + step] for at in range(HEADER, len(sealed), step)]
        head = sealed[:HEADER]
        other = run(encrypt_file, context, data)
        flipped = bytearray(segments[2])
        flipped[100] ^= 1
        broken = {
            "a bit": (2, [*segments[:2], bytes(flipped), *segments[3:]]),
            "an end": (5, segments[:-1]),
            "a cut": (5, [*segments[:-1], segments[-1][:-1]]),
            "a cut in the nonce": (5, [*segments[:-1], segments[-1][:5]]),
            "a cut between": (3, segments[:3]),
            "a swap": (1, [segments[0], segments[2], segments[1], *segments[3:]]),
            "another file's": (4, [*segments[:4], other[HEADER + 4 * step : HEADER + 5 * step], segments[5]]),
            "a second one behind": (5, [*segments, *segments]),
            "a byte behind": (5, [*segments, b"x"]),
        }
        for what, (index, pieces) in broken.items():
            sink = io.BytesIO()
            with pytest.raises(RequestError) as caught:
                decrypt_file(context, [head, *pieces], sink)
            assert caught.value.errno == errno.EBADMSG, what
            assert f"segment {index}" in caught.value.message, what
            assert sink.getvalue() == data[: index * SEGMENT], what
        for begin in (b"", head[:-1], b"x" * HEADER):
            assert "not a file" in refused(errno.EBADMSG, lambda begin=begin: run(decrypt_file, context, begin))
        assert run(decrypt_file, context, sealed) == data


def test_what_is_refused(own: Callable[[str], Context], mount: Path) -> None:
    """Before anything is written: an IV for segments, a mode that cannot; and sources that are none."""
    sink = io.BytesIO()
    with own("gcm") as context:
        refused(errno.EINVAL, lambda: encrypt_file(context, io.BytesIO(b""), sink, iv=bytes(12)))
        for wrong in (b"bytes", "text"):
            with pytest.raises(TypeError, match="source: a file object or an iterator"):
                list(encrypt_pieces(context, wrong))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"what source\.read gave: a bytes-like object"):
            list(encrypt_pieces(context, io.StringIO("text")))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a piece of source: a bytes-like object"):
            list(encrypt_pieces(context, [b"a", 5]))  # type: ignore[list-item]
    with Context("aead", "ccm(aes)", key=KEY, mount=mount) as context:
        assert "use gcm" in refused(errno.EINVAL, lambda: encrypt_file(context, io.BytesIO(b""), sink))
    with own("cbc") as context:
        assert "begins with an iv" in refused(errno.EINVAL, lambda: run(decrypt_file, context, bytes(15)))
        with pytest.raises(Refused, match="padding"):
            run(decrypt_file, context, bytes(48))
        refused(errno.EINVAL, lambda: run(encrypt_file, context, bytes(17), padding=False))
    assert not sink.getvalue()


@pytest.mark.parametrize("name", ["ctr", "gcm"])
def test_memory_is_constant(own: Callable[[str], Context], name: str) -> None:
    """60 MB go through without ever being held."""
    piece = bytes(100_000)

    class Discard:
        total = 0

        def write(self, data: bytes) -> int:
            self.total += len(data)
            return len(data)

    sink = Discard()
    with own(name) as context:
        tracemalloc.start()
        # what only the collector would free is held, too
        gc.disable()
        try:
            written = encrypt_file(context, (piece for _ in range(600)), sink)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            gc.enable()
            tracemalloc.stop()
    assert written == sink.total > 60_000_000
    assert peak < 16 * 1024 * 1024
