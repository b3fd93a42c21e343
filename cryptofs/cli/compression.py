"""`cryptofs compress` and `decompress`: files through a mount, in the kernel's formats."""

from pathlib import Path

import click

from ..client import Context
from ..records import Operation
from .completing import names
from .files import check_terminal, file_options, mount_option, open_files
from .keys import options
from .pieces import parts
from .streams import Stream

_options = options(
    click.option(
        "-n",
        "--name",
        default="zstd",
        shell_complete=names("compression"),
        show_default=True,
        help="Format, in the kernel's terms: zstd, deflate, zlib-deflate, lz4, lz4hc, lzo.",
    ),
    file_options,
    mount_option,
)


def _run(context: Context, operation: Operation, source: Stream, sink: Stream) -> None:
    with open_files(source, sink) as (reader, writer):
        message = context.message(operation)
        for piece in parts(reader, sink=writer):
            writer.write(message.update(piece))
        writer.write(message.finish())


@click.command()
@_options
@click.option("--level", type=int, help="Level. Each format has its own levels: see algorithms/compression/NAME.")
def compress(name: str, level: int | None, source: Stream, sink: Stream, where: Path | None) -> None:
    """Compress a file. lz4, lz4hc and lzo make a single block of at most 1,040,384 bytes."""
    check_terminal()
    with Context("compression", name, level=level, mount=where) as context:
        _run(context, Operation.COMPRESS, source, sink)


@click.command()
@_options
def decompress(name: str, source: Stream, sink: Stream, where: Path | None) -> None:
    """Decompress a file that `compress`, the kernel, or a tool of the format made."""
    with Context("compression", name, mount=where) as context:
        _run(context, Operation.DECOMPRESS, source, sink)
