"""`cryptofs hash`: digests of files, printed and checked as sha256sum does.

File names are bytes, as in the arguments and in a checksum file, and are printed as these bytes.
"""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..client import Context, RequestError
from ..errors import KeyMissing, printable
from ..records import Operation
from . import completing
from .checksums import Expected, Listing, Unreadable, quoted
from .files import check_alone, device_option, mount_option
from .keys import Decorator, key_options, key_stream, options, read_key
from .pieces import parts
from .standard import complain, describe
from .streams import Stream, check_key_apart

STANDARD_INPUT = b"-"
_REPORT = f"{__name__}.report"
_TAGS = {"blake2b-512": "BLAKE2b"}
"""coreutils' names of algorithms, if they differ from the upper-case name."""


class Form(NamedTuple):
    """The format of a line."""

    tag: bool
    zero: bool
    binary: bool
    text: bool


def _report(*names: str, help: str) -> Decorator:
    """One of several options; the last one counts."""

    def remember(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        # Options arrive here in the order of the command line.
        if given:
            context.meta[_REPORT] = parameter.name

    return click.option(*names, is_flag=True, expose_value=False, callback=remember, help=help)


_sha256sum_options = options(
    click.option("-c", "--check", is_flag=True, help="Read checksums from FILES and check them."),
    click.option("-b", "--binary", is_flag=True, help="Print an asterisk before the name. The digest is the same."),
    click.option("-t", "--text", is_flag=True, help="Print a space before the name (the default)."),
    click.option("--tag", is_flag=True, help="Print in BSD's format: SHA256 (file) = digest."),
    click.option(
        "-z", "--zero", is_flag=True, help="End each line with NUL instead of newline, and do not escape names."
    ),
    click.option("--ignore-missing", is_flag=True, help="With --check: ignore files that do not exist."),
    _report("--quiet", help="With --check: do not print OK."),
    _report("--status", help="With --check: print nothing; the exit status shows the result."),
    click.option("--strict", is_flag=True, help="With --check: fail if a line is not a checksum."),
    _report("-w", "--warn", help="With --check: warn about each line that is not a checksum."),
)


@click.command("hash")
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=completing.files)
@click.option(
    "-n",
    "--name",
    default="sha256",
    show_default=True,
    shell_complete=completing.names("hash"),
    help="Hash, in the kernel's terms: sha256, hmac(sha256), …",
)
@key_options(required=False)
@_sha256sum_options
@device_option
@mount_option
def hash_(files: tuple[str, ...], name: str, device: str | None, where: Path | None, check: bool, **given: Any) -> None:
    """Print the digest of each FILE, or check a list of them, as sha256sum does.

    Without FILE, or if FILE is -, it reads standard input.
    """
    key = {option: given.pop(option) for option in ("file", "descriptor", "hexadecimal")}
    report = click.get_current_context().meta.get(_REPORT)
    _check_options(check, given | ({report: True} if report else {}))
    check_key_apart(key_stream(key["file"], key["descriptor"]), (Stream.named(file, 0) for file in files or ("-",)))
    if device is not None:
        check_alone("name", "file", "descriptor", "hexadecimal")
        opened = Context.of_device(device, mount=where)
    else:
        opened = Context("hash", name, read_key(**key), mount=where)
    names = [os.fsencode(file) for file in files] or [STANDARD_INPUT]
    with opened as context:
        try:
            if check:
                good = [_check(context, each, report, given["ignore_missing"], given["strict"]) for each in names]
            else:
                form = Form(*(given[option] for option in Form._fields))
                good = [_print(context, each, form) for each in names]
        except RequestError as error:
            if error.errno != KeyMissing.errno or device is not None:
                raise
            raise KeyMissing(f"{name} needs a key: give it with -k FILE or --key-fd N") from None
    if not all(good):
        sys.exit(1)


