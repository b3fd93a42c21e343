"""Compression: the library engine by itself, and through a mount; the kernel's own vectors, tools, bombs and damage."""

import contextlib
import errno
import itertools
import os
import random
import resource
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import lz4.block
import pytest
import zstandard
from helpers.compressors import COMPRESS, DECOMPRESS, LIBRARY, in_parts, transform_of, whole
from helpers.daemons import Daemon
from helpers.machine import TESTS
from helpers.raw import Raw
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vectors.compressions import VECTORS, Vector

from cryptofs.algorithms import Type, names
from cryptofs.client import Context, RequestError
from cryptofs.engines.base import OUT_SLACK
from cryptofs.engines.codecs import lzo
from cryptofs.engines.codecs.lz4 import fits
from cryptofs.engines.opening import open_engines
from cryptofs.errors import CryptofsError, InvalidValue, KeyMissing, NotSupported, TooLarge
from cryptofs.records import PAYLOAD_MAX, Attr, Flag, Operation, Record, build, parse_responses

needs_lzo = pytest.mark.skipif(not lzo.AVAILABLE, reason="NOT RUN: the optional package python-lzo is not here")
STREAMED = ("deflate", "zlib-deflate", "zstd")
BLOCKS = ("lz4", "lz4hc", pytest.param("lzo", marks=needs_lzo))
ALL = (*STREAMED, *BLOCKS)
MIB = 1 << 20

few = settings(deadline=None, max_examples=40)


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    """Each name."""
    return str(request.param)


def texts() -> st.SearchStrategy[bytes]:
    """Bytes that repeat, that do not, and both, up to some 100,000."""
    piece = st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 3000)).map(lambda both: both[0] * both[1])
    return st.lists(piece | st.binary(max_size=300), max_size=6).map(lambda pieces: b"".join(pieces)[:100_000])


# The engine


def test_what_is_offered() -> None:
    """The catalogue's names but lzo where its package is missing; by driver, too; nothing of another type."""
    expected = {name for type_, name in names() if type_ is Type.COMPRESSION}
    if not lzo.AVAILABLE:
        expected.remove("lzo")
    assert {name for _, name in LIBRARY.names()} == expected
    assert {"lzo-rle", "842"}.isdisjoint(expected)
    for name in expected:
        description = LIBRARY.describe(Type.COMPRESSION, name)
        assert description is not None
        assert LIBRARY.describe(Type.COMPRESSION, description.driver) == description
        assert f"levels: {description.levels or 'none'}\n" in description.tags()
    assert LIBRARY.describe(Type.HASH, "deflate") is None
    assert LIBRARY.describe(Type.COMPRESSION, "842") is None
    for other in open_engines(("af_alg", "openssl")):
        assert other.describe(Type.COMPRESSION, "deflate") is None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.name}-{len(vector.text)}")
def test_kernel_vectors(vector: Vector) -> None:
    """What the kernel makes and must read is read; where format and library leave no choice the same bytes are made."""
    if vector.name == "lzo" and not lzo.AVAILABLE:
        pytest.skip("NOT RUN: the optional package python-lzo is not here")
    for compressed in (vector.made, vector.read):
        assert whole(vector.name, DECOMPRESS, compressed) == vector.text
        assert in_parts(vector.name, DECOMPRESS, [compressed[:7], compressed[7:]]) == vector.text
    made = whole(vector.name, COMPRESS, vector.text)
    assert whole(vector.name, DECOMPRESS, made) == vector.text
    if vector.name not in ("lz4", "zstd"):
        assert made == vector.made


