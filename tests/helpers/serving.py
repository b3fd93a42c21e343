"""Commands that serve until they are told to end, in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers.waiting import PATIENCE


class Serving:
    """`cryptofs COMMAND ARGUMENTS…`. It serves as root, if root calls it and the arguments do not say otherwise.

    ready: what its log has as soon as it serves.
    """

    def __init__(self, command: str, *arguments: str, ready: str, log: Path) -> None:
        """Errors: RuntimeError if it does not serve."""
        self._log = log
        line = [sys.executable, "-m", "cryptofs", command, "--verbose", *arguments]
        if "--user" not in arguments:
            line.append("--allow-root")
        with log.open("wb") as output:
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + 60 * PATIENCE
        while ready not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{command} does not serve: {self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30 * PATIENCE)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(30 * PATIENCE)
