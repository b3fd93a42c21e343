"""Large data on the real mount: a quarter of a GiB through a stream and in parts, with the daemon's memory flat."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from helpers.daemons import Daemon
from helpers.machine import IN_GUEST

from cryptofs.client import Context
from cryptofs.records import PAYLOAD_MAX, Operation

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(900)]

# the guest computes on one slow processor: there the same way is gone with less
SIZE = (64 if IN_GUEST else 256) * 1024 * 1024
GROWTH = 24 * 1024 * 1024
"""Bytes by which the daemon may grow, whatever the size."""
PIECE = 1024 * 1024

_FEED = """
import hashlib, sys
total, piece, digest = int(sys.argv[1]), bytes(range(256)) * 4096, hashlib.sha256()
with open(sys.argv[2], "wb", buffering=0) as sink:
    while total:
        sink.write(piece)
        total -= len(piece)
"""


def pattern(size: int) -> bytes:
    """`size` bytes that repeat every 256."""
    return bytes(range(256)) * (size // 256)


def test_stream(daemon: Daemon) -> None:
    """A writing and a reading process, SIZE bytes of cipher stream in between."""
    key, iv = os.urandom(16), os.urandom(16)
    with Context("skcipher", "ctr(aes)", key, mount=daemon.mountpoint) as context:
        (context.directory / "ctl").write_text(f"reset iv=hex:{iv.hex()}")
        stream = context.directory / "stream"
        before = daemon.memory
        with subprocess.Popen(["python3", "-c", _FEED, str(SIZE), str(stream)]) as writer:
            oracle = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
            plain = pattern(PIECE)
            seen = 0
            largest = before
            pending = b""
            with stream.open("rb", buffering=0) as source:
                while data := source.read(PIECE):
                    pending += data
                    seen += len(data)
                    while len(pending) >= PIECE:
                        assert pending[:PIECE] == oracle.update(plain)
                        pending = pending[PIECE:]
                    if seen % (64 * PIECE) < PIECE:
                        largest = max(largest, daemon.memory)
            assert writer.wait(30) == 0
        assert (seen, pending) == (SIZE, b"")
        assert largest - before < GROWTH, f"grew by {largest - before} bytes"


def test_parts(daemon: Daemon) -> None:
    """SIZE bytes in parts of one message, hashed and encrypted at the same time, on two contexts."""
    key, iv = os.urandom(32), os.urandom(16)
    mount: Path = daemon.mountpoint
    part = pattern(PAYLOAD_MAX)
    with Context("hash", "sha256", mount=mount) as hasher, Context("skcipher", "cbc(aes)", key, mount=mount) as cipher:
        before = daemon.memory
        digest = hasher.message(Operation.DIGEST)
        sealed = cipher.message(Operation.ENCRYPT, iv)
        expected_digest = hashlib.sha256()
        expected = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        given = 0
        largest = before
        while given < SIZE:
            assert digest.update(part) == b""
            assert sealed.update(part) == expected.update(part)
            expected_digest.update(part)
            given += len(part)
            if given % (64 * PAYLOAD_MAX) == 0:
                largest = max(largest, daemon.memory)
        assert digest.finish() == expected_digest.digest()
        assert sealed.finish() == b""
        assert largest - before < GROWTH, f"grew by {largest - before} bytes"


def test_more_than_four_gibibytes(daemon: Daemon) -> None:
    """One message of more bytes than 32 bits count: all parts are counted, some compared with the key stream."""
    parts = (256 if IN_GUEST else 4 * 1024) * 1024 * 1024 // PAYLOAD_MAX + 1
    key, iv = os.urandom(16), bytes(12) + b"\xff\xff\xff\x00"
    part = bytes(PAYLOAD_MAX)

    def stream_at(index: int) -> bytes:
        counter = (int.from_bytes(iv, "big") + index * (PAYLOAD_MAX // 16)) % (1 << 128)
        return Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big"))).encryptor().update(part)

    with Context("skcipher", "ctr(aes)", key, mount=daemon.mountpoint) as cipher:
        before = daemon.memory
        message = cipher.message(Operation.ENCRYPT, iv)
        given = 0
        for index in range(parts):
            out = message.update(part)
            given += len(out)
            if index % 1000 in (0, 999) or index == parts - 1:
                assert out == stream_at(index), f"part {index}"
                assert daemon.memory - before < GROWTH
        assert message.finish() == b""
        assert given == parts * PAYLOAD_MAX
    print(f"{given:,} bytes in {parts:,} parts")
