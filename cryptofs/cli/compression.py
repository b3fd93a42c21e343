"""`cryptofs compress` and `decompress`: files through a mount, in the kernel's formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..client import Context
from ..records import Operation
from .files import input_option, mount_option, output_option
from .pieces import parts

_name = click.option(
    "-n",
    "--name",
    default="zstd",
    show_default=True,
    help="Format, in the kernel's terms: zstd, deflate, zlib-deflate, lz4, lz4hc, lzo.",
)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What both take."""
    for option in (mount_option, output_option, input_option, _name):
        function = option(function)
    return function


def _run(context: Context, operation: Operation, source: BinaryIO, sink: BinaryIO) -> None:
    message = context.message(operation)
    for piece in parts(source):
        sink.write(message.update(piece))
    sink.write(message.finish())
    sink.flush()


@click.command()
@_options
@click.option("--level", type=int, help="Level; each format has its own, algorithms/compression/NAME tells them.")
def compress(name: str, level: int | None, source: BinaryIO, sink: BinaryIO, where: Path | None) -> None:
    """Compress a file. lz4, lz4hc and lzo make a single block of it, of at most 1,040,384 bytes."""
    with Context("compression", name, level=level, mount=where) as context:
        _run(context, Operation.COMPRESS, source, sink)


@click.command()
@_options
def decompress(name: str, source: BinaryIO, sink: BinaryIO, where: Path | None) -> None:
    """Decompress what `compress`, the kernel, or a tool of the format made."""
    with Context("compression", name, mount=where) as context:
        _run(context, Operation.DECOMPRESS, source, sink)
