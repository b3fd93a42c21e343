"""Keys for the command line: from a file or a descriptor, raw or in hexadecimal."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidValue

KEY_MAX = 8192
"""Largest key, bytes; twice as much where it is written in hexadecimal."""


def key_options(required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options --key-file, --key-fd and --key-hex."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option("--key-hex", "hexadecimal", is_flag=True, help="The key is written in hexadecimal.")(
            function
        )
        function = click.option(
            "--key-fd", "descriptor", type=int, metavar="N", help="Read the key from descriptor N."
        )(function)
        return click.option(
            "-k",
            "--key-file",
            "file",
            type=click.Path(path_type=Path),
            help=f"Read the key from a file.{' A key is required.' if required else ''}",
        )(_required(function) if required else function)

    return decorate


def _required(function: Callable[..., Any]) -> Callable[..., Any]:
    import functools

    @functools.wraps(function)
    def checked(*arguments: Any, file: Path | None, descriptor: int | None, **named: Any) -> Any:
        device = named.get("device")
        if (file is not None) + (descriptor is not None) + (device is not None) != 1:
            or_device = ", or --device" if "device" in named else ""
            raise click.UsageError(f"give the key by --key-file or by --key-fd{or_device}")
        return function(*arguments, file=file, descriptor=descriptor, **named)

    return checked


def read_key(file: Path | None, descriptor: int | None, hexadecimal: bool) -> bytes | None:
    """The key, or None where none was given. Errors: OSError of the file, InvalidValue for its form."""
    if file is None and descriptor is None:
        return None
    source = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file is not None else descriptor
    assert source is not None
    with open(source, "rb", closefd=file is not None) as stream:
        key = stream.read(2 * KEY_MAX + 2)
    if hexadecimal:
        try:
            key = bytes.fromhex(key.decode("ascii").strip())
        except (UnicodeDecodeError, ValueError):
            raise InvalidValue("key: an even number of hexadecimal digits") from None
    if len(key) > KEY_MAX:
        raise InvalidValue(f"key of more than {KEY_MAX} bytes")
    return key
