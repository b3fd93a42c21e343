"""`cryptofs check-config`: check a configuration before a daemon uses it."""

import os
from pathlib import Path

import click

from ..daemon.declared import check_devices
from ..daemon.privileges import SERVICE_USER, PrivilegeError, find_account
from ..errors import printable
from .completing import users

DEFAULT = Path("/etc/cryptofs/cryptofs.toml")


user_option = click.option(
    "--user",
    metavar="NAME",
    shell_complete=users,
    help="As root: the user who serves and may own key files; default: `cryptofs`, if it exists.",
)


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT)
@user_option
def check_config(file: Path, user: str | None) -> None:
    """Check a configuration FILE (default: /etc/cryptofs/cryptofs.toml) as a start checks it.

    Every error has its file, line and key. The command reads key files, and tries their keys. It lists what only the
    service itself can check as "not checked here". For the service's configuration, run it as root.
    """
    config, devices = check_devices(file, serving_uid(user))
    for line in devices:
        click.echo(line)
    policy = config.policy.policy()
    names = policy.everybody.names
    allowed = "every name" if names is None else f"{len(names)} names"
    rules = len(policy.users) + len(policy.groups)
    shown = printable(file)
    click.echo(f"{shown}: {len(config.devices)} devices, {allowed} for everybody, {rules} rules of users and groups")


def serving_uid(user: str | None) -> int | None:
    """The uid of the account that will serve, for the option --user; None: this process's."""
    if user is not None:
        return find_account(user).uid
    if os.geteuid() != 0:
        return None
    try:
        return find_account(SERVICE_USER).uid
    except PrivilegeError:
        return None
