"""Communication between a service and its manager (systemd): readiness, status, and stored descriptors.

The manager stores descriptors for a service by name. A privileged step before the start stores the one of /dev/fuse.
The unprivileged service finds it at its start.
"""

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import SystemFault, printable

FUSE = "fuse"
"""The name of the descriptor that serves the mount."""
KEY_PREFIX = "key-"
"""Prefix of the device's name: the descriptor of the file with its key."""
PIN_PREFIX = "pin-"
"""Prefix of the device's name: the descriptor of the file with its token's PIN."""
PASSPHRASE_PREFIX = "passphrase-"
"""Prefix of the device's name: the descriptor of the file with the passphrase of its keys."""
VERSION_MARK = "@"
"""Between the device's name and the version of a key that has several."""
CONTROL = "control"
"""The name of the listening socket for `cryptofs reload`; its path is `control_path`."""
_FIRST = 3
_STORED_MAX = 200
_BARRIER_TIMEOUT = 5.0

_taken: dict[str, int] | None = None


class Handed(NamedTuple):
    """A file that a step with more rights has opened. path: its path at that time."""

    descriptor: int
    path: Path
    keeper: object = None
    """Closes the descriptor with its last user; None: its opener closes it."""


class ServiceError(SystemFault):
    """The service manager could not be reached, or did not pass what is needed."""


def _about_socket(path: Path, error: OSError, more: str) -> ServiceError:
    # A path that is too long for a socket has no errno, only the interpreter's own words.
    number = error.errno or errno.ENAMETOOLONG
    return ServiceError(f"{printable(path)}: {os.strerror(number)}{more}", number)


def managed() -> bool:
    """Whether a service manager listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def stored_descriptors() -> dict[str, int]:
    """The descriptors that were passed, by name; of two with one name, the later one. Empty without a manager.

    This marks them close-on-exec, and removes the variables from the environment. Every call returns the same.
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
    """Send the manager one `NAME=value`; does nothing without a manager. Errors: ServiceError."""
    if managed():
        _send(f"{name}={value}")


def store(descriptors: Mapping[str, int]) -> None:
    """Store descriptors in the manager until the service takes them; they replace those of the same names.

    Returns when the manager has them. Errors: ServiceError.
    """
    if not managed():
        raise ServiceError(
            "no service manager to hand over to: NOTIFY_SOCKET is not set; systemd runs this as ExecStartPre=+",
            errno.ENOTCONN,
        )
    if len(descriptors) > _STORED_MAX:
        raise ServiceError(f"{len(descriptors)} descriptors to hand over, at most {_STORED_MAX}", errno.EMSGSIZE)
    for name, descriptor in descriptors.items():
        _send(f"FDSTOREREMOVE=1\nFDNAME={name}")
        # FDPOLL=0: otherwise the manager would drop /dev/fuse as soon as no daemon serves it.
        _send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor)
    _barrier()


def forget_stored() -> None:
    """Make the manager release the passed descriptors: if the service dies, its mount must die too.

    Errors: ServiceError.
    """
    for name in stored_descriptors():
        _send(f"FDSTOREREMOVE=1\nFDNAME={name}")


