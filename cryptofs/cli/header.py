"""`cryptofs header`: the C header of records and of the ioctl."""

import click

from ..records.header import c_header


@click.command()
def header() -> None:
    """Print cryptofs.h, which programs in C include."""
    click.echo(c_header(), nl=False)
