"""`cryptofs check-config`: whether a configuration can be used, before a daemon has to."""

import os
from pathlib import Path

import click

from ..daemon.declared import check_devices
from ..daemon.privileges import SERVICE_USER, PrivilegeError, find_account
from ..errors import printable

DEFAULT = Path("/etc/cryptofs/cryptofs.toml")


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT)
@click.option("--user", metavar="NAME", help="As root: who will serve, and may own key files; `cryptofs` if it exists.")
def check_config(file: Path, user: str | None) -> None:
    """Check a configuration FILE (/etc/cryptofs/cryptofs.toml if not given) as a start checks it.

    Every error has its file, line and key. Key files are read, and their keys are tried. What only the service itself
    can find out is told as "not checked here". For the service's configuration run it as root.
    """
    config, devices = check_devices(file, _serving(user))
    for line in devices:
        click.echo(line)
    policy = config.policy.policy()
    names = policy.everybody.names
    allowed = "every name" if names is None else f"{len(names)} names"
    rules = len(policy.users) + len(policy.groups)
    shown = printable(file)
    click.echo(f"{shown}: {len(config.devices)} devices, {allowed} for everybody, {rules} rules of users and groups")


def _serving(user: str | None) -> int | None:
    if user is not None:
        return find_account(user).uid
    if os.geteuid() != 0:
        return None
    try:
        return find_account(SERVICE_USER).uid
    except PrivilegeError:
        return None
