"""Which process an object belongs to.

The child of a fork shares the open file of its parent's contexts, but not its locks, its threads and its count of ids:
the two would take each other's answers. So each object remembers its process, and its calls refuse to work in another.
Asking the kernel for the process's id would be a system call a request; a hook of fork costs nothing.
"""

import os
from typing import ClassVar, NoReturn

from .errors import ForkedError


class Process:
    """A process; the child of a fork is another one."""

    current: ClassVar["Process"]


Process.current = Process()


def current() -> Process:
    """The process of what is made now."""
    return Process.current


def is_current(process: Process) -> bool:
    """Whether what was made in `process` is this process's own."""
    return process is Process.current


def check(process: Process, what: str) -> None:
    """Errors: ForkedError where `what` was made before a fork."""
    if process is not Process.current:
        raise ForkedError.what(what)


class Unshared:
    """A base for objects with a descriptor or a thread: they can be neither copied nor pickled."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"a {name} is neither copied nor pickled: open another one, in a child process too")


def _forked() -> None:
    Process.current = Process()


os.register_at_fork(after_in_child=_forked)
