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
    failed_reads: dict[tuple[int, int], int] = field(default_factory=dict)
    """Errnos of asynchronous reads, by their context's and their control block's address. The kernel has completed them
    with 0 bytes, and io_getevents puts the errno there."""


Handler = Callable[[Desk, Call], int]
"""Answers one system call with its value. Errors: CryptofsError with the call's errno; PassOn."""
