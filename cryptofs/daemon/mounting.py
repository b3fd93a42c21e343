"""Mounting: the options of `-o`, the checks of the directory, and unmounting.

This code unmounts only cryptofs mounts. It reads the list of mounts from the kernel.
"""

import errno
import logging
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SystemFault, printable
from ..mountinfo import Mount, location, mounts_on
from .privileges import MOUNT_FLAGS, umount

log = logging.getLogger("cryptofs")

_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
_FUSERMOUNT_SECONDS = 30
_STACKED_MAX = 64


class MountError(SystemFault):
    """The mount could not be made or removed."""


# Options

_OWN = frozenset({"allow_other", "allow_root", "auto_unmount", "debug"})
# Each cancels the flag before it.
_UNDO = {"rw": "ro", "exec": "noexec", "atime": "noatime", "diratime": "nodiratime", "symfollow": "nosymfollow"}
# These change nothing. Every call reaches the daemon at once; files have no access times or versions; none is a device
# or runs with other rights. The last line is only for mount(8) and systemd.
_NO_EFFECT = frozenset(
    """defaults default_permissions suid dev async sync dirsync relatime norelatime strictatime nostrictatime
    lazytime nolazytime iversion noiversion mand nomand silent loud
    auto noauto nofail _netdev user nouser users nousers owner noowner group nogroup""".split()  # noqa: SIM905
)
_NO_EFFECT_PREFIXES = ("x-", "X-", "comment=", "user=", "helper=", "uhelper=")
_REASONS = {
    "remount": "a mount cannot be changed while it is served: unmount it and mount it again",
    "subtype": "programs find cryptofs by its type, fuse.cryptofs",
    "context": "the files have no security labels",
    "fscontext": "the files have no security labels",
    "defcontext": "the files have no security labels",
    "rootcontext": "the files have no security labels",
    "uid": "devices name their user and group in the configuration",
    "gid": "devices name their user and group in the configuration",
    "umask": "devices name their mode in the configuration",
    "nonempty": "cryptofs is mounted on empty directories only",
}
SOURCE = "cryptofs"


@dataclass(frozen=True)
class MountOptions:
    """Mount options from `-o`, checked. If two contradict each other, the later one holds."""

    flags: frozenset[str] = frozenset()
    """The options that are flags of mount(2); see MOUNT_FLAGS."""
    source: str = SOURCE
    """The source in the list of mounts."""
    own: frozenset[str] = frozenset()
    """Any of allow_other, allow_root, auto_unmount, debug."""

    def for_fusermount(self) -> set[str]:
        """The options for fusermount3: these, and those that the file system depends on.

        They exclude auto_unmount, which this program does itself, and flags that fusermount3 may not know. Those change
        nothing, because the tree has no symlinks and no access times. The kernel admits all users or one. allow_root is
        checked with each request.
        """
        fixed = {f"fsname={self.source}", "subtype=cryptofs", "default_permissions"}
        everybody = {"allow_other"} if self.own & {"allow_other", "allow_root"} else set[str]()
        return fixed | (self.flags - {"nodiratime", "nosymfollow"}) | everybody


NO_OPTIONS = MountOptions()


def check_options(options: Iterable[str]) -> MountOptions:
    """Mount options as given by `-o`. Errors: MountError naming the unknown or impossible option, and the reason."""
    flags: set[str] = set()
    own: set[str] = set()
    source = SOURCE
    for option in options:
        name, _, value = option.partition("=")
        if option in MOUNT_FLAGS:
            flags.add(option)
        elif option in _UNDO:
            flags.discard(_UNDO[option])
        elif option in _OWN:
            own.add(option)
        elif name == "fsname" and value:
            source = value
        elif option in _NO_EFFECT or option.startswith(_NO_EFFECT_PREFIXES) or option == "subtype=cryptofs":
            continue
        else:
            known = ", ".join(sorted({*MOUNT_FLAGS, *_OWN, "fsname=NAME"}))
            raise MountError(f"mount option {option!r}: {_REASONS.get(name, f'one of {known}')}", errno.EINVAL)
    if {"allow_other", "allow_root"} <= own:
        raise MountError("mount options allow_other and allow_root: give only one", errno.EINVAL)
    return MountOptions(frozenset(flags), source, frozenset(own))


# The directory


