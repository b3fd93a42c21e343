"""`cryptofs cuse`: /dev/crypto as a device node."""

import grp
import logging
import pwd
import re
import signal

import click

from ..cuse import Access, NodeError, Server, open_device
from ..daemon.hardening import harden
from ..daemon.privileges import NoSuchUser, drop_privileges
from ..daemon.serve import raise_descriptor_limit
from ..daemon.service import tell
from ..engines.opening import ENGINES
from ..errors import InvalidValue, printable
from ..runner.answers import open_backend
from . import completing
from .computing import Computing, computing_options
from .mount import who_serves

log = logging.getLogger("cryptofs")

_OTHERS_WRITE = 0o002


@click.command()
@computing_options(*ENGINES)
@click.option("--name", default="crypto", show_default=True, help="The node's name below /dev.")
@click.option("--mode", default="0600", show_default=True, help="The node's mode, in octal.")
@click.option(
    "--owner",
    default="root",
    show_default=True,
    metavar="USER",
    shell_complete=completing.users,
    help="The node's owner.",
)
@click.option(
    "--group",
    default="root",
    show_default=True,
    metavar="GROUP",
    shell_complete=completing.groups,
    help="The node's group.",
)
@click.option(
    "--user",
    metavar="NAME",
    shell_complete=completing.users,
    help="The unprivileged user who serves; default: `cryptofs`, if it exists.",
)
@click.option("--allow-root", is_flag=True, help="Serve as root.")
@click.option("-v", "--verbose", is_flag=True, help="Also log what is done.")
def cuse(
    computing: Computing,
    name: str,
    mode: str,
    owner: str,
    group: str,
    user: str | None,
    allow_root: bool,
    verbose: bool,
) -> None:
    """Serve cryptodev's /dev/crypto as a device node, in the foreground. Needs root and a kernel with CUSE.

    SIGTERM and SIGINT end it, and the node goes with it. Only the node's mode and owner decide who may use it.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    access = Access(_mode(mode), _uid(owner), _gid(group))
    mount, engines = computing.chosen()
    backend = open_backend(mount, engines)
    account = who_serves(user, allow_root)
    raise_descriptor_limit()
    server = Server(open_device(name, access), backend, waits=mount is not None)
    try:
        if account is not None:
            drop_privileges(account)
        harden(stays_root=account is None)
        tell("READY")
        log.info("/dev/%s: ready", name)
        if not server.serve((signal.SIGTERM, signal.SIGINT)):
            raise NodeError(f"/dev/{name}: the kernel has ended the device")
    finally:
        server.close()


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise InvalidValue(f"--mode {text[:20]!r}: three octal digits, such as 0660")
    mode = int(text, 8)
    if mode & _OTHERS_WRITE:
        log.warning("--mode %s: every user of the machine may use the device", text)
    return mode


def _uid(owner: str) -> int:
    try:
        return pwd.getpwnam(owner).pw_uid
    except (KeyError, ValueError):
        raise NoSuchUser(f"--owner '{printable(owner)}': no such user") from None


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise NoSuchUser(f"--group '{printable(group)}': no such group") from None