@pytest.mark.parametrize("name", ALL)
@few
@given(text=texts(), cuts=st.lists(st.integers(0, 100_000), max_size=5), room=st.integers(1, 70_000))
@example(text=b"", cuts=[], room=1)
def test_round_trips(name: str, text: bytes, cuts: list[int], room: int) -> None:
    """In one record and in parts, however they are cut and however little room there is for their output."""

    def cut(data: bytes) -> list[bytes]:
        edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
        return [data[a:b] for a, b in itertools.pairwise(edges)]

    streamed = name in STREAMED
    made = whole(name, COMPRESS, text)
    parted = in_parts(name, COMPRESS, cut(text), room if streamed else None)
    for compressed in (made, parted):
        assert whole(name, DECOMPRESS, compressed) == text
        assert whole(name, DECOMPRESS, compressed, len(text)) == text
        assert in_parts(name, DECOMPRESS, cut(compressed), room if streamed else None) == text
        if text:
            with pytest.raises(TooLarge, match=str(len(text) - 1)):
                whole(name, DECOMPRESS, compressed, len(text) - 1)


@pytest.mark.parametrize("name", ALL)
def test_levels(name: str) -> None:
    """Every level works and stays within its range; the ends differ; beyond them EINVAL names the range."""
    transform = transform_of(name)
    levels = transform.description.levels
    text = b"".join(b"%d little words\n" % (number * number) for number in range(20_000))
    if levels is None:
        assert transform.level is None
        with pytest.raises(InvalidValue, match=r"level 1: \w+ takes none"):
            transform.set_level(1)
        return
    assert transform.level == levels.default
    sizes = []
    for level in range(levels.lowest, levels.highest + 1):
        made = whole(name, COMPRESS, text, level=level)
        sizes.append(len(made))
        assert whole(name, DECOMPRESS, made) == text
    assert sizes[-1] < sizes[0]
    for level in (levels.lowest - 1, levels.highest + 1, 1 << 31):
        with pytest.raises(InvalidValue, match=f"level {level}: {name} takes {levels}"):
            transform.set_level(level)
    assert transform.level == levels.default


def test_other_calls() -> None:
    """Operations of other types, keys, a tag, an iv: refused."""
    transform = transform_of("deflate")
    for operation in (Operation.ENCRYPT, Operation.DIGEST, Operation.GENERATE):
        with pytest.raises(NotSupported):
            transform.start(operation, None, 0)
    with pytest.raises(InvalidValue):
        transform.set_key(b"key")
    with pytest.raises(InvalidValue):
        transform.start(COMPRESS, b"iv", 0)
    with pytest.raises(InvalidValue):
        LIBRARY.open(transform.description, 16)
    with pytest.raises(NotSupported):
        transform.start(COMPRESS, None, 0).clone()
    transform.close()


# Formats, as other programs have them


def test_deflate_is_the_kernels() -> None:
    """Raw, and no distance is over 2 KiB: zlib reads it with a window of 11 bits."""
    text = random.Random(1).randbytes(3000) * 3
    made = whole("deflate", COMPRESS, text)
    assert len(made) > 8000
    reader = zlib.decompressobj(-11)
    # in small pieces, so that nothing but the window can be looked back into
    assert b"".join(reader.decompress(made[at : at + 50]) for at in range(0, len(made), 50)) == text
    assert len(whole("zlib-deflate", COMPRESS, text)) < 4000
    assert whole("deflate", DECOMPRESS, zlib.compress(text, 9, wbits=-15)) == text


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 1_000_000])
def test_zstd_frames_are_the_kernels(size: int) -> None:
    """One frame without checksum; whole: with its size; the window at most 256 KiB unless the content is less."""
    text = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    for frame, known in ((whole("zstd", COMPRESS, text), True), (in_parts("zstd", COMPRESS, [text]), False)):
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.window_size <= 1 << 18
        assert not parameters.has_checksum
        assert parameters.content_size == (size if known or not size else zstandard.CONTENTSIZE_UNKNOWN)
        assert zstandard.ZstdDecompressor().decompressobj().decompress(frame) == text