def prepare_mountpoint(given: Path) -> Path:
    """Make sure that a mount is possible here: remove what a killed daemon left behind.

    Returns the absolute path without symlinks. Errors: MountError if the path is not a directory, is not empty, or has
    a mount.
    """
    path = Path(os.fsdecode(location(given)))
    for _ in range(_STACKED_MAX):
        on = mounts_on(path)
        if not (on and on[-1].is_cryptofs and is_stale(path)):
            break
        log.warning("%s: removing the mount that a killed daemon left", printable(path))
        unmount(path, lazy=True)
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        raise MountError(f"{printable(path)}: no such directory; make it first", errno.ENOENT) from None
    except NotADirectoryError:
        raise MountError(f"{printable(path)}: not a directory; choose an empty one", errno.ENOTDIR) from None
    except OSError as error:
        what = f"{printable(on[-1].kind)} is mounted here: " if on else ""
        raise MountError(f"{printable(path)}: {what}{error.strerror}", error.errno or errno.EIO) from None
    if on and on[-1].is_cryptofs:
        raise MountError(
            f"{printable(path)}: cryptofs is already mounted here; to end it:  `cryptofs umount`", errno.EBUSY
        )
    if on:
        raise MountError(
            f"{printable(path)}: {printable(on[-1].kind)} is mounted here; choose an empty directory without a mount",
            errno.EBUSY,
        )
    if entries:
        raise MountError(
            f"{printable(path)}: not empty; choose an empty directory, because a mount would hide the files",
            errno.ENOTEMPTY,
        )
    return path


def is_stale(path: Path) -> bool:
    """Whether this path has a FUSE mount whose daemon has gone."""
    try:
        # Not stat, because the kernel may answer it from its cache.
        os.listdir(path)
    except OSError as error:
        return error.errno in _DEAD
    return False


def unmount(given: Path, lazy: bool = False) -> None:
    """Remove the cryptofs mount at this path; its daemon ends. A mount without a daemon is removed even if it is in
    use.

    lazy: at once, even if files are open. Errors: MountError; any other file system at this path stays.
    """
    path = Path(os.fsdecode(location(given)))
    mount = _cryptofs_at(path)
    if os.geteuid() not in (0, mount.owner):
        raise MountError(
            f"{printable(path)}: uid {mount.owner} serves this mount; only that user and root may unmount it",
            errno.EPERM,
        )
    wrong = _try_unmount(path, lazy)
    if wrong is not None and wrong.errno == errno.EBUSY and not lazy and is_stale(path):
        wrong = _try_unmount(path, lazy=True)
    if wrong is not None:
        raise wrong


def sweep(path: Path) -> None:
    """Remove a mount that a daemon has left here unserved; does nothing if there is none."""
    on = mounts_on(path)
    if on and on[-1].is_cryptofs and is_stale(path):
        unmount(path, lazy=True)


def _cryptofs_at(path: Path) -> Mount:
    on = mounts_on(path)
    if not on:
        if not os.path.lexists(path):
            raise MountError(f"{printable(path)}: no such directory", errno.ENOENT)
        raise MountError(f"{printable(path)}: nothing is mounted here", errno.EINVAL)
    if not on[-1].is_cryptofs:
        over = (
            "over cryptofs here; unmount that first" if any(mount.is_cryptofs for mount in on) else "here, not cryptofs"
        )
        raise MountError(f"{printable(path)}: {printable(on[-1].kind)} is mounted {over}", errno.EINVAL)
    return on[-1]


def _try_unmount(path: Path, lazy: bool) -> MountError | None:
    number, said = umount(path, lazy) if os.geteuid() == 0 else _fusermount(path, lazy)
    if not number:
        return None
    advice = "; close the files that are open in it, or use --lazy" if number == errno.EBUSY and not lazy else ""
    return MountError(f"{printable(path)}: {said}{advice}", number)


def _fusermount(path: Path, lazy: bool) -> tuple[int, str]:
    """The steps for which an ordinary user needs a privileged program: an errno (0: done), and the program's
    message."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_FUSERMOUNT_SECONDS, check=False)
    except FileNotFoundError:
        return errno.ENOENT, "fusermount3 is missing: install the package fuse3"
    except subprocess.TimeoutExpired:
        return errno.ETIMEDOUT, f"fusermount3 did not end within {_FUSERMOUNT_SECONDS} seconds"
    if not done.returncode:
        return 0, ""
    said = done.stderr.decode(errors="backslashreplace").strip() or "fusermount3 failed"
    # It gives the reason only in words. If a mount of ours is still there, this is the only possible reason.
    return errno.EBUSY if mounts_on(path) else errno.EIO, said
