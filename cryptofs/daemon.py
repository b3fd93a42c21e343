"""The daemon: mount, serve until asked to stop, unmount."""

import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from .assembly import Assembly
from .errors import CryptofsError
from .hardening import harden
from .operations import Operations

log = logging.getLogger("cryptofs")

# pyfuse3 runs one task a request; fewer tasks than blocked readers would freeze the mount
_MAX_TASKS = 1_000_000
_OPTIONS = frozenset({"allow_other", "allow_root", "auto_unmount", "debug", "nodev", "nosuid", "noexec", "ro"})
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
_MOUNT_PREFIXES = ("subtype=", "fsname=")


class MountError(CryptofsError):
    """The mount could not be made or removed."""


@dataclass(frozen=True)
class Settings:
    """How to serve: where, with which engines in which order, with which mount options."""

    mountpoint: Path
    engines: tuple[str, ...]
    options: tuple[str, ...] = ()
    config: Path | None = None


def check_options(options: Sequence[str]) -> tuple[str, ...]:
    """Mount options as given by -o, checked. Errors: MountError naming what is not known."""
    for option in options:
        if option not in _OPTIONS and not option.startswith(_MOUNT_PREFIXES):
            raise MountError(f"mount option {option!r}: one of {', '.join(sorted(_OPTIONS))}")
    return tuple(options)


def mount_options(options: Sequence[str]) -> set[str]:
    """The options that pyfuse3 gets: the user's, and those that the file system depends on."""
    fixed = {"fsname=cryptofs", "subtype=cryptofs", "default_permissions"}
    return fixed | set(options)


def prepare_mountpoint(path: Path) -> None:
    """Make sure that a mount can be made here: clear what a killed daemon left behind.

    Errors: MountError where the path is no directory, not empty, or a live mount.
    """
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        raise MountError(f"{path}: no such directory") from None
    except NotADirectoryError:
        raise MountError(f"{path}: not a directory") from None
    except OSError as error:
        if error.errno not in _DEAD:
            raise MountError(f"{path}: {error.strerror}") from None
        log.warning("%s: clearing the mount that a killed daemon left", path)
        unmount(path, lazy=True)
        entries = os.listdir(path)
    if os.path.ismount(path):
        raise MountError(f"{path}: something is mounted here; `cryptofs umount {path}` first")
    if entries:
        raise MountError(f"{path}: not empty")


def is_stale(path: Path) -> bool:
    """Whether a FUSE mount whose daemon has gone is at this path."""
    try:
        # not stat: the kernel may answer that from what it remembers
        os.listdir(path)
    except OSError as error:
        return error.errno in _DEAD
    return False


def unmount(path: Path, lazy: bool = False) -> None:
    """Unmount with fusermount3, which may do it for the mount's owner. Errors: MountError."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise MountError("fusermount3 is missing: install the package fuse3") from None
    except subprocess.TimeoutExpired:
        raise MountError(f"{path}: fusermount3 did not end within 30 seconds") from None
    if done.returncode:
        raise MountError(f"{path}: {done.stderr.strip() or 'fusermount3 failed'}")


def raise_descriptor_limit() -> None:
    """AF_ALG takes sockets for every context, so take all the descriptors that are allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Mount and serve until SIGTERM, SIGINT or an unmount from outside; `ready` is called once the mount answers.

    Errors: MountError.
    """
    harden()
    raise_descriptor_limit()
    assembly = Assembly(settings.engines, settings.config)
    operations = Operations(assembly.tree)
    prepare_mountpoint(settings.mountpoint)
    try:
        pyfuse3.init(operations, str(settings.mountpoint), mount_options(settings.options))
    except RuntimeError as error:
        raise MountError(f"{settings.mountpoint}: {error}; is /dev/fuse there and usable?") from None
    unmount_at_end = False
    # what is there now stays: the collector need not look at it again with every few hundred requests
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    assembly.start()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            nursery.start_soon(_tell_when_ready, settings.mountpoint, ready)
            try:
                await pyfuse3.main(max_tasks=_MAX_TASKS)
            finally:
                # main returns by itself only when somebody else has unmounted
                nursery.cancel_scope.cancel()
        unmount_at_end = True
    finally:
        assembly.close()
        pyfuse3.close(unmount=True)
        log.info("%s: %s", settings.mountpoint, "unmounted" if unmount_at_end else "ended by an error")


async def _tell_when_ready(mountpoint: Path, ready: Callable[[], None]) -> None:
    version = mountpoint / "version"
    # a read through the mount: this thread must stay free to answer it; a stop meanwhile ends it by the unmount
    await trio.to_thread.run_sync(version.read_bytes, abandon_on_cancel=True)
    log.info("%s: mounted", mountpoint)
    ready()


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            scope.cancel()
            return
