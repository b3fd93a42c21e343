"""The text files of the tree behave as files do: they have a size and a time, can be sought in, and stay as they were
for whoever has them open.
"""

import contextlib
import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.waiting import wait_until

from cryptofs import __version__
from cryptofs.client import Context

pytestmark = pytest.mark.mount

CONFIG = declare("mac", "hash", "hmac(sha256)", "{secret}")
VERSION = f"cryptofs {__version__}\n".encode()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device."""
    with serving_config(tmp_path_factory.mktemp("texts"), CONFIG, secret=bytes(32)) as daemon:
        yield daemon


@pytest.fixture
def texts(mount: Path) -> Iterator[list[Path]]:
    """One of each kind, all of which hold still."""
    with Context("hash", "sha256", mount=mount) as context:
        yield [
            mount / "version",
            context.directory / "status",
            mount / "algorithms/hash/sha256",
            mount / "devices/mac/status",
        ]


def output(*command: str | Path) -> bytes:
    """What a program prints, which must end well and say nothing else."""
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def test_programs_that_seek(texts: list[Path]) -> None:
    """head puts back what it has read too much, tail looks from the end, dd skips."""
    for path in texts:
        text = path.read_bytes()
        lines = text.splitlines(keepends=True)
        assert output("head", "-1", path) == lines[0]
        assert output("sh", "-c", '{ head -n 1; cat; } <"$0"', path) == text
        assert output("tail", "-c", "+3", path) == text[2:]
        assert output("tail", "-c", "4", path) == text[-4:]
        assert output("tail", "-n", "1", path) == lines[-1]
        assert output("dd", "bs=1", "skip=3", "status=none", f"if={path}") == text[3:]
        assert output("tac", path) == b"".join(reversed(lines))
        assert output("wc", "-c", path).split()[0] == b"%d" % len(text)


def test_programs_that_copy(texts: list[Path], tmp_path: Path) -> None:
    """By read, by the page cache, by what stat says: the copy is the whole."""
    for path in texts:
        text = path.read_bytes()
        copy = tmp_path / "copy"
        for command in (
            ["cp", path, copy],
            ["cp", "-a", path, copy],
            ["dd", "status=none", f"if={path}", f"of={copy}"],
        ):
            output(*command)
            assert copy.read_bytes() == text
            copy.unlink()
        # os.sendfile and copy_file_range
        shutil.copyfile(path, copy)
        assert copy.read_bytes() == text
        with path.open("rb") as source, copy.open("r+b") as target:
            target.truncate()
            with contextlib.suppress(OSError):
                os.copy_file_range(source.fileno(), target.fileno(), 1000)
                assert copy.read_bytes() == text
        with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
            archive.write(path, "text")
            assert archive.read("text") == text
        with tarfile.open(tmp_path / "tar", "w") as tar:
            tar.add(path, "text")
        with tarfile.open(tmp_path / "tar") as tar:
            member = tar.extractfile("text")
            assert member is not None
            assert member.read() == text
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
            assert mapped[:] == text


def test_any_offset(texts: list[Path]) -> None:
    """pread, lseek from everywhere, and what runtimes do before they read a whole file."""
    for path in texts:
        text = path.read_bytes()
        with path.open("rb", buffering=0) as file:
            number = file.fileno()
            for offset in (0, 1, len(text) - 1, len(text), len(text) + 5000):
                assert os.pread(number, 1 << 16, offset) == text[offset:]
            assert os.lseek(number, 0, os.SEEK_CUR) == 0
            assert os.lseek(number, 0, os.SEEK_END) == len(text) == os.fstat(number).st_size
            assert os.read(number, 10) == b""
            assert os.lseek(number, -3, os.SEEK_END) == len(text) - 3
            assert os.read(number, 10) == text[-3:]
            assert os.lseek(number, 2, os.SEEK_SET) == 2
            assert os.read(number, 1) == text[2:3]
        with path.open() as words:
            first = words.readline()
            assert words.tell() == len(first)
            assert words.read() == text.decode()[len(first) :]
            words.seek(0)
            assert words.readline() == first
        with pytest.raises(PermissionError):
            path.open("r+b")


def test_an_open_file_stays_as_it_was(mount: Path) -> None:
    """The text of an open; whoever opens the file later has the newer one, and a size of its own."""
    with Context("hash", "sha256", mount=mount) as context:
        path = context.directory / "status"
        with path.open("rb", buffering=0) as before:
            half = before.read(60)
            for _ in range(1000):
                context.digest(b"text")
            with path.open("rb", buffering=0) as after:
                text = after.read()
                assert b"completed: 1001\n" in text
                whole = half + before.read()
                assert b"completed: 1\n" in whole
                assert os.pread(before.fileno(), 1 << 16, 0) == whole
                assert os.pread(after.fileno(), 1 << 16, 0) == text
            assert path.stat().st_size == len(text) > len(whole)


def test_sizes_and_times(mount: Path, texts: list[Path]) -> None:
    """Of texts as they are; of files that carry data none. Nothing is from 1970, and what changes is new."""
    now = time.time()
    for path in (*texts, mount / "stats"):
        found = path.stat()
        assert found.st_size > 0
        assert found.st_blocks * 512 >= found.st_size
    for path in (mount, mount / "crypto", mount / "contexts", mount / "devices/mac/digest", mount / "version"):
        found = path.stat()
        assert now - 3600 < found.st_mtime == found.st_ctime <= time.time()
        assert (found.st_size > 0) == (path.name == "version")
    one = (mount / "stats").stat().st_mtime_ns
    time.sleep(0.01)
    assert (mount / "stats").stat().st_mtime_ns > one
    assert (mount / "version").stat().st_mtime_ns == (mount / "version").stat().st_mtime_ns


def test_ctl_can_be_sought(mount: Path) -> None:
    """By Python's buffered files and by head: the reply is what is read, wherever the file is."""
    with Context("hash", "sha256", mount=mount) as context:
        with (context.directory / "ctl").open("r+b") as file:
            file.write(b"info\n")
            file.flush()
            assert b"name: sha256\n" in file.read()
        script = 'exec 4<>"$0"; echo info >&4 && head -n 1 <&4'
        first = output("sh", "-c", script, context.directory / "ctl")
        assert first == f"context: {context.number}\n".encode()


def rewound(directory: Path) -> Iterator[set[str]]:
    """What readdir(3) gives, and gives again behind rewinddir(3)."""
    library = ctypes.CDLL(None, use_errno=True)
    library.opendir.restype = ctypes.c_void_p
    library.readdir.restype = ctypes.POINTER(ctypes.c_char * 280)
    for name in ("readdir", "rewinddir", "closedir"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    stream = library.opendir(os.fsencode(directory))
    assert stream
    try:
        while True:
            names = set()
            while entry := library.readdir(stream):
                # d_ino, d_off, d_reclen, d_type
                names.add(entry.contents.raw[19:].split(b"\0")[0].decode())
            yield names - {".", ".."}
            library.rewinddir(stream)
    finally:
        library.closedir(stream)


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="NOT RUN: the layout of struct dirent is that of 64 bits")
def test_rewinddir_looks_again(mount: Path) -> None:
    """A context that was opened or closed meanwhile is there, or is not."""
    listing = rewound(mount / "contexts")
    before = next(listing)
    with Context("hash", "sha256", mount=mount) as context:
        assert next(listing) - before == {str(context.number)}
        assert next(listing) == before | {str(context.number)}
    wait_until(lambda: next(listing) == before)
    listing.close()  # type: ignore[attr-defined]
