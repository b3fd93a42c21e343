"""Ciphers on devices that only encrypt: who sees no block before the next one is fixed confirms no guess about others'
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
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.stream_devices import OPENSSL, context_of, device_of, newest, open_stream, read_all
from helpers.talking import submit, take
from hypothesis import given
from hypothesis import strategies as st

from cryptofs.algorithms import Facts, Type
from cryptofs.algorithms.catalogue import look_up, names
from cryptofs.client import Context
from cryptofs.contexts import FastWay
from cryptofs.engines.base import OUT_SLACK, Transform
from cryptofs.records import PAYLOAD_MAX, Flag, Operation, Record, build, parse_responses

ENCRYPT, DECRYPT = Operation.ENCRYPT, Operation.DECRYPT
MORE = Flag.MORE
KEY = bytes(range(32))
ONE_WAY = 'operations = ["encrypt"]'
DEVICES = (
    "".join(
        declare(f"{mode}-seal", "skcipher", f"{mode}(aes)", "{secret}", ONE_WAY)
        for mode in ("cbc", "cfb", "ctr", "ofb", "ecb", "xts")
    )
    + declare("cbc-both", "skcipher", "cbc(aes)", "{secret}")
    + declare("cbc-open", "skcipher", "cbc(aes)", "{secret}", 'operations = ["decrypt"]')
    + declare("cbc-caller", "skcipher", "cbc(aes)", "{secret}", ONE_WAY, 'nonce = "caller"')
    + declare("gcm-seal", "aead", "gcm(aes)", "{secret}", ONE_WAY)
).replace('"xts(aes)"\nkey.file = "{secret}"', '"xts(aes)"\nkey.file = "{double}"')
CHAINED = ["cbc-seal", "cfb-seal"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that only encrypt, and some that do not."""
    with serving_config(tmp_path_factory.mktemp("one-way"), DEVICES, secret=KEY, double=KEY + KEY[::-1]) as daemon:
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
def test_the_last_block_comes_late(mount: Path, device: str) -> None:
    """After each part all output is there except the last block (at first the nonce); the last part gives the rest."""
    text = os.urandom(16 * 40)
    with Context.of_device(device, mount=mount) as context:
        made = b""
        for end in range(0, len(text), 16):
            part = text[end : end + 16]
            for cut in (part[:0], part[:5], part[5:]):
                (answer,) = ask(context.fileno(), Record(ENCRYPT, MORE, 7, 0, {}, cut))
                assert answer.status == 0
                made += answer.payload
            # nonce and blocks, without the last
            assert len(made) == end + 16
        (answer,) = ask(context.fileno(), Record(ENCRYPT, 0, 7, 0, {}, b""))
        made += answer.payload
        assert opened(device[:3], made) == text


@pytest.mark.mount
@pytest.mark.parametrize("device", CHAINED)
def test_any_parts(mount: Path, device: str) -> None:
    """Whole messages, parts of any size, several at a time, one that fails: in all the output is as it ever was."""
    with Context.of_device(device, mount=mount) as context:
        for size in (0, 16, 4096, 1_000_000, PAYLOAD_MAX, PAYLOAD_MAX + 16, 3_000_000 - 3_000_000 % 16):
            text = os.urandom(size)
            assert opened(device[:3], context.encrypt(text)) == text
        texts = {id: [os.urandom(size) for size in (0, 3, 13, 100, id, 16 - (116 + id) % 16)] for id in range(1, 30)}
        made = dict.fromkeys(texts, b"")
        for number in range(6):
            parts = [Record(ENCRYPT, MORE * (number < 5), id, 0, {}, pieces[number]) for id, pieces in texts.items()]
            for answer in ask(context.fileno(), *parts):
                assert answer.status == 0
                made[answer.id] += answer.payload
        assert {id: opened(device[:3], data) for id, data in made.items()} == {
            id: b"".join(pieces) for id, pieces in texts.items()
        }
        if device == "cbc-seal":
            ask(context.fileno(), Record(ENCRYPT, MORE, 7, 0, {}, bytes(33)))
            (answer,) = ask(context.fileno(), Record(ENCRYPT, 0, 7, 0, {}, b""))
            assert (answer.status, len(answer.payload)) == (errno.EINVAL, 0)
        # what was held back goes with its message
        ask(context.fileno(), Record(ENCRYPT, MORE, 7, 0, {}, bytes(32)))
        context.reset()
        (answer,) = ask(context.fileno(), Record(ENCRYPT, 0, 7, 0, {}, bytes(16)))
        assert opened(device[:3], bytes(answer.payload)) == bytes(16)
        # what is not allowed at all is that, in parts too
        assert ask(context.fileno(), Record(DECRYPT, MORE, 90, 0, {}, bytes(32)))[0].status == errno.EACCES


@pytest.mark.mount
@pytest.mark.parametrize(
    "device", ["cbc-both", "cbc-open", "cbc-caller", "ctr-seal", "ofb-seal", "ecb-seal", "xts-seal"]
)
def test_nothing_is_held_back_where_it_tells_nothing(mount: Path, device: str) -> None:
    """Where both ways are open, where the caller chooses the nonce, and where no output is mixed into what follows."""
    operation = DECRYPT if device == "cbc-open" else ENCRYPT
    with Context.of_device(device, mount=mount) as context:
        parts = [Record(operation, MORE * (number < 2), 7, 0, {}, bytes(range(32))) for number in range(3)]
        answers = ask(context.fileno(), *parts)
        assert [answer.status for answer in answers] == [0, 0, 0]
        first = 16 if device == "cbc-open" else 0 if device == "xts-seal" else 32 + 16 * ("ecb" not in device)
        assert len(answers[0].payload) == first
        assert sum(len(answer.payload) for answer in answers) >= 80


