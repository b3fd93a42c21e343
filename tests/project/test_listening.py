"""Private Unix sockets."""

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from cryptofs import listening as module
from cryptofs.errors import SystemFault
from cryptofs.listening import listening


def test_private(tmp_path: Path) -> None:
    """Only the owner may connect, whatever the umask; the file goes at the end, unless it is another one by then."""
    path = tmp_path / "socket"
    before = os.umask(0)
    with listening(path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.umask(before) == 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            server.accept()[0].close()
    assert not path.exists()
    with listening(path):
        path.unlink()
        path.touch()
    assert path.exists()


def test_stale_and_live(tmp_path: Path) -> None:
    """What a killed program left is replaced; what is served, and what is no socket, is not."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with listening(path), pytest.raises(SystemFault) as caught, listening(path):
        pass
    assert caught.value.errno == errno.EADDRINUSE
    path.touch()
    with pytest.raises(SystemFault) as caught, listening(path):
        pass
    assert caught.value.errno == errno.EADDRINUSE


def test_a_live_one_that_accepts_nobody(tmp_path: Path) -> None:
    """A program that was stopped, whose backlog is full, is left alone, and nobody waits for it."""
    path = tmp_path / "socket"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting,
    ):
        stopped.bind(str(path))
        stopped.listen(0)
        waiting.connect(str(path))
        with pytest.raises(SystemFault) as caught, listening(path):
            pass
        assert caught.value.errno == errno.EADDRINUSE


def test_a_locked_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who may read a directory can lock it: a start does not wait for them without end."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(SystemFault, match="has locked") as caught, listening(tmp_path / "socket"):
            pass
    finally:
        os.close(descriptor)
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize(("name", "number"), [("none/socket", errno.ENOENT), ("x" * 120, errno.ENAMETOOLONG)])
def test_places_that_cannot_be(tmp_path: Path, name: str, number: int) -> None:
    """With the errno, the path and the reason."""
    with pytest.raises(SystemFault, match=name) as caught, listening(tmp_path / name):
        pass
    assert caught.value.errno == number
