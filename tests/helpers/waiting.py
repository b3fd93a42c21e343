"""Waiting for what comes a little later, on a machine that may be busy."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("CRYPTOFS_PATIENCE", "1"))
"""Multiplies every deadline: more than 1 on a machine that is slow by nature, such as an emulated one."""


def wait_until(condition: Callable[[], object], seconds: float = 10 * PATIENCE, what: Callable[[], str] = str) -> None:
    """Wait until it holds. what: says what there is in its place, if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        time.sleep(0.02)
