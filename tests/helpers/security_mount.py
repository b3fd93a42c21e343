"""What the tests of security share: a daemon under the profile `standard`, and what it refuses."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.device_mount import OWNER, configured, declare, write_private

NO = (errno.EINVAL, errno.EACCES, errno.ENOENT)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon under the profile `standard`, with a device that is OWNER's alone."""
    directory = tmp_path_factory.mktemp("security")
    key = write_private(directory / "key", bytes(range(32)))
    owner = (f"user = {OWNER if os.geteuid() == 0 else os.getuid()}", f"group = {os.getgid()}", 'mode = "0600"')
    text = '[policy]\nprofile = "standard"\n' + declare("sealed", key, "aead", "gcm(aes)", *owner)
    yield from configured(directory, text)


def refuses(file: Path, text: str | None, *numbers: int) -> None:
    """Check that writing a line to a file, or reading it, fails with one of these errnos."""
    with pytest.raises(OSError) as caught:
        file.read_text() if text is None else file.write_text(text)
    assert caught.value.errno in numbers, (text, caught.value)


def fresh(mount: Path) -> tuple[int, Path]:
    """A context that nobody has configured: its descriptor and its directory."""
    descriptor = os.open(mount / "crypto", os.O_RDWR | os.O_CLOEXEC)
    return descriptor, mount / "contexts" / os.pread(descriptor, 100, 0).decode().strip()
