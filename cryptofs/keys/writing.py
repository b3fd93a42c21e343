"""New files of keys: whole or not at all, never over another file, and readable by their owner alone."""

import errno
import os
import secrets
from pathlib import Path

from ..errors import InvalidValue, SystemFault, printable
from ..keyfiles import VERSION_MAX, list_versions


def write_new(path: Path, key: bytearray, owner: tuple[int, int] | None = None) -> None:
    """Write a key to a file that does not exist yet, with mode 0600; it is on the disk when this returns.

    owner: uid and gid of the file; None: this process's. Errors: SystemFault; EEXIST if the file exists.
    """
    if not path.name:
        raise SystemFault(f"{printable(path)}: {os.strerror(errno.EISDIR)}", errno.EISDIR)
    temporary = path.with_name(f".cryptofs-{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, *owner)
            view = memoryview(key)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            # A link never replaces a file, as a rename would.
            os.link(temporary, path)
        finally:
            os.close(descriptor)
            os.unlink(temporary)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        more = ": it is not overwritten" if error.errno == errno.EEXIST else ""
        raise SystemFault(f"{printable(path)}: {os.strerror(error.errno or 0)}{more}", error.errno) from None


def add_version(directory: Path, key: bytearray) -> int:
    """Write a key as the next version of a key set, with the owner of the newest one; returns its number.

    Errors: SystemFault, KeyUnavailable and InvalidValue of `list_versions`.
    """
    try:
        status = os.stat(directory)
        versions = list_versions(directory, {os.geteuid(), status.st_uid})
        newest = max(versions)
        owner = os.stat(versions[newest], follow_symlinks=False)
    except OSError as error:
        raise SystemFault.of(error, directory) from None
    if newest == VERSION_MAX:
        raise InvalidValue(f"{printable(directory)}: version {newest} is the last number")
    write_new(directory / str(newest + 1), key, (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None)
    return newest + 1
