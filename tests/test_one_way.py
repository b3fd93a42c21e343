"""Ciphers on devices that only encrypt: who sees no output before all input is given confirms no guess about others'
messages.
"""

import errno
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from stream_devices import OPENSSL, context_of, declare, device_of, newest, open_stream, read_all, serving

from cryptofs.algorithms import Description, Type
from cryptofs.algorithms.catalogue import look_up, names
from cryptofs.client import Context, RequestError
from cryptofs.engines.base import OUT_SLACK, Transform
from cryptofs.errors import InvalidValue
from cryptofs.nodes.devices import DEVICE_STREAM
from cryptofs.records import PAYLOAD_MAX, Flag, Operation, Record, build, parse_responses

ENCRYPT, DECRYPT = Operation.ENCRYPT, Operation.DECRYPT
MORE = Flag.MORE
KEY = bytes(range(32))
ONE_WAY = 'operations = ["encrypt"]'
DEVICES = (
    "".join(
        declare(f"{mode}-seal", "skcipher", f"{mode}(aes)", "secret", ONE_WAY)
        for mode in ("cbc", "cfb", "ctr", "ofb", "ecb", "xts")
    )
    + declare("cbc-both", "skcipher", "cbc(aes)", "secret")
    + declare("cbc-open", "skcipher", "cbc(aes)", "secret", 'operations = ["decrypt"]')
    + declare("cbc-caller", "skcipher", "cbc(aes)", "secret", ONE_WAY, 'nonce = "caller"')
    + declare("gcm-seal", "aead", "gcm(aes)", "secret", ONE_WAY)
).replace('"xts(aes)"\nkey.file = "{secret}"', '"xts(aes)"\nkey.file = "{double}"')
CHAINED = ["cbc-seal", "cfb-seal"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that only encrypt, and some that do not."""
    with serving(tmp_path_factory.mktemp("one-way"), {"secret": KEY, "double": KEY + KEY[::-1]}, DEVICES) as daemon:
        yield daemon


def opened(mode: str, data: bytes) -> bytes:
    """What a device made, by another library."""
    chain: Any = {"cbc": modes.CBC, "cfb": CFB}[mode]
    decryptor = Cipher(algorithms.AES(KEY), chain(data[:16])).decryptor()
    return decryptor.update(data[16:]) + decryptor.finalize()


def xor(*values: bytes) -> bytes:
    """Of equally long ones."""
    result = 0
    for value in values:
        result ^= int.from_bytes(value)
    return result.to_bytes(len(values[0]))


def ask(descriptor: int, *records: Record) -> list[Record]:
    """One write, and all its answers."""
    os.pwrite(descriptor, b"".join(map(build, records)), 0)
    answers: list[Record] = []
    while len(answers) < len(records):
        answers += parse_responses(os.pread(descriptor, 1 << 20, 0))
    return answers


SECRET = b"pin=4711;padding"


def confirmed(descriptor: int, victim: bytes) -> list[int]:
    """Which guesses of the pin in the victim's second block hold, by parts of one message of one's own."""
    first, second = victim[16:32], victim[32:48]
    last = bytes(ask(descriptor, Record(ENCRYPT, MORE, 7, 0, {}, bytes(16)))[0].payload)[-16:]
    hits = []
    for pin in range(4700, 4720):
        if not last:
            break
        part = xor(b"pin=%d;padding" % pin, first, last)
        last = bytes(ask(descriptor, Record(ENCRYPT, MORE, 7, 0, {}, part))[0].payload)[-16:]
        if last == second:
            hits.append(pin)
    return hits


@pytest.mark.mount
def test_guesses_are_not_confirmed(mount: Path) -> None:
    """By parts of a message; where parts are taken, on a device that decrypts anyway, the same finds the pin."""
    for device, found in (("cbc-seal", []), ("cbc-both", [4711])):
        with Context.of_device(device, mount=mount) as victim, Context.of_device(device, mount=mount) as attacker:
            sealed = victim.encrypt(b"HEADER_OF_16_BYT" + SECRET)
            assert opened("cbc", sealed).endswith(SECRET)
            assert confirmed(attacker.fileno(), sealed) == found


@pytest.mark.mount
@pytest.mark.parametrize("device", CHAINED)
def test_no_parts(mount: Path, device: str) -> None:
    """EINVAL that says what to do, for every part up to the last, under any id, in a batch, behind a reset; a whole
    message of any size passes.
    """
    with Context.of_device(device, mount=mount) as context:
        part, last = Record(ENCRYPT, MORE, 7, 0, {}, bytes(32)), Record(ENCRYPT, 0, 7, 0, {}, bytes(16))
        for answer in (*ask(context.fileno(), part), *ask(context.fileno(), part, part), *ask(context.fileno(), last)):
            assert answer.status == errno.EINVAL
            assert not answer.payload
            assert "takes no parts" in str(answer.attributes)
        batch = [Record(ENCRYPT, MORE * (id % 2), id, 0, {}, bytes(16)) for id in range(10, 20)]
        for answer in ask(context.fileno(), *batch):
            assert answer.status == errno.EINVAL * (answer.id % 2)
            assert len(answer.payload) == 32 * (1 - answer.id % 2)
        ask(context.fileno(), part)
        context.reset()
        assert ask(context.fileno(), part)[0].status == errno.EINVAL
        context.reset()
        for size in (0, 16, 4096, 1_000_000, PAYLOAD_MAX):
            text = os.urandom(size)
            assert opened(device[:3], context.encrypt(text)) == text
        with pytest.raises(RequestError, match="takes no parts"):
            context.encrypt(bytes(PAYLOAD_MAX + 16))
        # what is not allowed at all is that, in parts too
        assert ask(context.fileno(), Record(DECRYPT, MORE, 90, 0, {}, bytes(32)))[0].status == errno.EACCES
    assert "parts: no\n" in (mount / "devices" / device / "status").read_text()


@pytest.mark.mount
@pytest.mark.parametrize(
    "device", ["cbc-both", "cbc-open", "cbc-caller", "ctr-seal", "ofb-seal", "ecb-seal", "xts-seal"]
)
def test_parts_stay_where_they_tell_nothing(mount: Path, device: str) -> None:
    """Where both ways are open, where the caller chooses the nonce, and where no output is mixed into what follows."""
    operation = DECRYPT if device == "cbc-open" else ENCRYPT
    with Context.of_device(device, mount=mount) as context:
        parts = [Record(operation, MORE * (number < 2), 7, 0, {}, bytes(range(32))) for number in range(3)]
        answers = ask(context.fileno(), *parts)
        assert [answer.status for answer in answers] == [0, 0, 0]
        assert sum(len(answer.payload) for answer in answers) >= 80
    assert "parts" not in (mount / "devices" / device / "status").read_text()


@pytest.mark.mount
@pytest.mark.parametrize("word", ["encrypt", "crypto"])
@pytest.mark.parametrize("device", CHAINED)
def test_a_stream_gives_nothing_before_its_end(mount: Path, device: str, word: str) -> None:
    """Of the device's file or of a context of records: not to another handle, nor to poll; then it gives all."""
    text = os.urandom(48_000)
    first = open_stream(mount, device, word)
    writer = os.open(newest(mount) / "stream", os.O_WRONLY)
    reader = os.open(newest(mount) / "stream", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    for at in range(0, len(text), 10_000):
        os.write(writer, text[at : at + 10_000])
        with pytest.raises(BlockingIOError):
            os.read(reader, 100_000)
        assert poll.poll(0) == []
    os.close(writer)
    assert poll.poll(5000) == [(reader, select.POLLIN)]
    padding = bytes([16]) * 16 if (device, word) == ("cbc-seal", "encrypt") else b""
    assert opened(device[:3], read_all(reader)) == text + padding
    os.close(reader)
    os.close(first)


@pytest.mark.mount
def test_a_reader_that_shares_the_stream_ends_nothing(mount: Path) -> None:
    """The device's descriptor turns to reading while another handle feeds: it waits for the end as well."""
    first = open_stream(mount, "cbc-seal", "encrypt", os.O_NONBLOCK)
    writer = os.open(newest(mount) / "stream", os.O_WRONLY)
    os.write(writer, b"text" * 1000)
    os.write(first, b"more" * 1000)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            os.read(first, 100)
    os.write(writer, b"end")
    os.close(writer)
    assert opened("cbc", read_all(first)) == b"text" * 1000 + b"more" * 1000 + b"end" + bytes([13]) * 13
    os.close(first)


@pytest.mark.mount
def test_an_end_ends_the_message(mount: Path) -> None:
    """Reading on the one descriptor, a reset, a writer that fails: what is written afterwards has another nonce."""
    stream = open_stream(mount, "cbc-seal", "encrypt")
    seen = set()
    for _ in range(4):
        os.write(stream, bytes(64))
        seen.add(os.read(stream, 40)[:16])
        (newest(mount) / "ctl").write_text("reset")
    os.write(stream, bytes(64))
    seen.add(read_all(stream)[:16])
    assert len(seen) == 5
    os.close(stream)


@pytest.mark.mount
def test_too_long_for_a_stream(mount: Path) -> None:
    """EFBIG at once, where only the end could make room, whether somebody reads or not."""
    for word, bound in (("encrypt", DEVICE_STREAM), ("crypto", 1 << 20)):
        first = open_stream(mount, "cbc-seal", word)
        writer = os.open(newest(mount) / "stream", os.O_WRONLY)
        reader = os.open(newest(mount) / "stream", os.O_RDONLY)
        for _ in range(bound // 131_072):
            assert os.write(writer, bytes(131_072)) == 131_072
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                os.write(writer, b"x")
        os.close(writer)
        with pytest.raises(OSError, match="File too large"):
            read_all(reader)
        os.close(reader)
        os.close(first)


@pytest.mark.mount
@pytest.mark.parametrize("size", [0, 15, 16, 1_000_000, 16_000_000])
def test_the_command(mount: Path, tmp_path: Path, size: int) -> None:
    """`cryptofs encrypt --device` makes what the device's key opens."""
    text = os.urandom(size)
    assert command(mount, tmp_path, "cbc-seal", text).returncode == 0
    padding = 16 - size % 16
    assert opened("cbc", (tmp_path / "out").read_bytes()) == text + bytes([padding]) * padding
    with Context.of_device("cbc-open", mount=mount) as context:
        assert context.decrypt((tmp_path / "out").read_bytes())[:size] == text


@pytest.mark.mount
def test_the_command_with_a_file_that_is_too_long(mount: Path, tmp_path: Path) -> None:
    """It says what would take it, and leaves no output."""
    done = command(mount, tmp_path, "cbc-seal", bytes(DEVICE_STREAM + 300_000))
    assert done.returncode == 1
    assert "EFBIG" in done.stderr
    assert "type aead" in done.stderr
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes()
    assert command(mount, tmp_path, "gcm-seal", bytes(DEVICE_STREAM + 300_000)).returncode == 0


def command(mount: Path, directory: Path, device: str, text: bytes) -> "subprocess.CompletedProcess[str]":
    """Encrypt `in` into `out`."""
    (directory / "in").write_bytes(text)
    arguments = ["encrypt", "--mount", mount, "--device", device, "-i", directory / "in", "-O", directory / "out"]
    return subprocess.run([sys.executable, "-m", "cryptofs", *arguments], capture_output=True, text=True, check=False)


# Which modes, without a mount

STREAMED = [
    name
    for type_, name in names()
    if type_ is Type.SKCIPHER
    and (description := OPENSSL[0].describe(type_, name)) is not None
    and description.chunk_size
]


def transform_of(name: str) -> Transform:
    """With a key."""
    description = OPENSSL[0].describe(Type.SKCIPHER, name)
    assert description is not None
    transform = OPENSSL[0].open(description, None)
    sizes = description.key_sizes
    transform.set_key(bytes(range(sizes.listed[0] if sizes.listed else sizes.smallest)))
    return transform


def enciphered(transform: Transform, data: bytes) -> bytes:
    """Under one and the same IV."""
    iv = bytes(transform.description.iv_size)
    out = memoryview(bytearray(len(data) + OUT_SLACK))
    return bytes(out[: transform.once(ENCRYPT, iv or None, 0, data, out)])


@pytest.mark.parametrize("name", STREAMED)
def test_which_modes_chain(name: str) -> None:
    """As the engine computes it: whether another first block changes what the second one is enciphered to."""
    transform = transform_of(name)
    block = transform.description.chunk_size
    one, two = (enciphered(transform, bytes([first]) * block + bytes(block)) for first in (1, 2))
    assert one[:block] != two[:block]
    assert transform.description.chains == (one[block:] != two[block:])
    transform.close()


def test_modes_of_the_catalogue() -> None:
    """Both kinds are there; what nobody knows is taken to chain, and what takes its message whole need not say."""
    kinds = {
        name: Description(Type.SKCIPHER, name, "", "", chunk_size=facts.chunk_size).chains
        for type_, name in names()
        if type_ is Type.SKCIPHER and (facts := look_up(type_, name))
    }
    chaining = {name.partition("(")[0] for name, chains in kinds.items() if chains}
    assert chaining == {"cbc", "cfb"}
    assert {name.partition("(")[0] for name in STREAMED} >= {"cbc", "cfb", "ctr", "ofb", "ecb", "chacha20"}
    assert Description(Type.SKCIPHER, "new(aes)", "", "", chunk_size=16).chains
    assert not kinds["pcbc(aes)"]
    assert look_up(Type.SKCIPHER, "pcbc(aes)").chunk_size == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("operations", "caller", "whole"),
    [({ENCRYPT}, False, True), ({ENCRYPT}, True, False), ({DECRYPT}, False, False), ({ENCRYPT, DECRYPT}, False, False)],
)
def test_which_devices(operations: set[Operation], caller: bool, whole: bool) -> None:
    """Those that only encrypt, under nonces of the daemon's."""
    device = device_of(Type.SKCIPHER, "cbc(aes)", KEY, operations, caller)
    for as_stream in (False, True):
        context = context_of(device, as_stream=as_stream)
        transform = context.require_transform()
        assert [transform.wants_whole(each) for each in (ENCRYPT, DECRYPT)] == [whole, False]
        context.close()


def test_records_and_streams_without_a_mount() -> None:
    """The general way and the short way, and a stream with two handles."""
    context = context_of(device_of(Type.SKCIPHER, "cbc(aes)", KEY, {ENCRYPT}), as_stream=False)
    for id, flags in ((1, MORE), (1, MORE), (1, 0), (2, 0)):
        data = build(Record(ENCRYPT, flags, id, 0, {}, bytes(32)))
        if not context.short.answer(data):
            context.submit(data)
        (answer,) = parse_responses(bytes(context.take(1 << 20) or b""))
        assert (answer.status, len(answer.payload)) == ((errno.EINVAL, 0) if id == 1 else (0, 48))
    stream = context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    for _ in range(2):
        stream.feed_nowait(writer, bytes(160))
        assert stream.drain_nowait(reader, 1000) is None
        assert not stream.readable_by(reader)
        stream.detach(writer)
        # the next message's output waits behind the end of this one's
        writer = stream.attach(False, True)
        stream.feed_nowait(writer, bytes(160))
        assert stream.readable_by(reader)
        assert len(stream.drain_nowait(reader, 100) or b"") == 100
        assert len(stream.drain_nowait(reader, 100) or b"") == 76
        assert stream.drain_nowait(reader, 100) == b""
        assert stream.drain_nowait(reader, 100) is None
        stream.reset()
    stream.detach(writer)
    context.close()


def test_a_failed_stream_is_over() -> None:
    """What was held back may be read once its message can have no more."""
    context = context_of(device_of(Type.SKCIPHER, "cbc(aes)", KEY, {ENCRYPT}), as_stream=False)
    stream = context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(33))
    assert stream.drain_nowait(reader, 1000) is None
    stream.detach(writer)
    assert len(stream.drain_nowait(reader, 1000) or b"") == 48
    with pytest.raises(InvalidValue, match="multiple of 16"):
        stream.drain_nowait(reader, 1000)
    context.close()