def watchdog_seconds() -> float | None:
    """The watchdog's time in seconds, after which the manager ends this process; None without a watchdog."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 1_000_000 or None


def _send(text: str, *descriptors: int) -> None:
    # cysystemd cannot pass descriptors or send several lines at once, and storing by name needs both.
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
        raise ServiceError.of(error, f"service manager, {text.partition('=')[0]}") from None


def _barrier() -> None:
    # The manager closes its end once it has read everything before.
    ours, theirs = os.pipe()
    try:
        try:
            _send("BARRIER=1", theirs)
        finally:
            os.close(theirs)
        waiting = select.poll()
        waiting.register(ours, 0)
        if not waiting.poll(_BARRIER_TIMEOUT * 1000):
            raise ServiceError(f"the service manager did not answer within {_BARRIER_TIMEOUT:g} s", errno.ETIMEDOUT)
    finally:
        os.close(ours)


# Reloading

_ANSWER_TIMEOUT = 25.0
_MESSAGE_MAX = 8192
_PEER = struct.Struct("iII")
_RELOAD, _DONE, _REFUSED = b"reload", b"done ", b"refused "


def control_path(mountpoint: Path) -> Path:
    """The path of the socket of the service at this mount point. It is beside the mount point, and only root may
    connect."""
    return mountpoint.with_name(f"{mountpoint.name}.control")


def listen(mountpoint: Path) -> int:
    """A listening socket at `control_path`, which the service takes over. Errors: ServiceError."""
    path = control_path(mountpoint)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            listener.bind(str(path))
            listener.listen(8)
            return listener.detach()
    except OSError as error:
        raise _about_socket(path, error, "") from None
    finally:
        os.umask(before)


def ask_to_reload(mountpoint: Path, files: Mapping[str, Handed]) -> str:
    """Make the service of this mount point reload, with these files for its keys; returns its answer.

    Errors: ServiceError with the reason of a refusal; the service then keeps its configuration.
    """
    path = control_path(mountpoint)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as to_service:
            to_service.settimeout(_ANSWER_TIMEOUT)
            to_service.connect(str(path))
            # Keys are only for the service: a socket's credentials are those of the process that made it listen.
            _, uid, _ = _PEER.unpack(to_service.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if uid not in (0, os.geteuid()):
                raise ServiceError(f"{printable(path)}: uid {uid} listens there, not the service", errno.EPERM)
            for name, file in files.items():
                message = f"{name}\0{file.path}".encode(errors="surrogateescape")
                socket.send_fds(to_service, [message], [file.descriptor])
            to_service.send(_RELOAD)
            answer = to_service.recv(_MESSAGE_MAX)
    except TimeoutError:
        raise ServiceError(f"the service did not answer within {_ANSWER_TIMEOUT:g} s", errno.ETIMEDOUT) from None
    except OSError as error:
        raise _about_socket(path, error, ": no service of this version listens; restart it") from None
    said = answer.partition(b" ")[2].decode(errors="replace")
    if not answer.startswith(_DONE):
        raise ServiceError(said or "the service ended without an answer")
    return said


class ReloadCall:
    """One caller on the listening socket. Always `close` it."""

    def __init__(self, caller: socket.socket) -> None:
        self.socket = caller
        self.files: dict[str, Handed] = {}

    def take(self) -> bool:
        """Take one available message; returns whether it was the caller's last.

        Errors: ServiceError for an invalid message, BlockingIOError.
        """
        data, descriptors, flags, _ = socket.recv_fds(self.socket, _MESSAGE_MAX, 4, socket.MSG_CMSG_CLOEXEC)
        if data == _RELOAD and not descriptors:
            return True
        name, nul, path = data.partition(b"\0")
        whole = nul and len(descriptors) == 1 and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        stored = name.decode(errors="surrogateescape")
        if not whole or stored in self.files or len(self.files) >= _STORED_MAX:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ServiceError("not a call to reload")
        self.files[stored] = Handed(descriptors[0], Path(os.fsdecode(path)))
        return False

    def give_files(self) -> dict[str, Handed]:
        """The passed files; the receiver closes them."""
        files, self.files = self.files, {}
        return files

    def answer(self, done: bool, line: str) -> None:
        """Answer the caller; does nothing if it has gone."""
        text = line.encode(errors="backslashreplace")[: _MESSAGE_MAX - len(_REFUSED)]
        with contextlib.suppress(OSError):
            self.socket.send((_DONE if done else _REFUSED) + text)

    def close(self) -> None:
        """Close the connection, and the files that the caller passed."""
        self.socket.close()
        for file in self.give_files().values():
            os.close(file.descriptor)
