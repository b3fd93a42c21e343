"""Waiting in tests."""

import time


def wait_until(condition: object, seconds: float = 5) -> None:
    """Wait for something that follows a close(2) a little later."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
