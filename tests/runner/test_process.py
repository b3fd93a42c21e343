"""Looking into another process: what its threads wait for."""

import os
import subprocess
import sys

from helpers.waiting import wait_until

from cryptofs.runner.numbers import machine
from cryptofs.runner.process import is_free, is_in_call, is_nonblocking


def test_whether_a_thread_waits_in_a_call() -> None:
    """One that is always on its way counts as in it: an answer that it is not given would be missing for ever."""
    read = machine().numbers["read"]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: is_in_call(reader.pid, read), 10)
        assert not is_in_call(reader.pid, machine().numbers["write"])
        assert reader.stdin is not None
        reader.stdin.close()
        reader.wait()
    assert not is_in_call(reader.pid, read)
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as busy:
        try:
            wait_until(lambda: is_in_call(busy.pid, read) and is_in_call(busy.pid, 4095), 10)
        finally:
            busy.kill()


def test_descriptors() -> None:
    """Which numbers are free, and how a file was opened."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    assert not is_free(os.getpid(), reader)
    assert is_nonblocking(os.getpid(), reader)
    os.set_blocking(reader, True)
    assert not is_nonblocking(os.getpid(), reader)
    os.close(writer)
    os.close(reader)
    assert is_free(os.getpid(), reader)
