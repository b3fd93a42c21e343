"""The small privileged steps: mounting for another user, guarding the mount point, and giving up root for good.

Root only opens /dev/fuse and mounts. Then a process without any capability, and without a way to gain one, serves the
file system through the descriptor.
"""

import ctypes
import errno
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import SystemFault, WrongUsage, printable
from ..mountinfo import FILE_SYSTEM, mounts_on

SERVICE_USER = "cryptofs"
"""The user that the daemon becomes if root names none."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_NOSYMFOLLOW, _MS_NOATIME, _MS_NODIRATIME = 256, 1024, 2048
MOUNT_FLAGS = {
    "ro": _MS_RDONLY,
    "nosuid": _MS_NOSUID,
    "nodev": _MS_NODEV,
    "noexec": _MS_NOEXEC,
    "nosymfollow": _MS_NOSYMFOLLOW,
    "noatime": _MS_NOATIME,
    "nodiratime": _MS_NODIRATIME,
}
"""Mount options that are flags of mount(2)."""
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 3, 4, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CLONE_NEWNS = 0x20000
_CAPABILITY_VERSION_3 = 0x20080522
_MOUNTS_MAX = 64

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegeError(SystemFault):
    """A privileged step failed, or a privilege could not be given up."""


class NoSuchUser(PrivilegeError, WrongUsage):
    """This user does not exist."""

    errno = errno.ENOENT


# Not a dataclass: loading that module takes a fifth of a privileged step's time.
class Account(NamedTuple):
    """The account that the daemon becomes: name, uid and primary gid. It keeps no other group."""

    name: str
    uid: int
    gid: int


def find_account(name: str) -> Account:
    """The account of this name. Errors: NoSuchUser, or PrivilegeError if it is root."""
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise NoSuchUser(f"user '{printable(name)}': no such user; name another with --user") from None
    if entry.pw_uid == 0:
        raise PrivilegeError(f"user '{printable(name)}' is root; `--allow-root` serves as root", errno.EINVAL)
    return Account(name, entry.pw_uid, entry.pw_gid)


# The mount


def join_first_namespace() -> None:
    """Enter the mount namespace of the first process, whose mounts every process sees.

    systemd gives each command of a sandboxed service its own namespace, even a fully privileged one. Without systemd
    this does nothing. Errors: PrivilegeError.
    """
    if not Path("/run/systemd/system").is_dir():
        return
    try:
        if os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/1/ns/mnt"):
            return
        descriptor = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PrivilegeError.of(error, error.filename) from None
    try:
        if _libc.setns(descriptor, _CLONE_NEWNS):
            raise _last("setns")
    finally:
        os.close(descriptor)


def mount_fuse(path: Path, owner: Account, options: Iterable[str] = (), source: str = "cryptofs") -> int:
    """Mount at an existing directory for `owner` and return the descriptor that serves it (close on exec).

    Every user may use the mount, and the kernel checks owner and mode of each file. Needs CAP_SYS_ADMIN. options: any
    of MOUNT_FLAGS; nosuid and nodev are always set. source: the device in the list of mounts. Errors: PrivilegeError.
    """
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PrivilegeError.of(error, "/dev/fuse") from None
    flags = _MS_NOSUID | _MS_NODEV
    for option in options:
        flags |= MOUNT_FLAGS[option]
    data = (
        f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id={owner.uid},group_id={owner.gid},"
        "allow_other,default_permissions"
    )
    if _libc.mount(os.fsencode(source), os.fsencode(path), FILE_SYSTEM.encode(), flags, data.encode()):
        refused = _last(f"{printable(path)}: mount")
        os.close(descriptor)
        raise refused
    return descriptor


def take_away(path: Path) -> bool:
    """Remove every cryptofs mount from this path at once, even if it is in use: its requests end with an error.

    Returns whether there was one. Errors: PrivilegeError.
    """
    # From the kernel's list: a mount that does not answer would hang whoever touches it.
    count = sum(mount.is_cryptofs for mount in mounts_on(path))
    for _ in range(min(count, _MOUNTS_MAX)):
        over = mounts_on(path)
        if over and not over[-1].is_cryptofs:
            raise PrivilegeError(
                f"{printable(path)}: {over[-1].kind} is mounted over cryptofs: unmount that first", errno.EBUSY
            )
        # By force: that ends the connection even if another process has its descriptor.
        if _libc.umount2(os.fsencode(path), _MNT_FORCE | _MNT_DETACH | _UMOUNT_NOFOLLOW):
            raise _last(f"{printable(path)}: umount")
    return count > 0


def umount(path: Path, lazy: bool) -> tuple[int, str]:
    """Unmount the uppermost mount on this path, as root; returns an errno (0: done) and the reason in words."""
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)):
        number = ctypes.get_errno()
        return number, os.strerror(number)
    return 0, ""


def protect_mountpoint(path: Path) -> None:
    """Give a mount point without a mount to root, with mode 0000.

    Then a program that runs while nothing is mounted fails, and writes no plaintext into a directory. Errors:
    PrivilegeError.
    """
    try:
        # Not through a link, because this runs as root.
        descriptor = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise PrivilegeError.of(error, path) from None
    try:
        os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, 0)
    except OSError as error:
        raise PrivilegeError.of(error, path) from None
    finally:
        os.close(descriptor)


# Giving up


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop_privileges(account: Account) -> None:
    """Become `account` for good: no root id, no other group, no capability in any set, no way to gain one; undumpable.

    The result is checked in /proc/self/status. Errors: PrivilegeError; the process must then end.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # While CAP_SETPCAP is still there.
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise PrivilegeError.of(error, f"cannot become {account.name}") from None
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.byref(nothing)):
        raise _last("capset")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # A change of ids resets it to fs.suid_dumpable.
    _prctl(_PR_SET_DUMPABLE, 0)
    kept = privileges_left(Path("/proc/self/status").read_text(), account)
    if _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0):
        kept.append("dumpable")
    if kept:
        raise PrivilegeError(f"still has privileges: {', '.join(kept)}", errno.EPERM)


def privileges_left(status: str, account: Account) -> list[str]:
    """The privileges of a process beyond those of `account`, from the text of its /proc/<pid>/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    none = "0" * 16
    wanted = {
        "Uid": [str(account.uid)] * 4,
        "Gid": [str(account.gid)] * 4,
        "Groups": [],
        "NoNewPrivs": ["1"],
        **{name: [none] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    }
    return [
        f"{name} {' '.join(fields.get(name, 'unknown').split())}"
        for name, value in wanted.items()
        if name not in fields or fields[name].split() != value
    ]


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise _last(f"prctl {option} ({argument})")


def _last(what: str) -> PrivilegeError:
    """The error of the C library's last call."""
    number = ctypes.get_errno()
    return PrivilegeError(f"{what}: {os.strerror(number)}", number)
