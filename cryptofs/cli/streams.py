"""The meaning of names on the command line: `-`, an inherited descriptor or a file, and whether two are the same."""

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from ..errors import printable

_STANDARD = {0: "standard input", 1: "standard output", 2: "standard error"}
DESCRIPTOR_MAX = 2**31 - 1
_LINKS_MAX = 40
_DESCRIPTORS = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd")


class NamedFile(io.FileIO):
    """An unbuffered file whose read and write errors name it: `label` is their filename, even if a descriptor was
    opened."""

    def __init__(self, file: str | int, mode: str, label: str, *, closefd: bool = True) -> None:
        """file: a path or an open descriptor. Errors: OSError."""
        self.label = label
        with _named(label):
            super().__init__(file, mode, closefd=closefd)

    def readinto(self, buffer: Any) -> Any:
        with _named(self.label):
            return super().readinto(buffer)

    def read(self, size: int | None = -1) -> Any:
        with _named(self.label):
            return super().read(-1 if size is None else size)

    def readall(self) -> Any:
        with _named(self.label):
            return super().readall()

    def write(self, data: Any) -> Any:
        with _named(self.label):
            return super().write(data)


@contextmanager
def _named(label: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, label) from None


@dataclass(frozen=True)
class Stream:
    """A file that a command reads or writes: a path or an inherited descriptor. label: its name in messages."""

    label: str
    path: str | None
    descriptor: int | None

    @classmethod
    def named(cls, name: str, standard: int) -> "Stream":
        """`-` is the descriptor `standard`. Other names of inherited descriptors, such as /dev/stdin or /dev/fd/3, also
        mean that stream with its position, as in a shell's redirection."""
        if name == "-":
            return cls.inherited(standard)
        descriptor = _descriptor_of(name)
        if descriptor is not None:
            return cls(name, None, descriptor)
        return cls(name, name, None)

    @classmethod
    def inherited(cls, descriptor: int) -> "Stream":
        """The stream of an open descriptor."""
        return cls(_STANDARD.get(descriptor, f"descriptor {descriptor}"), None, descriptor)

    def status(self) -> os.stat_result | None:
        """None if it cannot be determined; opening it will report the error."""
        try:
            return os.stat(self.path) if self.path is not None else os.fstat(self.descriptor or 0)
        except OSError:
            return None

    def open_input(self) -> NamedFile:
        """Unbuffered, so that no byte is read beyond the request. Errors: OSError."""
        if self.path is not None:
            return NamedFile(self.path, "rb", self.label)
        return NamedFile(self.descriptor or 0, "rb", self.label, closefd=False)


def opened_elsewhere(path: str) -> str | None:
    """Follow symbolic links to a descriptor of some process: its path in /proc, or None if there is none.

    Its target is a file that is already open, not a name.
    """
    for _ in range(_LINKS_MAX):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory or ".")
        if name.isdecimal() and _DESCRIPTORS.fullmatch(directory):
            return f"{directory}/{name}"
        try:
            path = os.path.join(directory, os.readlink(os.path.join(directory, name)))
        except OSError:
            return None
    return None


def _descriptor_of(path: str) -> int | None:
    found = opened_elsewhere(path)
    if found is None:
        return None
    directory, name = os.path.split(found)
    match = _DESCRIPTORS.fullmatch(directory)
    own = match is not None and match[1] == os.readlink("/proc/self")
    return int(name) if own and int(name) <= DESCRIPTOR_MAX else None


def _same_file(one: Stream, other: Stream) -> bool:
    """Whether bytes written to one could be read from the other.

    Terminals, other devices and sockets may be both.
    """
    first, second = one.status(), other.status()
    if first is None or second is None:
        return False
    if stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode):
        return first.st_rdev == second.st_rdev
    holds = stat.S_ISREG(first.st_mode) or stat.S_ISFIFO(first.st_mode)
    return holds and os.path.samestat(first, second)


def _same_stream(one: Stream, other: Stream) -> bool:
    """Whether reading one takes data from the other. A file that is opened twice is two streams; a FIFO is always
    one."""
    if one.descriptor is not None and one.descriptor == other.descriptor:
        return True
    first, second = one.status(), other.status()
    if first is None or second is None or not os.path.samestat(first, second):
        return False
    # Duplicates of a descriptor share its position, and nothing shows whether two are duplicates.
    return (one.descriptor is not None and other.descriptor is not None) or stat.S_ISFIFO(first.st_mode)


def check_key_apart(key: Stream | None, sources: Iterable[Stream]) -> None:
    """Errors: UsageError if the key and the data come from one stream."""
    for source in sources:
        if key is not None and _same_stream(key, source):
            names = printable(key.label)
            if key.label != source.label:
                names += f" and {printable(source.label)}"
            raise click.UsageError(
                f"{names}: key and data come from one stream; give the data as a file, or the key by -k FILE"
            )


def check_apart(what: str, one: Stream, data: Stream) -> None:
    """Errors: UsageError if something and the data come from one stream."""
    if _same_stream(one, data):
        raise click.UsageError(f"{printable(one.label)}: {what} and data come from one stream; give one as a file")


def check_output_apart(sink: Stream, source: Stream, key: Stream | None) -> None:
    """Errors: UsageError if the output is the input file or the key file, under any name."""
    for what, stream in (("input", source), ("key file", key)):
        if stream is not None and _same_file(stream, sink):
            raise click.UsageError(
                f"{printable(sink.label)}: the output is the {what}, {printable(stream.label)}, itself; "
                "write to another file and rename it"
            )
