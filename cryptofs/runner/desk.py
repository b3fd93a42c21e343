"""What the handlers of system calls work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .alg.bound import Store
from .backend import Backend
from .descriptors import Descriptors
from .endpoint import Endpoint
from .notify import Call

OpenDevice = Callable[[Backend], Endpoint]
"""Makes what stands behind a device that the program has opened."""


@dataclass(frozen=True)
class Desk:
    """devices: by path, what an open of it gives in place of the file."""

    backend: Backend
    descriptors: Descriptors
    devices: Mapping[bytes, OpenDevice] = field(default_factory=dict)
    store: Store = field(default_factory=Store)
    """What the sockets' data is counted in."""
    outcomes: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """What asynchronous calls give that the kernel completes with something else: a size or an errno's negative, by
    process, context and control block. io_getevents puts it into the event."""


Handler = Callable[[Desk, Call], int]
"""Answers one system call with its value. Errors: CryptofsError with the call's errno; PassOn."""
