"""Keys for the command line: from a file or a descriptor, raw or in hexadecimal."""

import functools
from collections.abc import Callable
from typing import Any

import click

from ..errors import InvalidValue
from .completing import files
from .pieces import read_full
from .streams import DESCRIPTOR_MAX, Stream

KEY_MAX = 8192
"""Largest key, bytes; twice as much in hexadecimal."""


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*decorators: Decorator) -> Decorator:
    """Several options of a command as one, in the order of its help."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.reduce(lambda decorated, option: option(decorated), reversed(decorators), function)

    return decorate


def key_options(required: bool) -> Decorator:
    """The options --key-file, --key-fd and --key-hex."""
    help_file = "Read the key from a file, or from standard input (-)."
    return options(
        click.option(
            "-k",
            "--key-file",
            "file",
            metavar="FILE",
            shell_complete=files,
            help=help_file + (" A key is required." if required else ""),
        ),
        *([_required] if required else []),
        click.option(
            "--key-fd",
            "descriptor",
            type=click.IntRange(0, DESCRIPTOR_MAX),
            metavar="N",
            help="Read the key from descriptor N.",
        ),
        click.option("--key-hex", "hexadecimal", is_flag=True, help="The key is in hexadecimal."),
    )


def _required(function: Callable[..., Any]) -> Callable[..., Any]:
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