@pytest.mark.parametrize(("tool", "options"), [("zstd", ["-3"]), ("zstd", ["-19", "--no-check"]), ("zstd", ["-8"])])
def test_zstd_tool(tool: str, options: list[str], tmp_path: Path) -> None:
    """What the tool makes of a pipe is read, and what is made the tool reads."""
    if not Path("/usr/bin", tool).exists():
        pytest.skip(f"NOT RUN: {tool} is not installed")
    text = random.Random(2).randbytes(100_000) * 5

    def run(words: list[str], data: bytes) -> bytes:
        return subprocess.run([tool, "-q", *words, "-c"], input=data, capture_output=True, check=True).stdout

    for made in (whole("zstd", COMPRESS, text), in_parts("zstd", COMPRESS, [text[:99], text[99:]])):
        assert run(["-d"], made) == text
    if options != ["-19", "--no-check"]:
        assert whole("zstd", DECOMPRESS, run(options, text)) == text
    else:
        with pytest.raises(TooLarge, match="window of 8388608 bytes: at most 2097152"):
            whole("zstd", DECOMPRESS, run(options, text))


def test_lz4_tool(tmp_path: Path) -> None:
    """The block in the tool's frame is one of ours, and ours in a frame of the same shape is read by the tool."""
    if not Path("/usr/bin/lz4").exists():
        pytest.skip("NOT RUN: lz4 is not installed")
    text = b"".join(b"%d words " % number for number in range(8000))[:60_000]
    command = ["lz4", "-q", "-c", "--no-frame-crc", "-B4", "-BI"]
    frame = subprocess.run(command, input=text, capture_output=True, check=True).stdout
    head, size = frame[:7], int.from_bytes(frame[7:11], "little")
    assert whole("lz4", DECOMPRESS, frame[11 : 11 + size]) == text
    for name in ("lz4", "lz4hc"):
        block = whole(name, COMPRESS, text)
        ours = head + len(block).to_bytes(4, "little") + block + bytes(4)
        assert subprocess.run(["lz4", "-d", "-q", "-c"], input=ours, capture_output=True, check=True).stdout == text


# Bounds


