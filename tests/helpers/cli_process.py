"""The command line in a forked process: as good as a program of its own, without the time that one takes to start."""

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from helpers.other_user import become

from cryptofs.cli import commands, hash, main, show  # noqa: F401  what the children need is loaded once


class Done(NamedTuple):
    """How it ended: the exit status, and what it said."""

    returncode: int
    stdout: bytes
    stderr: bytes


def forked(
    arguments: list[bytes | str], directory: Path, data: bytes = b"", user: int | None = None, **variables: str
) -> Done:
    """Run `cryptofs` with these arguments in a directory, with `data` as standard input.

    user: as this uid, without the rights of root.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(data)
        given.seek(0)
        child = os.fork()
        if not child:
            _become(arguments, directory, (given.fileno(), output.fileno(), errors.fileno()), user, variables)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        errors.seek(0)
        return Done(status, output.read(), errors.read())


def _become(
    arguments: list[bytes | str],
    directory: Path,
    descriptors: tuple[int, int, int],
    user: int | None,
    variables: dict[str, str],
) -> None:
    status = 99
    try:
        os.chdir(directory)
        os.environ.update(variables)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        if user is not None:
            become(user)
        sys.argv = ["cryptofs", *map(os.fsdecode, arguments)]
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 98
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
