"""Open files and directories of a mount: each counts as its user's, and a listing is made when it is read."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import SHARED, Daemon, serving
from helpers.raw import Raw

from cryptofs.records import Attr, Operation

HANDLES = 12


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that lets each user have HANDLES open."""
    config = tmp_path / "cryptofs.toml"
    config.write_text(f"[policy]\nhandles = {HANDLES}\n")
    with serving(tmp_path / "mount", *SHARED, "--config", str(config)) as made:
        yield made


def opened(path: Path, flags: int, most: int) -> list[int]:
    """Descriptors of a file or directory, until the daemon refuses one, or so many."""
    descriptors: list[int] = []
    try:
        while len(descriptors) < most:
            descriptors.append(os.open(path, flags))
    except OSError as error:
        assert error.errno == errno.EDQUOT  # noqa: PT017
    return descriptors


def close(descriptors: list[int]) -> None:
    """All of them."""
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("contexts", os.O_RDONLY | os.O_DIRECTORY),
        ("algorithms/hash", os.O_RDONLY | os.O_DIRECTORY),
        ("stats", os.O_RDONLY),
        ("crypto", os.O_RDWR),
        ("ctl", os.O_RDWR),
        ("status", os.O_RDONLY),
        ("stream", os.O_RDONLY),
    ],
)
def test_every_open_file_counts(bounded: Daemon, name: str, flags: int) -> None:
    """Beyond the bound an open is EDQUOT, and closing makes room, for files of every kind."""
    with contextlib.ExitStack() as stack:
        path = bounded.mountpoint / name
        if name in ("ctl", "status", "stream"):
            context = stack.enter_context(Raw(bounded.mountpoint))
            context.call(Operation.CONFIGURE, {Attr.TYPE: "hash", Attr.NAME: "sha256"})
            path = context.directory / name
        for _ in range(3):
            descriptors = opened(path, flags, HANDLES + 1)
            try:
                assert HANDLES - 2 <= len(descriptors) <= HANDLES
            finally:
                close(descriptors)
    assert "refused=EDQUOT" in bounded.log


def test_an_open_directory_costs_little(tmp_path: Path) -> None:
    """Thousands of descriptors of a directory of many contexts take no list of their own each, read or not."""
    with serving(tmp_path / "mount", *SHARED) as daemon, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Raw(daemon.mountpoint))
        path = daemon.mountpoint / "contexts"
        assert len(os.listdir(path)) == 200
        before = daemon.memory
        descriptors = opened(path, os.O_RDONLY | os.O_DIRECTORY, 1000)
        try:
            assert len(descriptors) == 1000
            for descriptor in descriptors[:300]:
                assert len(os.listdir(descriptor)) == 200
            assert daemon.memory - before < 300 * 200 * 100
        finally:
            close(descriptors)


def listed(directory: int) -> Iterator[str]:
    """The names in a directory, asked for by the kilobyte: the C library asks for 32."""
    library, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(1024)
    while (size := library.getdents64(directory, buffer, len(buffer))) > 0:
        position = 0
        while position < size:
            # struct linux_dirent64: inode, offset, length, type, name
            length = int.from_bytes(buffer.raw[position + 16 : position + 18], "little")
            yield buffer.raw[position + 19 : position + length].split(b"\0", 1)[0].decode()
            position += length
    assert size == 0, os.strerror(ctypes.get_errno())


def test_contexts_that_close_while_they_are_listed(mount: Path) -> None:
    """No other context is left out of a listing, or shown twice."""
    contexts = [Raw(mount) for _ in range(300)]
    directory = os.open(mount / "contexts", os.O_RDONLY | os.O_DIRECTORY)
    try:
        stay = {str(context.number) for context in contexts[1::2]}
        gone = {str(context.number) for context in contexts[::2]}
        seen: list[str] = []
        for name in listed(directory):
            seen.append(name)
            if len(seen) == 20:
                for context in contexts[::2]:
                    context.close()
        assert len(seen) == len(set(seen))
        assert stay <= set(seen)
        assert not gone <= set(seen)
    finally:
        os.close(directory)
        for context in contexts:
            context.close()
