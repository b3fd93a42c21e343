"""Keys for the command line: from a file or a descriptor, raw or in hexadecimal."""

from collections.abc import Callable
from typing import Any

import click

from ..errors import InvalidValue
from .pieces import read_full
from .streams import DESCRIPTOR_MAX, Stream

KEY_MAX = 8192
"""Largest key, bytes; twice as much in hexadecimal."""


def key_options(required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options --key-file, --key-fd and --key-hex."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option("--key-hex", "hexadecimal", is_flag=True, help="The key is in hexadecimal.")(function)
        function = click.option(
            "--key-fd",
            "descriptor",
            type=click.IntRange(0, DESCRIPTOR_MAX),
            metavar="N",
            help="Read the key from descriptor N.",
        )(function)
        return click.option(
            "-k",
            "--key-file",
            "file",
            metavar="FILE",
            help=f"Read the key from a file, or from standard input (-).{' A key is required.' if required else ''}",
        )(_required(function) if required else function)

    return decorate


def _required(function: Callable[..., Any]) -> Callable[..., Any]:
    import functools

    @functools.wraps(function)
    def checked(*arguments: Any, file: str | None, descriptor: int | None, **named: Any) -> Any:
        device = named.get("device")
        given = (file is not None) + (descriptor is not None) + (device is not None)
        if given != 1:
            or_device = ", or name a --device that has one" if "device" in named else ""
            what = "two keys" if given else "no key"
            raise click.UsageError(f"{what}: give the key as a file (-k FILE), by --key-file or by --key-fd{or_device}")
        return function(*arguments, file=file, descriptor=descriptor, **named)

    return checked


def key_stream(file: str | None, descriptor: int | None) -> Stream | None:
    """The source of the key; None if none was given."""
    if file is not None:
        return Stream.named(file, 0)
    return Stream.inherited(descriptor) if descriptor is not None else None


def read_key(file: str | None, descriptor: int | None, hexadecimal: bool) -> bytes | None:
    """The key, or None if none was given. Errors: OSError of the file, InvalidValue for its form."""
    stream = key_stream(file, descriptor)
    if stream is None:
        return None
    with stream.open_input() as source:
        key = read_full(source, 2 * KEY_MAX + 2)
    if hexadecimal:
        try:
            key = bytes.fromhex(key.decode("ascii").strip())
        except (UnicodeDecodeError, ValueError):
            raise InvalidValue("key: an even number of hexadecimal digits") from None
    if len(key) > KEY_MAX:
        raise InvalidValue(f"key of more than {KEY_MAX} bytes")
    return key
