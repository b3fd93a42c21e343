"""Plays the runtime of a container: makes the filter, sends its listener to the agent, becomes the program.

runtime.py SOCKET BUNDLE NAME PROGRAM ARGUMENTS…
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.waiting import PATIENCE, wait_until

from cryptofs.runner import libc
from cryptofs.runner.filter import assemble
from cryptofs.runner.numbers import machine
from cryptofs.runner.rules import rules


def filtered() -> int:
    """Put the filter of a container on this process, which does not hand over write(2); returns its listener."""
    libc.set_no_new_privileges()
    return libc.install_filter(
        assemble(machine(), [rule for rule in rules(False, False, False) if rule.name != "write"], None)
    )


def contained(path: Path, bundle: Path, name: str, *program: object) -> list[str]:
    """The command line that runs a program in a container."""
    return [sys.executable, "-m", "helpers.runtime", *map(str, (path, bundle, name, *program))]


def started(*line: str, **more: object) -> "subprocess.Popen[str]":
    """Start such a command line, with pipes."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen(line, text=True, env=here, **pipes)  # type: ignore[call-overload,no-any-return]


def bundle(directory: Path, *flags: str) -> Path:
    """A bundle with nothing but the flags of its filter."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"linux": {"seccomp": {"flags": list(flags)}}}))
    return directory


@contextlib.contextmanager
def agent(path: Path, log: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """An agent that is ready; it is ended by SIGTERM, if it has not been before."""
    line = [sys.executable, "-m", "cryptofs", "agent", "-v", "--engines", "openssl", *options, str(path)]
    with log.open("wb") as output, subprocess.Popen(line, stderr=output) as process:
        try:
            wait_until(lambda: "ready" in log.read_text() or process.poll() is not None, 60 * PATIENCE)
            yield process
        finally:
            process.terminate()
            process.wait(20 * PATIENCE)


if __name__ == "__main__":
    listener = filtered()
    container = {"ociVersion": "1.0.2", "id": sys.argv[3], "status": "creating", "bundle": sys.argv[2]}
    state = {"ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": os.getpid(), "state": container}
    text = json.dumps(state).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [text[:100]], [listener])
        connection.sendall(text[100:])
    os.close(listener)
    os.execvp(sys.argv[4], sys.argv[4:])
