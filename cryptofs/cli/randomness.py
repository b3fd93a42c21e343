"""`cryptofs random`: random bytes from a generator of the mount."""

from pathlib import Path

import click

from ..client import Context
from ..records import PAYLOAD_MAX
from . import completing
from .files import check_terminal, mount_option, output_option
from .output import open_output
from .streams import Stream


@click.command()
@click.argument("count", metavar="N", type=click.IntRange(min=0))
@output_option
@click.option(
    "-n",
    "--name",
    default="stdrng",
    show_default=True,
    shell_complete=completing.names("rng"),
    help="Generator, in the kernel's terms.",
)
@click.option("--hex", "hexadecimal", is_flag=True, help="Print hexadecimal digits and a newline.")
@mount_option
def random(count: int, sink: str, name: str, hexadecimal: bool, where: Path | None) -> None:
    """Write N random bytes."""
    if not hexadecimal:
        check_terminal(", --hex")
    with Context("rng", name, mount=where) as generator, open_output(Stream.named(sink, 1)) as writer:
        while count:
            piece = generator.generate(min(count, PAYLOAD_MAX))
            writer.write(piece.hex().encode() if hexadecimal else piece)
            count -= len(piece)
        if hexadecimal:
            writer.write(b"\n")