@pytest.mark.mount
@pytest.mark.parametrize("word", ["encrypt", "crypto"])
@pytest.mark.parametrize("device", CHAINED)
def test_a_stream_lags(mount: Path, device: str, word: str) -> None:
    """Of the device's file or of a context of records: who reads beside the writer is one block behind."""
    text = os.urandom(48_000)
    first = open_stream(mount, device, word)
    writer = os.open(newest(mount) / "stream", os.O_WRONLY)
    reader = os.open(newest(mount) / "stream", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    made = b""
    for at in range(0, len(text), 8_000):
        os.write(writer, text[at : at + 8_000])
        assert poll.poll(5000) == [(reader, select.POLLIN)]
        made += os.read(reader, 100_000)
        assert len(made) == at + 8_000
        with pytest.raises(BlockingIOError):
            os.read(reader, 100_000)
    os.close(writer)
    assert poll.poll(5000) == [(reader, select.POLLIN)]
    padding = bytes([16]) * 16 if (device, word) == ("cbc-seal", "encrypt") else b""
    assert opened(device[:3], made + read_all(reader)) == text + padding
    os.close(reader)
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
        for _ in range(2):
            with pytest.raises(OSError, match="cancel"):
                os.write(stream, bytes(64))
        with pytest.raises(OSError, match="cancel"):
            os.read(stream, 40)
    os.write(stream, bytes(64))
    seen.add(read_all(stream)[:16])
    assert len(seen) == 5
    os.close(stream)


@pytest.mark.mount
@pytest.mark.parametrize("size", [0, 15, 16, 1_000_000, 20_000_000])
def test_the_command(mount: Path, tmp_path: Path, size: int) -> None:
    """`cryptofs encrypt --device` makes what the device's key opens."""
    text = os.urandom(size)
    assert command(mount, tmp_path, "cbc-seal", text).returncode == 0
    padding = 16 - size % 16
    assert opened("cbc", (tmp_path / "out").read_bytes()) == text + bytes([padding]) * padding
    with Context.of_device("cbc-open", mount=mount) as context:
        assert context.decrypt((tmp_path / "out").read_bytes())[:size] == text


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
    and description.key_sizes.takes_key
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
        name: facts.chains for type_, name in names() if type_ is Type.SKCIPHER and (facts := look_up(type_, name))
    }
    chaining = {name.partition("(")[0] for name, chains in kinds.items() if chains}
    assert chaining == {"cbc", "cfb"}
    assert {name.partition("(")[0] for name in STREAMED} >= {"cbc", "cfb", "ctr", "ofb", "ecb", "chacha20"}
    assert Facts(16, chunk_size=16).chains
    assert not kinds["pcbc(aes)"]
    assert look_up(Type.SKCIPHER, "pcbc(aes)").chunk_size == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("operations", "caller", "lags"),
    [({ENCRYPT}, False, True), ({ENCRYPT}, True, False), ({DECRYPT}, False, False), ({ENCRYPT, DECRYPT}, False, False)],
)
def test_which_devices(operations: set[Operation], caller: bool, lags: bool) -> None:
    """Those that only encrypt, under nonces of the daemon's."""
    device = device_of(Type.SKCIPHER, "cbc(aes)", KEY, operations, caller)
    for as_stream in (False, True):
        context = context_of(device, as_stream=as_stream)
        transform = context.require_transform()
        for each in operations:
            message = transform.start(each, None, 0)
            made = message.update(bytes(64), False, memoryview(bytearray(200)))
            # nonce and blocks; a stream keeps back what may be padding
            held = 16 * (each is DECRYPT) * (1 + as_stream) - 16 * (each is ENCRYPT) * (not lags)
            assert made == 64 - held, (each, as_stream)
            message.close()
        context.close()


def test_records_without_a_mount() -> None:
    """The general way, and the short way beside it."""
    context = context_of(device_of(Type.SKCIPHER, "cbc(aes)", KEY, {ENCRYPT}), as_stream=False)
    for id, flags, size in ((1, MORE, 32), (1, MORE, 32), (2, 0, 48), (1, 0, 48)):
        data = build(Record(ENCRYPT, flags, id, 0, {}, bytes(32)))
        if not FastWay(context).answer(data):
            submit(context, data)
        (answer,) = parse_responses(bytes(take(context, 1 << 20) or b""))
        assert (answer.status, len(answer.payload)) == (0, size)
    context.close()


@given(st.lists(st.binary(max_size=70), max_size=8), st.booleans())
def test_parts_make_the_whole(parts: list[bytes], as_stream: bool) -> None:
    """However a message is cut, nothing of the last block is out before the end, and all is right then."""
    device = device_of(Type.SKCIPHER, "cbc(aes)", KEY, {ENCRYPT})
    context = context_of(device, as_stream=as_stream)
    text = b"".join(parts)
    if not as_stream:
        parts = [*parts, bytes(-len(text) % 16)]
        text += parts[-1]
    message = context.require_transform().start(ENCRYPT, None, 0)
    made, given_in = b"", 0
    for part in parts:
        out = memoryview(bytearray(message.room(len(part), False) + OUT_SLACK))
        made += out[: message.update(part, False, out)]
        given_in += len(part)
        # the nonce and all whole blocks, without the last of these
        assert len(made) == given_in // 16 * 16
    out = memoryview(bytearray(message.room(0, True) + OUT_SLACK))
    made += out[: message.update(b"", True, out)]
    message.close()
    padding = 16 - len(text) % 16 if as_stream else 0
    assert opened("cbc", made) == text + bytes([padding]) * padding
    context.close()