def _check_options(check: bool, options: dict[str, bool]) -> None:
    for option, is_given in options.items():
        if is_given and check == (option in Form._fields):
            raise click.UsageError(f"--{option.replace('_', '-')}: {'not' if check else 'only'} with --check")
    if options["tag"] and options["text"]:
        raise click.UsageError("--tag and --text: give only one")


def _print(context: Context, name: bytes, form: Form) -> bool:
    """Print the line of one file; returns whether it could be read."""
    try:
        digest = _digest(context, name)
    except Unreadable as error:
        complain(str(error))
        return False
    mark, shown = (b"", name) if form.zero else quoted(name)
    if form.tag:
        line = b"%s (%s) = %s" % (tag_of(context.name).encode(), shown, digest)
    else:
        line = digest + (b" *" if form.binary and not form.text else b"  ") + shown
    sys.stdout.buffer.write(mark + line + (b"\0" if form.zero else b"\n"))
    return True


def tag_of(name: str) -> str:
    """The hash's name at the beginning of a line by --tag."""
    return _TAGS.get(name, name if "(" in name else name.upper())


def _digest(context: Context, name: bytes) -> bytes:
    """The digest of a file in hexadecimal. Errors: Unreadable for the file, RequestError and OSError for the mount."""
    message = context.message(Operation.DIGEST)
    try:
        for piece in _pieces(name):
            message.update(piece)
    except Unreadable:
        # The next file is a separate message.
        context.reset()
        raise
    return message.finish().hex().encode()


def _pieces(name: bytes) -> Iterator[bytes]:
    try:
        with open(0 if name == STANDARD_INPUT else name, "rb", closefd=name != STANDARD_INPUT) as source:
            yield from parts(source)
    except OSError as error:
        # Only errors of the file. Errors of the consumer of the pieces do not come through here.
        shown = "standard input" if name == STANDARD_INPUT else printable(name)
        raise Unreadable(describe(error, shown), missing=error.errno == errno.ENOENT) from None


def _check(context: Context, listing: bytes, report: str | None, ignore_missing: bool, strict: bool) -> bool:
    """Check all files of one list; returns whether the files and the list are right.

    report: the option that sets how much to print, if given.
    """
    shown = "standard input" if listing == STANDARD_INPUT else printable(listing)
    lines = Listing(listing, tag_of(context.name), context.name, 2 * context.digest_size)
    right = wrong = unreadable = 0
    try:
        for found in lines:
            if found is None:
                if report == "warn":
                    complain(f"{shown}: {lines.number}: improperly formatted {context.name} checksum line")
                continue
            word = _verdict(context, found, ignore_missing)
            if word is None:
                continue
            right += word == b"OK"
            wrong += word == b"FAILED"
            unreadable += word == b"FAILED open or read"
            if report != "status" and not (report == "quiet" and word == b"OK"):
                mark, name = quoted(found.name)
                sys.stdout.buffer.write(b"%s%s: %s\n" % (mark, name, word))
    except Unreadable as error:
        complain(str(error))
        return False
    if not lines.good:
        complain(f"{shown}: no properly formatted {context.name} checksum lines found")
        return False
    # Warnings come after the lines that they concern.
    sys.stdout.flush()
    if report != "status":
        _warn(lines.bad, "line is improperly formatted", "lines are improperly formatted")
        _warn(unreadable, "listed file could not be read", "listed files could not be read")
        _warn(wrong, "computed checksum did NOT match", "computed checksums did NOT match")
        if ignore_missing and not right:
            complain(f"{shown}: no file was verified")
    return bool(right) and not wrong and not unreadable and not (strict and lines.bad)


def _verdict(context: Context, found: Expected, ignore_missing: bool) -> bytes | None:
    try:
        return b"OK" if _digest(context, found.name) == found.digest else b"FAILED"
    except Unreadable as error:
        if ignore_missing and error.missing:
            return None
        complain(str(error))
        return b"FAILED open or read"


def _warn(count: int, one: str, many: str) -> None:
    if count:
        complain(f"WARNING: {count} {one if count == 1 else many}")
