"""`cryptofs check-config`: whether a configuration can be used, before a daemon has to."""

from pathlib import Path

import click

from ..assembly import check_devices

DEFAULT = Path("/etc/cryptofs/cryptofs.toml")


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT)
def check_config(file: Path) -> None:
    """Check a configuration FILE (/etc/cryptofs/cryptofs.toml if not given).

    Every error has its file, line and key. Keys are not read: where they come from is shown.
    """
    config, devices = check_devices(file)
    for line in devices:
        click.echo(line)
    policy = config.policy.policy()
    names = policy.everybody.names
    allowed = "every name" if names is None else f"{len(names)} names"
    rules = len(policy.users) + len(policy.groups)
    click.echo(f"{file}: {len(config.devices)} devices, {allowed} for everybody, {rules} rules of users and groups")
