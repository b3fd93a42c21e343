"""What the tests of security share: a daemon under the profile `standard`, and what it refuses."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.other_user import OWNER, ROOT

NO = (errno.EINVAL, errno.EACCES, errno.ENOENT)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon under the profile `standard`, with a device that is OWNER's alone."""
    directory = tmp_path_factory.mktemp("security")
    owner = (f"user = {OWNER if ROOT else os.getuid()}", f"group = {os.getgid()}", 'mode = "0600"')
    text = '[policy]\nprofile = "standard"\n' + declare("sealed", "aead", "gcm(aes)", "{secret}", *owner)
    with serving_config(directory, text, secret=bytes(range(32))) as daemon:
        yield daemon


def refuses(file: Path, text: str | None, *numbers: int) -> None:
    """Check that writing a line to a file, or reading it, fails with one of these errnos."""
    with pytest.raises(OSError) as caught:
        file.read_text() if text is None else file.write_text(text)
    assert caught.value.errno in numbers, (text, caught.value)
