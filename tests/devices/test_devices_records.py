"""Messages of devices in records: their nonces, sizes and parts, opened by other libraries."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers import device_mount
from helpers.device_mount import AEADS, CIPHERS, DECRYPT, ENCRYPT, KEYS, NONCE, opened, refused, sample

from cryptofs.client import Context, Pipeline
from cryptofs.records import PAYLOAD_MAX, Attr, Operation, Record, Value, build, parse_responses

pytestmark = pytest.mark.mount
daemon, device = device_mount.daemon, device_mount.device

SIZES = (0, 1, 16, 4000, 32_000, 70_000, 1_000_000)


@pytest.mark.parametrize(
    ("name", "assoc"), [*((name, b"") for name in (*AEADS, *CIPHERS)), *((name, b"associated") for name in AEADS)]
)
def test_records(device: Callable[[str], Context], name: str, assoc: bytes) -> None:
    """The daemon's nonce stands before the message, of whatever size, and other libraries open it."""
    with device(name) as context:
        for size in SIZES:
            data = sample(name, size)
            sealed = context.encrypt(data, assoc=assoc)
            assert len(sealed) == NONCE[name] + len(data) + context.authsize
            assert opened(name, sealed, assoc) == data
            assert context.decrypt(sealed, assoc=assoc) == data
            if name in AEADS:
                for at in (0, NONCE[name] - 1, NONCE[name], len(sealed) - 1):
                    changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
                    refused(errno.EBADMSG, lambda changed=changed: context.decrypt(changed, assoc=assoc))
                refused(errno.EBADMSG, lambda sealed=sealed: context.decrypt(sealed, assoc=assoc + b"!"))
        for cut in range(NONCE[name]):
            assert "nonce" in refused(errno.EINVAL, lambda cut=cut: context.decrypt(bytes(cut)))


@pytest.mark.parametrize("name", [*AEADS, *CIPHERS])
@pytest.mark.parametrize("step", [1, 7, 16, 50])
def test_parts(device: Callable[[str], Context], name: str, step: int) -> None:
    """Parts cut anywhere, through nonce and associated data, give what one piece gives."""
    data = sample(name, 160)
    assoc = b"associated data" if name in AEADS else b""
    with device(name) as context:

        def in_parts(operation: Operation, text: bytes) -> bytes:
            identity = context.new_id()
            records = []
            for at in range(0, len(text), step):
                first: dict[int, Value] = {Attr.ASSOCLEN: len(assoc)} if at == 0 and assoc else {}
                last = at + step >= len(text)
                records.append(Record(operation, 0 if last else 1, identity, 0, first, text[at : at + step]))
            os.write(context.fileno(), b"".join(map(build, records)))
            answers: list[Record] = []
            while len(answers) < len(records):
                answers += parse_responses(os.pread(context.fileno(), 1 << 20, 0))
            assert {answer.status for answer in answers} == {0}, answers[-1].attributes
            return b"".join(bytes(answer.payload) for answer in answers)

        sealed = in_parts(ENCRYPT, assoc + data)
        assert opened(name, sealed, assoc) == data
        assert in_parts(DECRYPT, assoc + sealed) == data


@pytest.mark.parametrize("name", [*AEADS, *CIPHERS])
@pytest.mark.parametrize("size", [100, 30_000, 500_000])
def test_many_in_flight(device: Callable[[str], Context], name: str, size: int) -> None:
    """A pipeline of messages, in batches and by workers: each with a nonce of its own, none mixed up."""
    messages = [sample(name, size)[:-16] + b"%16d" % index for index in range(40)]
    with device(name) as context, Pipeline(context) as pipeline:
        sealed = [pending.result() for pending in [pipeline.encrypt(message) for message in messages]]
        assert [opened(name, each) for each in sealed] == messages
        assert len({each[: NONCE[name]] for each in sealed}) == len(messages)
        plain = [pending.result() for pending in [pipeline.decrypt(each) for each in sealed]]
        assert plain == messages


def test_digest(device: Callable[[str], Context]) -> None:
    """A keyed hash takes no nonce."""
    with device("hmac") as context:
        for size in SIZES:
            mac = hmac.HMAC(KEYS["hmac"], hashes.SHA256())
            mac.update(sample("hmac", size))
            assert context.digest(sample("hmac", size)) == mac.finalize()


def test_large_parts(device: Callable[[str], Context]) -> None:
    """The client's own parts are as large as a request can be; with a nonce their output is larger."""
    data = os.urandom(3_000_000)
    with device("ctr") as context:
        sealed = context.encrypt(data)
        assert opened("ctr", sealed) == data
        assert context.decrypt(sealed) == data


def test_largest_message(device: Callable[[str], Context]) -> None:
    """The largest that can be sealed can be opened, in two parts as its nonce makes it too large for one."""
    with device("gcm") as context:
        data = bytes(PAYLOAD_MAX - 16)
        sealed = context.encrypt(data)
        assert len(sealed) == PAYLOAD_MAX + 12
        assert opened("gcm", sealed) == data
        assert context.decrypt(sealed) == data


def test_iv_of_the_callers(device: Callable[[str], Context]) -> None:
    """It is refused, of whatever size and however the message is given, unless the device allows it."""
    for name in ("gcm", "ctr", "sealonly"):
        with device(name) as context:
            for size in (0, 12, 16):
                message = refused(errno.EINVAL, lambda context=context, size=size: context.encrypt(b"x", bytes(size)))
                assert "iv" in message
            message = refused(errno.EINVAL, lambda context=context: context.encrypt(bytes(100_000), bytes(12)))
            part = context.message(ENCRYPT, bytes(context.iv_size))
            refused(errno.EINVAL, lambda part=part: part.update(b"x"))
            ctl = context.directory / "ctl"
            ctl.write_text(f"reset iv=hex:{'00' * context.iv_size}")
            refused(errno.EINVAL, lambda context=context: (context.directory / "stream").write_bytes(b"x"))
    with device("caller") as context:
        assert context.encrypt(b"x", bytes(12)) == AESGCM(KEYS["gcm"]).encrypt(bytes(12), b"x", b"")
        assert context.decrypt(context.encrypt(b"x", bytes(12)), bytes(12)) == b"x"
        assert context.decrypt(context.encrypt(b"x")) == b"x"


def test_equal_messages_have_different_nonces(mount: Path) -> None:
    """Ten thousand equal messages of two processes at once."""
    code = """
import os, sys
from cryptofs.client import Context, Pipeline
with Context.of_device("gcm", mount=sys.argv[1]) as context, Pipeline(context) as pipeline:
    for pending in [pipeline.encrypt(b"the same") for _ in range(5000)]:
        print(pending.result().hex())
"""
    command = [sys.executable, "-c", code, str(mount)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as two,
    ):
        lines = one.communicate(timeout=100)[0].split() + two.communicate(timeout=100)[0].split()
    assert len(lines) == 10_000
    assert len({line[:24] for line in lines}) == 10_000
    assert opened("gcm", bytes.fromhex(lines[-1])) == b"the same"
