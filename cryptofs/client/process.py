"""Which process an object belongs to.

The child of a fork shares the open files of its parent's contexts, but not the locks, the threads and the count of ids.
So the two would take each other's answers. Each object therefore remembers its process, and its calls refuse to work in
another one.

Asking the kernel for the process id would be a system call for each request. A fork hook costs nothing.
"""

import os
from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn, Self

from .errors import ForkedError


class Process:
    """A process; the child of a fork is another one."""

    current: ClassVar["Process"]


Process.current = Process()


def current() -> Process:
    """The current process."""
    return Process.current


def is_current(process: Process) -> bool:
    """Whether an object of `process` belongs to the current process."""
    return process is Process.current


def check(process: Process, what: str) -> None:
    """Errors: ForkedError if `what` was made before a fork."""
    if process is not Process.current:
        raise ForkedError.what(what)


class Unshared(ABC):
    """A base for objects with a descriptor or a thread. `with` closes them; you cannot copy or pickle them."""

    @abstractmethod
    def close(self) -> None:
        """Release the descriptor, or end the thread; you may call it twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be copied or pickled: open a new one, in a child process too")


def _forked() -> None:
    Process.current = Process()


os.register_at_fork(after_in_child=_forked)
