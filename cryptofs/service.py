"""What a service and its manager (systemd) tell each other: readiness, status, and descriptors that are kept.

The manager keeps descriptors for a service by name. A privileged step before the start stores the one of /dev/fuse
there, and the service, which has no privilege, finds it at its start.
"""

import os
import select
import socket
from collections.abc import Mapping

from .errors import CryptofsError

FUSE = "fuse"
"""The name of the descriptor that serves the mount."""
KEY_PREFIX = "key-"
"""Before the device's name: the descriptor of the file that holds its key."""
_FIRST = 3
_STORED_MAX = 200
_BARRIER_TIMEOUT = 5.0

_taken: dict[str, int] | None = None


class ServiceError(CryptofsError):
    """The service manager could not be told, or has not handed over what is needed."""


def managed() -> bool:
    """Whether a service manager listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def stored_descriptors() -> dict[str, int]:
    """The descriptors that were handed over, by name; of two with one name, the later. Empty without a manager.

    They are marked close-on-exec, and the environment forgets them. Every call gives the same.
    """
    global _taken  # noqa: PLW0603 (descriptors of the process, taken once)
    if _taken is None:
        mine = os.environ.get("LISTEN_PID") == str(os.getpid())
        count = int(os.environ.get("LISTEN_FDS", "0")) if mine else 0
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        _taken = {}
        for offset in range(count):
            os.set_inheritable(_FIRST + offset, False)
            name = names[offset] if offset < len(names) else str(offset)
            if name in _taken:
                os.close(_taken[name])
            _taken[name] = _FIRST + offset
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(variable, None)
    return dict(_taken)


def tell(name: str, value: str = "1") -> None:
    """Tell the manager one `NAME=value`; nothing happens where there is none. Errors: ServiceError."""
    if not managed():
        return
    try:
        from cysystemd.daemon import Notification, notify
    except ImportError:
        _send(f"{name}={value}")
        return
    try:
        # a constant's value is the library's own
        constant = Notification[name].value.constant is not None
        notify(Notification[name], "" if constant else value, return_exceptions=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ServiceError(f"{name}: {error}") from None


def store(descriptors: Mapping[str, int]) -> None:
    """Have the manager keep descriptors until the service takes them; those of the same names go first.

    Returns when it has them. Errors: ServiceError.
    """
    if not managed():
        raise ServiceError("no service manager to hand over to: NOTIFY_SOCKET is not set")
    if len(descriptors) > _STORED_MAX:
        raise ServiceError(f"{len(descriptors)} descriptors to hand over, at most {_STORED_MAX}")
    for name, descriptor in descriptors.items():
        _send(f"FDSTOREREMOVE=1\nFDNAME={name}")
        # FDPOLL=0: it would drop /dev/fuse as soon as that is not served
        _send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)
    _barrier()


def forget_stored() -> None:
    """Have the manager let go of what was handed over: with the service dead, its mount must be dead too.

    Errors: ServiceError.
    """
    for name in stored_descriptors():
        _send(f"FDSTOREREMOVE=1\nFDNAME={name}")


def watchdog_seconds() -> float | None:
    """After how many seconds of silence the manager ends this process; None if it does not watch."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1_000_000 or None


def _send(text: str, *descriptors: int) -> None:
    # the library cannot pass descriptors, nor say several lines at once, as storing by name needs
    address = os.environ["NOTIFY_SOCKET"]
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_manager:
            to_manager.connect(address)
            if descriptors:
                socket.send_fds(to_manager, [text.encode()], list(descriptors))
            else:
                to_manager.send(text.encode())
    except OSError as error:
        raise ServiceError(f"{text.partition('=')[0]}: {error.strerror}") from None


def _barrier() -> None:
    # the manager closes its end once it has read all that was sent before
    ours, theirs = os.pipe()
    try:
        try:
            _send("BARRIER=1", theirs)
        finally:
            os.close(theirs)
        waiting = select.poll()
        waiting.register(ours, 0)
        if not waiting.poll(_BARRIER_TIMEOUT * 1000):
            raise ServiceError(f"the service manager did not answer within {_BARRIER_TIMEOUT:g} s")
    finally:
        os.close(ours)
