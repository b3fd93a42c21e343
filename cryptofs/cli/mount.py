"""`cryptofs mount` and `cryptofs umount`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import trio

from ..daemon import Settings, check_options, is_stale, prepare_mountpoint, serve, unmount
from ..engines import ENGINES, check_engines

_READY = b"ready"


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-o", "options", multiple=True, metavar="OPTION[,…]", help="Mount options: allow_other, auto_unmount, …")
@click.option(
    "--engines",
    default=",".join(ENGINES),
    show_default=True,
    metavar="NAME[,…]",
    help="Engines in the order in which they are asked for a name.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Configuration: devices, policy, quotas; see docs/configuration.md.",
)
@click.option("--daemon", "detach", is_flag=True, help="Detach once the mount answers.")
@click.option("-v", "--verbose", is_flag=True, help="Log what the daemon does, too.")
def mount(
    mountpoint: Path, options: tuple[str, ...], engines: str, config: Path | None, detach: bool, verbose: bool
) -> None:
    """Mount cryptofs at MOUNTPOINT and serve it, in the foreground unless --daemon is given.

    SIGTERM and SIGINT unmount it. A stale mount that a killed daemon left there is cleared first.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    names = check_engines([name.strip() for name in engines.split(",") if name.strip()])
    checked = check_options([part for option in options for part in option.split(",") if part])
    prepare_mountpoint(mountpoint)
    settings = Settings(mountpoint.resolve(), names, checked, config and config.resolve())
    if detach:
        _detach(settings)
    else:
        _serve(settings, lambda: None)


def _serve(settings: Settings, ready: Callable[[], None]) -> None:
    trio.run(serve, settings, ready)


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

    _serve(settings, ready)


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while files are open.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount the cryptofs at MOUNTPOINT; its daemon ends."""
    unmount(mountpoint, lazy or is_stale(mountpoint))
