"""The kernel's own compressors, in both directions.

UBIFS keeps file blocks as the deflate, lzo and zstd of the crypto API make them; on a flash that is memory they
can be read, and replaced. Needs the modules mtdram, ubi and ubifs:
`scripts/guest --kernel qemu .venv/bin/python -m pytest tests/engines/test_compression_kernel.py`.
"""

import fcntl
import os
import random
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.compressors import COMPRESS, DECOMPRESS, whole
from helpers.machine import IN_GUEST

FLASH = Path("/dev/mtd0")
BLOCK = 4096
HEADER = struct.Struct("<IIQIBB2x16sIHH")
MAGIC = 0x06101831
DATA_NODE = 1
MAKE_VOLUME = 0x40986F00
# the name of the mount option, and UBIFS's number of each of the crypto API's names
TYPES = {"lzo": ("lzo", 1), "deflate": ("zlib", 2), "zstd": ("zstd", 3)}


def run(*words: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def flash() -> None:
    """A flash of 32 MiB in memory, with one volume."""
    if not IN_GUEST or not run("modprobe", "mtdram", "total_size=32768", "erase_size=128"):
        pytest.skip("NOT RUN: needs the module mtdram; scripts/guest --kernel qemu has it")
    assert run("modprobe", "ubi", "mtd=0")
    assert run("modprobe", "ubifs")
    name = b"volume"
    request = struct.pack("<iiqbBh4x128s", -1, 1, 20 << 20, 3, 0, len(name), name)
    device = os.open("/dev/ubi0", os.O_RDWR)
    try:
        fcntl.ioctl(device, MAKE_VOLUME, request)
    finally:
        os.close(device)


@dataclass(frozen=True)
class Node:
    """A block of a file on the flash: where its bytes are, which block it is, what it holds."""

    at: int
    size: int
    number: int
    content: int
    kind: int
    data: bytes


def nodes() -> Iterator[Node]:
    """All data nodes on the flash that are whole."""
    image = FLASH.read_bytes()
    at = -1
    while (at := image.find(MAGIC.to_bytes(4, "little"), at + 1)) >= 0:
        _, crc, _, size, type_, _, key, content, kind, _ = HEADER.unpack_from(image, at)
        body = image[at + 8 : at + size]
        if type_ == DATA_NODE and HEADER.size <= size <= 2 * BLOCK and zlib.crc32(body) ^ 0xFFFFFFFF == crc:
            number = int.from_bytes(key[4:8], "little") & 0x1FFFFFFF
            yield Node(at, size, number, content, kind, image[at + HEADER.size : at + size])


def replace(node: Node, data: bytes) -> None:
    """Write other bytes into a node, with the checksum that goes with them."""
    with FLASH.open("r+b", buffering=0) as flash:
        flash.seek(node.at)
        body = flash.read(node.size)[8 : HEADER.size] + data
        flash.seek(node.at)
        flash.write(struct.pack("<II", MAGIC, zlib.crc32(body) ^ 0xFFFFFFFF) + body)


def mounted(directory: Path, option: str) -> None:
    """Mount the volume; an empty one is formatted."""
    subprocess.run(["mount", "-t", "ubifs", "-o", f"compr={option}", "ubi0:volume", str(directory)], check=True)


@pytest.mark.parametrize("name", TYPES)
def test_ubifs(flash: None, name: str, tmp_path: Path) -> None:
    """What the kernel compressed is read here; what is compressed here, put in its place, is read by the kernel."""
    option, kind = TYPES[name]
    # the flash is one for all: a text of this test's own, by which its blocks are known again
    source = random.Random(name)
    words = [source.randbytes(source.randint(2, 9)).hex().encode() for _ in range(300)]
    text = b"".join(source.choice(words) + b" " for _ in range(60_000))[: 60 * BLOCK]
    mounted(tmp_path, option)
    (tmp_path / name).write_bytes(text)
    os.sync()
    subprocess.run(["umount", str(tmp_path)], check=True)
    same = replaced = read = 0
    for node in list(nodes()):
        if node.kind != kind:
            continue
        block = whole(name, DECOMPRESS, node.data)
        assert len(block) == node.content
        if block != text[node.number * BLOCK :][:BLOCK]:
            continue
        read += 1
        levels = range(1, 20) if name == "zstd" else range(1, 10) if name == "deflate" else (None,)
        for level in levels:
            ours = whole(name, COMPRESS, block, level=level)
            if ours == node.data:
                same += 1
                break
            if len(ours) == len(node.data):
                replace(node, ours)
                replaced += 1
                break
    print(f"{name}: {read} blocks of the kernel's read, {same} made the same, {replaced} replaced")
    assert read >= 55
    assert same + replaced > 0
    mounted(tmp_path, option)
    try:
        assert (tmp_path / name).read_bytes() == text
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
