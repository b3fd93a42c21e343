"""The daemon: mount or take over a mount, give up privileges, serve until asked to stop, unmount."""

import contextlib
import ctypes
import errno
import gc
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from ..errors import CryptofsError
from ..fuse import Operations, OwnMount, Transport
from ..mountinfo import mounts_on
from ..nodes import preload
from .assembly import Assembly
from .hardening import harden
from .logs import LogFile, Logs, Standard, Syslog
from .mounting import NO_OPTIONS, MountError, MountOptions, prepare_mountpoint, sweep
from .privileges import Account, drop_privileges, mount_fuse, protect_mountpoint, take_away
from .pulse import Keeper, LostMount, Pulse
from .reloading import Reload, heed_calls
from .service import CONTROL, FUSE, Handed, forget_stored, stored_descriptors, tell, watchdog_seconds

log = logging.getLogger("cryptofs")

# pyfuse3 runs one task for each request. With fewer tasks than blocked readers the mount would freeze.
_MAX_TASKS = 1_000_000
# Round trips through the mount within the time after which the manager would end the daemon.
_BEATS = 3
# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Settings:
    """How to serve: the mount point, the engines in order (empty: the configuration's), the mount options."""

    mountpoint: Path
    engines: tuple[str, ...]
    options: MountOptions = NO_OPTIONS
    config: Path | None = None
    account: Account | None = None
    """The account to become after the privileged steps; None: keep the user."""
    service: bool = False
    """The mount exists already, and the service manager has its descriptor."""
    config_may_lack: bool = False
    """The configuration need not exist, now or at a reload."""
    log_file: Path | None = None
    """Where log lines go; None: to standard error."""
    syslog: bool = False
    """Log to syslog if there is no log file, because standard error is missing or will be."""


def raise_descriptor_limit() -> None:
    """AF_ALG needs sockets for every context, so raise the limit of descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def return_freed_memory() -> None:
    """Make the C library return large freed buffers to the kernel.

    By default it learns from the first one to keep such sizes, and after a burst of large requests the daemon would
    keep the memory. Frequently used buffers stay in their pools, which do not free them.
    """
    with contextlib.suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, 512 * 1024)
        # The end of the heap keeps its threshold, because to return and fetch it again costs page faults.
        set_option(_M_TRIM_THRESHOLD, 4 * 1024 * 1024)


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Mount and serve until SIGTERM, SIGINT or an unmount from outside; `ready` is called once the mount answers.

    Errors: MountError, PrivilegeError, those of the configuration and its keys.
    """
    # The collector would take a third of the start's time, and find nothing.
    gc.disable()
    harden(stays_root=settings.account is None)
    raise_descriptor_limit()
    return_freed_memory()
    handed_over = stored_descriptors() if settings.service else {}
    if settings.service and FUSE not in handed_over:
        raise MountError("no mount was handed over: `cryptofs hand-over` must run before this, as root", errno.ENOTCONN)
    if not settings.service:
        prepare_mountpoint(settings.mountpoint)
    account = settings.account
    with contextlib.ExitStack() as at_end:
        # Both start before there is a key, and before there is a mount that they could keep.
        pulse = Pulse(settings.mountpoint, partial(_become, account))
        at_end.callback(pulse.close)
        if os.geteuid() == 0 and not settings.service:
            protect_mountpoint(settings.mountpoint)
        if account is not None:
            at_end.callback(Keeper(partial(_clear_away, settings.mountpoint)).close)
        elif "auto_unmount" in settings.options.own:
            at_end.callback(Keeper(partial(sweep, settings.mountpoint)).close)
        log_file = _log_file(settings)
        serving = account.uid if account is not None else None
        assembly = Assembly(settings.engines, settings.config, handed_over, settings.config_may_lack, serving)
        at_end.callback(assembly.close)
        device, leave = _device(settings, handed_over)
        at_end.callback(leave)
        transport = Transport(device, assembly.tree, assembly.scheduler, _only(settings))
        at_end.callback(transport.close)
        if account is not None:
            # The account may not be able to read the interpreter's library, where this comes from.
            preload()
        _become(account)
        _init(transport, assembly, settings)
        # After the last fork and the last step that may fail.
        logs = Logs(log_file or (Syslog() if settings.syslog else Standard()))
        logs.start(logging.getLogger().level, settings.service if assembly.with_audit is None else assembly.with_audit)
        at_end.callback(logs.stop)
        at_end.callback(log.info, "%s: unmounted", settings.mountpoint)
        at_end.callback(leave)
        at_end.callback(transport.close)
        at_end.callback(pyfuse3.close, unmount=False)
        # First, because a closed session must not wake any program.
        at_end.callback(assembly.close)
        if settings.service:
            # In the manager's store, it would keep the mount alive after this process's end.
            forget_stored()
        # Objects that exist now stay, so the collector need not check them again every few hundred requests.
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000, 20, 20)
        try:
            trio.run(_serve, settings.mountpoint, assembly, transport, pulse, logs, handed_over.get(CONTROL), ready)
        except BaseException:
            log.error("%s: ended by an error", settings.mountpoint)
            raise