def zstd_bomb(blocks: int, last: bool = True) -> bytes:
    """A frame of blocks that are 131,072 zeros each and take four bytes each."""
    header = b"\x28\xb5\x2f\xfd" + bytes((0, 0x58))  # window 2 MiB, no size
    block = (131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    end = (1).to_bytes(3, "little") if last else b""
    return header + block * blocks + end


def deflate_bomb(wbits: int) -> bytes:
    """Some 300 KiB of zlib's best that hold 320 MiB."""
    packer = zlib.compressobj(9, wbits=wbits)
    bomb = bytearray()
    for _ in range(20):
        bomb += packer.compress(bytes(16 * MIB))
    return bytes(bomb + packer.flush())


BOMBS = {
    "zstd": lambda: zstd_bomb(250_000),  # 32 GiB
    "deflate": lambda: deflate_bomb(-15),
    "zlib-deflate": lambda: deflate_bomb(15),
    "lz4": lambda: lz4.block.compress(bytes(200 * MIB), store_size=False),
    "lz4hc": lambda: lz4.block.compress(bytes(200 * MIB), store_size=False),
    "lzo": lambda: lzo_block(bytes(200 * MIB)),
}


def lzo_block(data: bytes) -> bytes:
    """A block of lzo of any size, made by its package."""
    import lzo as package

    block: bytes = package.compress(data, 1, False)
    return block


@pytest.mark.parametrize("name", ALL)
def test_bombs(name: str) -> None:
    """About a megabyte that holds hundreds or thousands is refused with the bound, and takes no memory for it."""
    bomb = BOMBS[name]()
    assert 100_000 < len(bomb) <= PAYLOAD_MAX
    with pytest.raises(TooLarge, match=r"4096"):
        whole(name, DECOMPRESS, bomb, 4096)
    script = (
        "import resource, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from helpers.compressors import DECOMPRESS, whole\n"
        "from cryptofs.errors import TooLarge\n"
        "bomb = sys.stdin.buffer.read()\n"
        "whole(sys.argv[1], DECOMPRESS, whole(sys.argv[1], DECOMPRESS.__class__.COMPRESS, bytes(1000000)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(3):\n"
        "    try: whole(sys.argv[1], DECOMPRESS, bomb)\n"
        "    except TooLarge as error: assert '1040384' in error.message, error\n"
        "    else: raise AssertionError\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    words = [sys.executable, "-c", script, name, str(TESTS)]
    grown = subprocess.run(words, input=bomb, capture_output=True, check=False)
    assert grown.returncode == 0, grown.stderr.decode()
    assert int(grown.stdout) * 1024 < 12 * MIB


def test_bomb_in_parts() -> None:
    """In parts the output comes a megabyte at a time, as it is asked for, and input that waits is bounded."""
    bomb = zstd_bomb(200_000)
    message = transform_of("zstd").start(DECOMPRESS, None, 0)
    assert message.room(len(bomb), False) == PAYLOAD_MAX
    out = memoryview(bytearray(PAYLOAD_MAX + OUT_SLACK))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message.update(bomb, False, out) == PAYLOAD_MAX
    for _ in range(20):
        assert message.pending
        assert message.update(b"", False, out) == PAYLOAD_MAX
    with pytest.raises(TooLarge, match="bytes of input wait"):
        message.update(bomb, False, out)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 12 * MIB
    message.close()


@pytest.mark.parametrize("name", ALL)
def test_incompressible(name: str) -> None:
    """Input that grows is taken up to what its answer holds; one more byte than that is EMSGSIZE."""
    data = random.Random(3).randbytes(PAYLOAD_MAX)
    with pytest.raises(TooLarge, match="1040384"):
        whole(name, COMPRESS, data)
    made = whole(name, COMPRESS, data[: PAYLOAD_MAX - PAYLOAD_MAX // 64])
    assert whole(name, DECOMPRESS, made) == data[: PAYLOAD_MAX - PAYLOAD_MAX // 64]


@pytest.mark.parametrize("name", STREAMED)
def test_large_in_parts(name: str) -> None:
    """Several megabytes that cannot be compressed, in the largest parts: every byte comes back."""
    data = random.Random(4).randbytes(3 * PAYLOAD_MAX)
    parts = [data[at : at + PAYLOAD_MAX] for at in range(0, len(data), PAYLOAD_MAX)]
    made = in_parts(name, COMPRESS, parts)
    assert len(made) > len(data)
    assert in_parts(name, DECOMPRESS, [made[at : at + 700_001] for at in range(0, len(made), 700_001)]) == data


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_gathered(name: str) -> None:
    """Up to PAYLOAD_MAX bytes in all."""
    message = transform_of(name).start(COMPRESS, None, 0)
    out = memoryview(bytearray(message.room(PAYLOAD_MAX, False) + OUT_SLACK))
    assert message.update(bytes(PAYLOAD_MAX), False, out) == 0
    with pytest.raises(TooLarge):
        message.update(b"x", False, out)
    message.close()


# Damage


@pytest.mark.parametrize("name", STREAMED)
def test_ends(name: str) -> None:
    """Cut short at any place, and followed by anything, in one record and in parts: EINVAL."""
    made = whole(name, COMPRESS, b"some text " * 50)
    for end in range(len(made)):
        with pytest.raises(InvalidValue):
            whole(name, DECOMPRESS, made[:end])
        with pytest.raises(InvalidValue, match="ends before"):
            in_parts(name, DECOMPRESS, [made[:end]])
    with pytest.raises(InvalidValue, match="1 bytes or more follow"):
        whole(name, DECOMPRESS, made + b"x")
    with pytest.raises(InvalidValue, match="follow"):
        in_parts(name, DECOMPRESS, [made, b"x"])
    with pytest.raises(InvalidValue, match="follow"):
        whole(name, DECOMPRESS, made + made)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage(name: str, data: st.DataObject) -> None:
    """Any change gives output within the bound, EINVAL or EMSGSIZE, and the same of parts of formats that end."""
    text = data.draw(texts())
    made = bytearray(whole(name, COMPRESS, text))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(made)))
        made[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    room = data.draw(st.integers(0, 2 * len(text)) | st.just(PAYLOAD_MAX))
    with contextlib.suppress(InvalidValue, TooLarge):
        assert len(whole(name, DECOMPRESS, bytes(made), room)) <= room
    with contextlib.suppress(InvalidValue, TooLarge):
        in_parts(name, DECOMPRESS, [bytes(made[:20]), bytes(made[20:])], None if name not in STREAMED else 5000)


@pytest.mark.parametrize("name", ALL)
@few
@given(data=st.binary(max_size=300))
def test_noise(name: str, data: bytes) -> None:
    """Bytes that are no format at all."""
    for head in (b"", b"\x28\xb5\x2f\xfd", b"\x78\x9c"):
        with contextlib.suppress(InvalidValue, TooLarge):
            assert len(whole(name, DECOMPRESS, head + data)) <= PAYLOAD_MAX


@pytest.mark.parametrize(
    ("frame", "error", "words"),
    [
        (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", InvalidValue, "does not begin"),  # a skippable frame
        (b"\x28\xb5\x2f\xfd\x01\x58\x07", InvalidValue, "dictionary"),
        (b"\x28\xb5\x2f\xfd\x00\x60", TooLarge, "window of 4194304 bytes: at most 2097152"),
        (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8, TooLarge, "window of 18446744073709551615 bytes"),
        (b"\x28\xb5\x2f\xfd\x00\x58\x07\x00\x00", InvalidValue, "a block of kind 3"),
        (b"\x28\xb5\x2f\xfd\x00\x58\x00\x00\xff", InvalidValue, "a block of kind 0"),
        (b"\x28\xb5\x2f\xfd\x00\x58", InvalidValue, "ends before"),
        (b"\x28\xb5", InvalidValue, "ends before"),
    ],
)
def test_zstd_frames_that_are_refused(frame: bytes, error: type[CryptofsError], words: str) -> None:
    """Told apart, with the value and the bound."""
    with pytest.raises(error, match=words):
        whole("zstd", DECOMPRESS, frame)


@few
@given(text=texts(), room=st.integers(0, 100_000))
def test_lz4_tells_large_from_damaged(text: bytes, room: int) -> None:
    """The size that a block's lengths tell is the size that it has."""
    made = whole("lz4", COMPRESS, text)
    assert fits(made, room) == (len(text) <= room)


# Through a mount


TEXT = b"".join(b"line %d of a text\n" % number for number in range(20_000))


@pytest.mark.mount
def test_mount_client(mount: Path, name: str) -> None:
    """compress and decompress of the client; what serves and at which level is told."""
    with Context("compression", name, mount=mount) as context:
        assert context.engine == "library"
        assert context.driver.startswith(f"{name}-")
        made = context.compress(TEXT)
        assert whole(name, DECOMPRESS, made) == TEXT
        assert context.decompress(made) == TEXT
        assert context.decompress(made, len(TEXT)) == TEXT
        with pytest.raises(RequestError) as caught:
            context.decompress(made, len(TEXT) - 1)
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(RequestError) as caught:
            context.decompress(b"")
        assert caught.value.errno == errno.EINVAL
        assert context.decompress(context.compress(b"")) == b""
        tags = (mount / "algorithms" / "compression" / name).read_text()
        assert f"driver: {context.driver}\n" in tags
        if "levels: none" not in tags:
            assert "level: " in (context.directory / "status").read_text()


@pytest.mark.mount
@pytest.mark.parametrize("name", STREAMED)
def test_mount_large(mount: Path, name: str) -> None:
    """The client takes and gives messages of any length; 30 MB that compress well, and 3 MB that do not."""
    with Context("compression", name, level=1, mount=mount) as context:
        for text in (TEXT * 80, random.Random(5).randbytes(3 * MIB)):
            made = context.compress(text)
            assert context.decompress(made) == text
            message = context.message(DECOMPRESS)
            assert message.update(made[:1000]) + message.finish(made[1000:]) == text


@pytest.mark.mount
def test_mount_levels(mount: Path) -> None:
    """A level is chosen at configure, told by the reply, and refused outside its range or where there is none."""
    with Context("compression", "zstd", level=19, mount=mount) as context:
        assert context.request(Record(Operation.INFO, id=7)).attributes[Attr.LEVEL] == 19
        assert len(context.compress(TEXT)) < len(whole("zstd", COMPRESS, TEXT))
    for type_, name, level in (("compression", "zstd", 20), ("compression", "lz4", 1), ("hash", "sha256", 1)):
        with pytest.raises(RequestError) as caught:
            Context(type_, name, level=level, mount=mount)
        assert caught.value.errno == errno.EINVAL
        assert f"level {level}" in caught.value.message


@pytest.mark.mount
def test_mount_queue(mount: Path) -> None:
    """A decompress counts with all that its answer may be: sixteen are too many at once, with length thousands fit."""
    page = whole("lz4", COMPRESS, TEXT[:4096])
    with Context("compression", "lz4", mount=mount) as context:
        record = build(Record(DECOMPRESS, id=1, payload=page))
        with pytest.raises(OSError, match="Message too long"):
            os.write(context.fileno(), record * 17)
        small = [build(Record(DECOMPRESS, 0, n, 0, {Attr.LENGTH: 4096}, page)) for n in range(1000)]
        data = b"".join(small)
        assert os.write(context.fileno(), data) == len(data)
        answers = []
        while len(answers) < 1000:
            answers += [(each.id, bytes(each.payload)) for each in parse_responses(os.read(context.fileno(), MIB))]
        assert sorted(answers) == [(n, TEXT[:4096]) for n in range(1000)]


@pytest.mark.mount
def test_mount_bomb(own_daemon: Daemon) -> None:
    """A client with bombs gets EMSGSIZE, and the daemon does not grow; in parts it gets as much as it fetches."""
    bomb = zstd_bomb(250_000)
    with Context("compression", "zstd", mount=own_daemon.mountpoint) as context:
        context.decompress(context.compress(bytes(MIB)))
        before = own_daemon.memory
        record = Record(DECOMPRESS, id=1, payload=bomb)
        for _ in range(5):
            with pytest.raises(RequestError) as caught:
                context.request(record)
            assert caught.value.errno == errno.EMSGSIZE
            assert "1040384" in caught.value.message
        for identity in range(2, 9):
            answer = context.request(Record(DECOMPRESS, int(Flag.MORE), identity, 0, {}, bomb), PAYLOAD_MAX)
            assert len(answer.payload) == PAYLOAD_MAX
        # seven open messages, each with a megabyte of input that waits, a window and the library's buffers
        assert own_daemon.memory - before < 7 * 5 * MIB


@pytest.mark.mount
def test_mount_stream(mount: Path, name: str) -> None:
    """The raw stream, configured by text: compress, then decompress what came out."""
    with Raw(mount) as raw:
        directory = raw.directory
        (directory / "ctl").write_text(f"configure type=compression name={name}\n")
        (directory / "stream").write_bytes(TEXT)
        made = (directory / "stream").read_bytes()
        assert whole(name, DECOMPRESS, made) == TEXT
        (directory / "ctl").write_text("reset operation=decompress\n")
        (directory / "stream").write_bytes(made)
        assert (directory / "stream").read_bytes() == TEXT
        with (directory / "stream").open("r+b", buffering=0) as both:
            both.write(b"no such format")
            with pytest.raises(OSError, match="Invalid argument"):
                both.read(10)
        status = (directory / "status").read_text()
        assert "stream-error: EINVAL" in status
        assert "no such format" not in status


@pytest.mark.mount
@pytest.mark.parametrize("name", STREAMED)
def test_mount_stream_expands(own_daemon: Daemon, name: str) -> None:
    """200 MB come out of a stream that was fed some kilobytes, as fast as they are read; the daemon does not grow."""
    size = 200 * MIB
    made = in_parts(name, COMPRESS, [bytes(4 * MIB)] * (size // (4 * MIB)))
    assert len(made) < MIB
    with Raw(own_daemon.mountpoint) as raw:
        directory = raw.directory
        (directory / "ctl").write_text(f"configure type=compression name={name} operation=decompress\n")
        before = own_daemon.memory
        feeder = threading.Thread(target=(directory / "stream").write_bytes, args=(made,))
        feeder.start()
        total = 0
        with (directory / "stream").open("rb", buffering=0) as reader:
            while piece := reader.read(MIB):
                total += len(piece)
                assert not piece.strip(b"\0")
        feeder.join()
        assert total == size
        assert own_daemon.memory - before < 24 * MIB


@pytest.mark.mount
def test_mount_slow_stream_holds_nobody_up(mount: Path) -> None:
    """While a stream compresses at a slow level, others are answered."""
    with Raw(mount) as raw:
        directory = raw.directory
        (directory / "ctl").write_text("configure type=compression name=zstd level=19\n")
        text = b"".join(b"%d is not %d\n" % (n, n * n * n) for n in range(60_000))
        made: list[bytes] = []

        def work() -> None:
            (directory / "stream").write_bytes(text)
            made.append((directory / "stream").read_bytes())

        worker = threading.Thread(target=work)
        worker.start()
        answered = 0
        with Context("hash", "sha256", mount=mount) as other:
            while worker.is_alive():
                other.digest(b"x")
                answered += 1
        worker.join()
        assert in_parts("zstd", DECOMPRESS, made) == text
        assert answered > 20


@pytest.mark.mount
def test_mount_closed_while_a_worker_computes(mount: Path) -> None:
    """A context that goes in the middle of its stream's work takes nothing with it."""
    for _ in range(5):
        raw = Raw(mount)
        directory = raw.directory
        (directory / "ctl").write_text("configure type=compression name=zstd level=19\n")
        with (directory / "stream").open("wb", buffering=0) as stream:
            stream.write(TEXT[:131_072])
            raw.close()
    with Context("compression", "zstd", mount=mount) as context:
        assert context.decompress(context.compress(TEXT)) == TEXT


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a text."""
    (tmp_path / "text").write_bytes(TEXT)
    return tmp_path


@pytest.mark.mount
def test_command_line(mount: Path, name: str, files: Path) -> None:
    """`cryptofs compress` and `decompress`, and the tool where there is one."""

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "cryptofs", *words, "--mount", str(mount)]
        return subprocess.run(command, capture_output=True, check=False)

    made = files / "made"
    assert run("compress", "-n", name, "-i", str(files / "text"), "-O", str(made)).returncode == 0
    assert run("decompress", "-n", name, "-i", str(made)).stdout == TEXT
    if name == "zstd" and Path("/usr/bin/zstd").exists():
        assert subprocess.run(["zstd", "-dcq", str(made)], capture_output=True, check=True).stdout == TEXT
    made.write_bytes(b"\xff" * 100)
    failed = run("decompress", "-n", name, "-i", str(made))
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"cryptofs: EINVAL: decompress: ")
    assert run("compress", "-n", name, "--level", "99", "-i", str(files / "text")).returncode == 1


def test_errors_are_typed() -> None:
    """A key is never asked for: the type has none."""
    with pytest.raises(CryptofsError) as caught:
        whole("zstd", DECOMPRESS, b"x")
    assert not isinstance(caught.value, KeyMissing)
