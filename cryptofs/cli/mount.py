"""`cryptofs mount` and `cryptofs umount`."""

import logging
import os
import sys
from pathlib import Path

import click

from ..daemon import MountError, Settings, check_options, is_stale, prepare_mountpoint, serve, unmount
from ..engines import ENGINES, check_engines
from ..privileges import SERVICE_USER, Account, PrivilegeError, find_account

_READY = b"ready"
DEFAULT_CONFIG = Path("/etc/cryptofs/cryptofs.toml")


@click.command()
@click.argument("mountpoint", type=Path)  # not click.Path, which would look at a mount that nobody serves yet
@click.option("-o", "options", multiple=True, metavar="OPTION[,…]", help="Mount options: allow_other, auto_unmount, …")
@click.option(
    "--engines",
    metavar="NAME[,…]",
    help=f"Engines in the order in which they are asked for a name; {', '.join(ENGINES)} where nothing is configured.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"Configuration: devices, policy, quotas. As a service or as root: {DEFAULT_CONFIG}, if it is there.",
)
@click.option("--user", metavar="NAME", help="As root: who serves, without any privilege; `cryptofs` if it exists.")
@click.option("--allow-root", is_flag=True, help="Serve as root.")
@click.option("--service", is_flag=True, help="Serve the mount that `cryptofs hand-over` has made (systemd).")
@click.option("--daemon", "detach", is_flag=True, help="Detach once the mount answers.")
@click.option("-v", "--verbose", is_flag=True, help="Log what the daemon does, too.")
def mount(
    mountpoint: Path,
    options: tuple[str, ...],
    engines: str | None,
    config: Path | None,
    user: str | None,
    allow_root: bool,
    service: bool,
    detach: bool,
    verbose: bool,
) -> None:
    """Mount cryptofs at MOUNTPOINT and serve it, in the foreground unless --daemon is given.

    SIGTERM and SIGINT unmount it. A stale mount that a killed daemon left there is cleared first.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    names = () if engines is None else check_engines([name.strip() for name in engines.split(",") if name.strip()])
    checked = check_options([part for option in options for part in option.split(",") if part])
    if service:
        if options or user or detach:
            raise MountError("--service takes no -o, --user or --daemon: `cryptofs hand-over` has made the mount")
        # not resolved: nobody serves the mount yet, and looking at it would wait for an answer
        mountpoint = mountpoint.absolute()
    else:
        prepare_mountpoint(mountpoint)
        mountpoint = mountpoint.resolve()
    account = who_serves(user, allow_root)
    if account and "allow_root" in checked:
        raise MountError("mount option 'allow_root': not with a user that is not root, where allow_other always holds")
    usual = config is None and (service or os.geteuid() == 0)
    if usual:
        config = DEFAULT_CONFIG
    settings = Settings(mountpoint, names, checked, config and config.resolve(), account, service, usual)
    if detach:
        _detach(settings)
    else:
        serve(settings, lambda: None)


def who_serves(user: str | None, allow_root: bool) -> Account | None:
    """Whom the daemon becomes; None: who it is now. Errors: PrivilegeError."""
    if os.geteuid() != 0:
        if user is not None:
            raise PrivilegeError(f"--user {user}: only root can serve as somebody else")
        return None
    if allow_root:
        if user is not None:
            raise PrivilegeError(f"--user {user} and --allow-root: one or the other")
        return None
    if user is not None:
        return find_account(user)
    try:
        return find_account(SERVICE_USER)
    except PrivilegeError:
        raise PrivilegeError(
            f"this would serve as root: name an unprivileged user with `--user NAME` (there is no user "
            f"{SERVICE_USER!r}), or insist with `--allow-root`"
        ) from None


def _detach(settings: Settings) -> None:
    """Fork, and let the parent end when the mount answers, with 1 if it never does."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, "rb") as pipe:
            sys.exit(0 if pipe.read() == _READY else 1)
    os.close(reader)
    os.setsid()
    os.chdir("/")

    def ready() -> None:
        os.write(writer, _READY)
        os.close(writer)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.close(nothing)

    serve(settings, ready)


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while files are open.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount the cryptofs at MOUNTPOINT; its daemon ends."""
    unmount(mountpoint, lazy or is_stale(mountpoint))