def _become(account: Account | None) -> None:
    if account is not None:
        drop_privileges(account)


def _log_file(settings: Settings) -> LogFile | None:
    if settings.log_file is None:
        return None
    # The writing thread would open it again through this very daemon.
    if settings.log_file.resolve().is_relative_to(settings.mountpoint):
        raise MountError(f"log file {settings.log_file}: not below the mount point", errno.EINVAL)
    owner = settings.account and (settings.account.uid, settings.account.gid)
    try:
        return LogFile(settings.log_file, owner)
    except OSError as error:
        raise MountError.of(error, f"log file {settings.log_file}") from None


def _clear_away(mountpoint: Path) -> None:
    """The work of root's process after the daemon's end."""
    take_away(mountpoint)
    protect_mountpoint(mountpoint)


def _device_at(mountpoint: Path) -> int | None:
    """The device number of the mount, which distinguishes it from another one at the same path."""
    on = mounts_on(mountpoint)
    return on[-1].device if on and on[-1].is_cryptofs else None


def _leave(mount: OwnMount, mountpoint: Path, device: int | None) -> None:
    """Remove the mount, unless it is already gone or something else is mounted over it."""
    if device is not None and _device_at(mountpoint) == device:
        mount.take_away()
    elif any(other.device == device for other in mounts_on(mountpoint)):
        log.warning("%s: the mount stays, because something else is mounted over it", mountpoint)


def _device(settings: Settings, handed_over: dict[str, int]) -> tuple[int, Callable[[], None]]:
    """The descriptor that serves the mount, and the object that removes the mount at the end.

    The mount is made here, unless the service manager has it. Another process removes the manager's mount, and a mount
    that root makes for another user.
    """
    if settings.service:
        return handed_over[FUSE], _nothing
    options, mountpoint = settings.options, settings.mountpoint
    if settings.account is not None:
        return mount_fuse(mountpoint, settings.account, options.flags, options.source), _nothing
    mount = OwnMount(mountpoint, options.for_fusermount())
    return mount.device, partial(_leave, mount, mountpoint, _device_at(mountpoint))


def _nothing() -> None:
    return


def _only(settings: Settings) -> int | None:
    """The uid that may use the mount beside root, if the options say so: the kernel knows only one user or all."""
    if "allow_root" not in settings.options.own:
        return None
    return settings.account.uid if settings.account is not None else os.geteuid()


def _init(transport: Transport, assembly: Assembly, settings: Settings) -> None:
    try:
        # The mount has its options already.
        pyfuse3.init(Operations(assembly.tree), transport.mountpoint, {"debug"} & settings.options.own)
    except RuntimeError as error:
        raise MountError(f"{settings.mountpoint}: {error}", errno.EIO) from None
    transport.hand_over()


