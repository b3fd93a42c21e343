"""Programs under `cryptofs run`."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from helpers.machine import TESTS
from helpers.waiting import PATIENCE

ABC = hashlib.sha256(b"abc").hexdigest()
DIGEST = """
import socket
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "sha256"))
    with bound.accept()[0] as operation:
        operation.sendall(b"abc")
        print(operation.recv(32).hex(), flush=True)
"""
"""A program that prints the digest ABC by AF_ALG."""
OPENSSL = ("--engines", "openssl")


def _sections() -> dict[str, str]:
    parts = (TESTS / "clients" / "alg.txt").read_text().split("== ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


SECTIONS = _sections()
"""What a kernel 7.2 gives to clients/alg.c, by its section: alg.txt is what it printed there without `cryptofs run`."""


def command(*program: object, options: Sequence[str] = OPENSSL) -> list[str]:
    """The command line that runs a program under the supervisor."""
    return [sys.executable, "-m", "cryptofs", "run", *options, "--", *map(str, program)]


def run(*program: object, options: Sequence[str] = OPENSSL, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end. Its output comes as text, and it has no input. more: of subprocess.run."""
    line = command(*program, options=options)
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60 * PATIENCE, **more}
    return subprocess.run(line, text=True, check=False, **given)
