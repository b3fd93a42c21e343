"""`cryptofs mount` and `cryptofs umount`."""

import errno
import logging
import os
import signal
from functools import partial
from pathlib import Path

import click

from ..daemon.detaching import detach
from ..daemon.logs import discards_messages
from ..daemon.mounting import MountError, check_options, prepare_mountpoint, unmount
from ..daemon.privileges import SERVICE_USER, Account, PrivilegeError, find_account
from ..engines import parse_engines
from ..engines.opening import ENGINES
from ..errors import WrongUsage, printable
from . import completing

DEFAULT_CONFIG = Path("/etc/cryptofs/cryptofs.toml")


@click.command()
# Not click.Path, which would access a mount that is not served yet.
@click.argument("mountpoint", type=Path, shell_complete=completing.directories)
@click.option("-o", "options", multiple=True, metavar="OPTION[,…]", help="Mount options: allow_other, auto_unmount, …")
@click.option(
    "--engines",
    metavar="NAME[,…]",
    shell_complete=completing.engines,
    help=f"Engines in the order in which they are asked for a name; default: {', '.join(ENGINES)}.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"Configuration: devices, policy, quotas. As a service or as root: {DEFAULT_CONFIG}, if it is there.",
)
@click.option(
    "--user",
    metavar="NAME",
    shell_complete=completing.users,
    help="As root: the unprivileged user who serves; default: `cryptofs`, if it exists.",
)
@click.option("--allow-root", is_flag=True, help="Serve as root.")
@click.option("--service", is_flag=True, help="Serve the mount that `cryptofs hand-over` has made (systemd).")
@click.option("--daemon", "detached", is_flag=True, help="Detach once the mount answers, and log to syslog.")
@click.option(
    "--log-file",
    metavar="FILE",
    type=Path,
    shell_complete=completing.files,
    help="Log to FILE instead. It is appended to, created with mode 0640, and opened again at SIGHUP.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also log what the daemon does.")
def mount(
    mountpoint: Path,
    options: tuple[str, ...],
    engines: str | None,
    config: Path | None,
    user: str | None,
    allow_root: bool,
    service: bool,
    detached: bool,
    log_file: Path | None,
    verbose: bool,
) -> None:
    """Mount cryptofs at MOUNTPOINT and serve it, in the foreground unless you give --daemon.

    SIGTERM and SIGINT unmount it. It first removes a stale mount of a killed daemon.
    """
    # If SIGCHLD were inherited as ignored, there would be no child to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    names = () if engines is None else parse_engines(engines, ENGINES)
    checked = check_options([part for option in options for part in option.split(",") if part])
    if service:
        if options or user or detached:
            raise WrongUsage("--service takes no -o, --user or --daemon: `cryptofs hand-over` has made the mount")
        # Not resolved: the mount is not served yet, and accessing it would wait for an answer.
        mountpoint = mountpoint.absolute()
    else:
        mountpoint = prepare_mountpoint(mountpoint)
    account = who_serves(user, allow_root)
    if account and "allow_root" in checked.own:
        raise MountError(
            "mount option 'allow_root': not with an unprivileged user: allow_other is always set there", errno.EINVAL
        )
    # Not before: what serves takes longest to load, and the start may be refused.
    from ..daemon.serve import Settings, serve

    usual = config is None and (service or os.geteuid() == 0)
    if usual:
        config = DEFAULT_CONFIG
    settings = Settings(
        mountpoint,
        names,
        checked,
        config and config.resolve(),
        account,
        service,
        usual,
        log_file and log_file.absolute(),
        detached or discards_messages(),
    )
    if detached:
        detach(partial(serve, settings))
    else:
        serve(settings, lambda: None)


def who_serves(user: str | None, allow_root: bool) -> Account | None:
    """The account that the daemon becomes; None: it keeps its user. Errors: PrivilegeError."""
    if os.geteuid() != 0:
        if user is not None:
            raise PrivilegeError(f"--user {printable(user)}: only root can serve as another user", errno.EPERM)
        return None
    if allow_root:
        if user is not None:
            raise WrongUsage(f"--user {printable(user)} and --allow-root: give only one")
        return None
    if user is not None:
        return find_account(user)
    try:
        return find_account(SERVICE_USER)
    except PrivilegeError:
        raise PrivilegeError(
            f"this would serve as root: name an unprivileged user with `--user NAME` (there is no user "
            f"{SERVICE_USER!r}), or allow this with `--allow-root`",
            errno.EPERM,
        ) from None


@click.command()
@click.argument("mountpoint", type=Path, shell_complete=completing.mounts)
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even if files are open.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount the cryptofs at MOUNTPOINT; its daemon ends. Other file systems stay.

    If its daemon has gone, the mount is removed even if files are open in it.
    """
    unmount(mountpoint, lazy)