async def _serve(
    mountpoint: Path,
    assembly: Assembly,
    transport: Transport,
    pulse: Pulse,
    logs: Logs,
    control: int | None,
    ready: Callable[[], None],
) -> None:
    assembly.start()
    silent: list[str] = []
    reload = partial(_reload, assembly, logs, trio.Lock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heed_signals, reload, nursery.cancel_scope)
        if control is not None:
            nursery.start_soon(heed_calls, control, reload)
        nursery.start_soon(_show_life, mountpoint, assembly, pulse, ready, silent, nursery.cancel_scope)
        nursery.start_soon(partial(pyfuse3.main, max_tasks=_MAX_TASKS))
        try:
            await transport.serve()
        finally:
            # It returns by itself only after an unmount from outside.
            nursery.cancel_scope.cancel()
    tell("STOPPING")
    if silent:
        raise MountError(f"{mountpoint}: {silent[0]}", errno.EIO)


async def _show_life(
    mountpoint: Path,
    assembly: Assembly,
    pulse: Pulse,
    ready: Callable[[], None],
    silent: list[str],
    scope: trio.CancelScope,
) -> None:
    """Report once that the mount answers; with a watchdog, report each further answer.

    If it does not answer at first, or its path leads elsewhere later, the reason goes to `silent`, and serving ends.
    """
    wrong, _ = await _asked(pulse, compute=False)
    if wrong:
        # Not raised here, because it would appear in an exception group with a traceback.
        silent.append(f"the mount does not answer: {wrong}")
        scope.cancel()
        return
    log.info("%s: mounted", mountpoint)
    tell("STATUS", status(assembly))
    tell("READY")
    ready()
    threading.Thread(target=preload, name="cryptofs-stats", daemon=True).start()
    limit = watchdog_seconds()
    if limit is None:
        pulse.close()
        return
    while True:
        wrong, lost = await _asked(pulse, compute=True)
        if wrong:
            log.error("%s: the mount does not answer as it should: %s", mountpoint, wrong)
        if lost:
            # No client can find it any more, and the manager makes a new one.
            silent.append(wrong)
            scope.cancel()
            return
        if not wrong:
            tell("WATCHDOG")
            tell("STATUS", status(assembly))
        await trio.sleep(limit / _BEATS)


async def _asked(pulse: Pulse, compute: bool) -> tuple[str, bool]:
    """The error, if any, and whether the path no longer leads to the mount."""
    try:
        pulse.ask(compute)
        while True:
            await trio.lowlevel.wait_readable(pulse.socket)
            with contextlib.suppress(BlockingIOError):
                return pulse.answer(), False
    except LostMount as lost:
        return lost.message, True
    except OSError as error:
        return f"the pulse process: {error.strerror}", False


def status(assembly: Assembly) -> str:
    """One line for the user: what the last reload did, the engines, and the number of open contexts."""
    engines = ", ".join(engine.name for engine in assembly.table.engines)
    last = f"{assembly.last_reload}; " if assembly.last_reload else ""
    return f"{last}engines {engines}; {len(assembly.table)} contexts open"


async def _heed_signals(reload: Reload, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number != signal.SIGHUP:
                log.info("%s: unmounting", signal.Signals(number).name)
                scope.cancel()
                return
            await reload(None)


async def _reload(
    assembly: Assembly, logs: Logs, one_at_a_time: trio.Lock, handed: dict[str, Handed] | None
) -> tuple[bool, str]:
    """Reload, and continue in the log file that has the name now; returns whether the reload succeeded, and a line
    about it. The requests of clients are answered meanwhile."""
    async with one_at_a_time:
        logs.reopen()
        tell("RELOADING")
        done = True
        try:
            line = assembly.take(await trio.to_thread.run_sync(assembly.prepare, handed))
            log.info("reloaded: %s", line)
        except Exception as error:
            done = False
            kind = "" if isinstance(error, CryptofsError | OSError) else f"{type(error).__name__}: "
            line = f"reload failed, the old configuration stays: {kind}{error}"
            log.error("%s", line)
        assembly.last_reload = line
        assembly.tree.last_reload.note(done)
        tell("STATUS", status(assembly))
        tell("READY")
        return done, line
