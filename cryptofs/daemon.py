"""The daemon: mount or take over a mount, give up privileges, serve until asked to stop, unmount."""

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
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from .assembly import Assembly
from .errors import CryptofsError
from .hardening import harden
from .logs import Logs
from .operations import Operations
from .privileges import MOUNT_FLAGS, Account, drop_privileges, mount_fuse, protect_mountpoint
from .pulse import Keeper, Pulse
from .reloading import heed_calls
from .service import CONTROL, FUSE, Handed, forget_stored, stored_descriptors, tell, watchdog_seconds

log = logging.getLogger("cryptofs")

# pyfuse3 runs one task a request; fewer tasks than blocked readers would freeze the mount
_MAX_TASKS = 1_000_000
_OPTIONS = frozenset({"allow_other", "allow_root", "auto_unmount", "debug", "nodev", "nosuid", "noexec", "ro"})
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
# round trips through the mount in the time after which the manager would end the daemon
_BEATS = 3
_MOUNT_PREFIXES = ("subtype=", "fsname=")


class MountError(CryptofsError):
    """The mount could not be made or removed."""


@dataclass(frozen=True)
class Settings:
    """How to serve: where, with which engines in which order (none: the configuration's), with which mount options."""

    mountpoint: Path
    engines: tuple[str, ...]
    options: tuple[str, ...] = ()
    config: Path | None = None
    account: Account | None = None
    """Whom to become after the privileged steps; None: stay who one is."""
    service: bool = False
    """The mount was made already and its descriptor is kept by the service manager."""
    config_may_lack: bool = False
    """The configuration need not be there, now or when it is to be read again."""


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


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Mount and serve until SIGTERM, SIGINT or an unmount from outside; `ready` is called once the mount answers.

    Errors: MountError, PrivilegeError, those of the configuration and its keys.
    """
    # it would take a third of the start's time, and find nothing
    gc.disable()
    harden(stays_root=settings.account is None)
    raise_descriptor_limit()
    handed_over = stored_descriptors() if settings.service else {}
    if settings.service and FUSE not in handed_over:
        raise MountError("no mount was handed over: `cryptofs hand-over` must run before this, as root")
    if not settings.service:
        prepare_mountpoint(settings.mountpoint)
    account = settings.account
    with contextlib.ExitStack() as at_end:
        # both are made before there is a key, and before there is a mount that could keep them
        pulse = Pulse(settings.mountpoint, partial(_become, account))
        at_end.callback(pulse.close)
        if os.geteuid() == 0 and not settings.service:
            protect_mountpoint(settings.mountpoint)
        if account is not None:
            at_end.callback(Keeper(settings.mountpoint).close)
        serving = account.uid if account is not None else None
        assembly = Assembly(settings.engines, settings.config, handed_over, settings.config_may_lack, serving)
        try:
            where = _mount_point(settings, handed_over)
            _become(account)
            _init(assembly, settings, where)
        except BaseException:
            assembly.close()
            raise
        # after the last fork and the last step that may fail
        logs = Logs()
        logs.start(logging.getLogger().level, settings.service if assembly.with_audit is None else assembly.with_audit)
        at_end.callback(logs.stop)
        at_end.callback(log.info, "%s: unmounted", settings.mountpoint)
        at_end.callback(pyfuse3.close, unmount=True)
        # first of all: nobody may be woken by a session that is gone
        at_end.callback(assembly.close)
        if settings.service:
            # kept by the manager it would keep the mount alive when this process is not
            forget_stored()
        # what is there now stays: the collector need not look at it again with every few hundred requests
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000, 20, 20)
        try:
            trio.run(_serve, settings.mountpoint, assembly, pulse, handed_over.get(CONTROL), ready)
        except BaseException:
            log.error("%s: ended by an error", settings.mountpoint)
            raise


def _become(account: Account | None) -> None:
    if account is not None:
        drop_privileges(account)


def _mount_point(settings: Settings, handed_over: dict[str, int]) -> str:
    """What libfuse is given: the directory, or the descriptor of a mount that was made already."""
    if settings.service:
        return f"/dev/fd/{handed_over[FUSE]}"
    if settings.account is None:
        return str(settings.mountpoint)
    flags = [option for option in settings.options if option in MOUNT_FLAGS]
    return f"/dev/fd/{mount_fuse(settings.mountpoint, settings.account, flags)}"


def _init(assembly: Assembly, settings: Settings, where: str) -> None:
    # a mount that was made already has its options
    made = where != str(settings.mountpoint)
    options = {"debug"} & set(settings.options) if made else mount_options(settings.options)
    try:
        pyfuse3.init(Operations(assembly.tree), where, options)
    except RuntimeError as error:
        raise MountError(f"{settings.mountpoint}: {error}; is /dev/fuse there and usable?") from None


async def _serve(
    mountpoint: Path, assembly: Assembly, pulse: Pulse, control: int | None, ready: Callable[[], None]
) -> None:
    assembly.start()
    silent: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, assembly, nursery.cancel_scope)
        if control is not None:
            nursery.start_soon(heed_calls, control, partial(_reload, assembly))
        nursery.start_soon(_show_life, mountpoint, assembly, pulse, ready, silent, nursery.cancel_scope)
        try:
            await pyfuse3.main(max_tasks=_MAX_TASKS)
        finally:
            # main returns by itself only when somebody else has unmounted
            nursery.cancel_scope.cancel()
    tell("STOPPING")
    if silent:
        raise MountError(f"{mountpoint}: the mount does not answer: {silent[0]}")


async def _show_life(
    mountpoint: Path,
    assembly: Assembly,
    pulse: Pulse,
    ready: Callable[[], None],
    silent: list[str],
    scope: trio.CancelScope,
) -> None:
    """Say that the mount answers, once it does; then, if somebody watches, each time that it does.

    If it does not at first, the reason goes to `silent`, and the serving ends.
    """
    wrong = await _asked(pulse, compute=False)
    if wrong:
        # not raised in here, where it would come out in a group with a trace
        silent.append(wrong)
        scope.cancel()
        return
    log.info("%s: mounted", mountpoint)
    tell("STATUS", status(assembly))
    tell("READY")
    ready()
    limit = watchdog_seconds()
    if limit is None:
        pulse.close()
        return
    while True:
        wrong = await _asked(pulse, compute=True)
        if wrong:
            log.error("%s: the mount does not answer as it should: %s", mountpoint, wrong)
        else:
            tell("WATCHDOG")
            tell("STATUS", status(assembly))
        await trio.sleep(limit / _BEATS)


async def _asked(pulse: Pulse, compute: bool) -> str:
    try:
        pulse.ask(compute)
        while True:
            await trio.lowlevel.wait_readable(pulse.socket)
            with contextlib.suppress(BlockingIOError):
                return pulse.answer()
    except OSError as error:
        return f"the asking process: {error.strerror}"


def status(assembly: Assembly) -> str:
    """One line for people: what serves, and how much."""
    engines = ", ".join(engine.name for engine in assembly.table.engines)
    return f"engines {engines}; {len(assembly.table)} contexts open"


async def _heed_signals(assembly: Assembly, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number != signal.SIGHUP:
                log.info("%s: unmounting", signal.Signals(number).name)
                scope.cancel()
                return
            _reload(assembly)


def _reload(assembly: Assembly, handed: dict[str, Handed] | None = None) -> tuple[bool, str]:
    """Reload; whether that was done, and a line about it."""
    tell("RELOADING")
    done = True
    try:
        line = assembly.reload(handed)
        log.info("reloaded: %s", line)
    except Exception as error:
        done = False
        kind = "" if isinstance(error, CryptofsError | OSError) else f"{type(error).__name__}: "
        line = f"reload failed, the old configuration holds: {kind}{error}"
        log.error("%s", line)
    tell("STATUS", f"{line}; {status(assembly)}")
    tell("READY")
    return done, line
