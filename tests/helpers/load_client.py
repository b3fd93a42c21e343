"""A client for tests of death and restart: digests without end, and tells when they fail and when they work again.

Lines on standard output, seconds of the monotonic clock: `up T`, `error T ERRNO`. Arguments: mount, bytes a digest.
"""

import hashlib
import sys
import time
from pathlib import Path

from cryptofs.client import Context


def say(*words: object) -> None:
    """One line, at once."""
    print(*words, flush=True)


def main() -> None:
    """Run until killed."""
    mount, size = Path(sys.argv[1]), int(sys.argv[2])
    data = bytes(range(256)) * (size // 256)
    expected = hashlib.sha256(data).digest()
    while True:
        try:
            with Context("hash", "sha256", mount=mount) as context:
                answer = context.digest(data)
                say("up", time.monotonic())
                while answer == expected:
                    answer = context.digest(data)
                say("wrong", time.monotonic())
        except OSError as error:
            say("error", time.monotonic(), error.errno)
            time.sleep(0.02)


main()
