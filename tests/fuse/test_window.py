"""When the transport's loop looks again without sleeping in trio."""

import os
import time
from collections.abc import Iterator

import pytest

from cryptofs.fuse import window as module
from cryptofs.fuse.window import WINDOW, Window


class Clock:
    """A clock that only giving way moves on, by `cost` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.cost = 5e-6
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.os, "sched_yield", self._give_way)

    def _give_way(self) -> None:
        self.now += self.cost


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Client:
    """Writes to a pipe as the kernel does for a client."""

    def __init__(self, pipe: tuple[int, int]) -> None:
        self._pipe = pipe

    def ask(self, window: Window, after: float, clock: Clock) -> None:
        """A request, so many seconds after the last one was answered, for which the loop waits in poll() at most."""
        window.until = clock.now + WINDOW
        clock.now += after
        self.ask_now(window)

    def ask_now(self, window: Window) -> None:
        """A request that ends the wait after the last one."""
        os.write(self._pipe[1], b"x")
        assert window.look_again()
        os.read(self._pipe[0], 1)


@pytest.fixture
def client(pipe: tuple[int, int]) -> Client:
    return Client(pipe)


def turns(window: Window, client: Client, clock: Clock, most: int = 1000) -> int:
    """How often the loop looks again after one of several requests in a row."""
    cost, clock.cost = clock.cost, 0.0
    client.ask(window, 0.0, clock)
    clock.cost = cost
    window.until = clock.now + WINDOW
    for turn in range(most):
        if not window.look_again():
            return turn
    return most


def test_an_idle_machine(pipe: tuple[int, int], client: Client, clock: Clock) -> None:
    """The loop looks again until the window ends, after each request, however many there were."""
    window = Window(pipe[0])
    for _ in range(100):
        assert 45 <= turns(window, client, clock) <= 51
    assert not window.look_again()


def test_after_the_window(pipe: tuple[int, int], clock: Clock) -> None:
    """The loop sleeps in poll() for a millisecond: a request wakes it there, and trio has its turn if none comes."""
    window = Window(pipe[0])
    window.until = clock.now
    os.write(pipe[1], b"x")
    assert window.look_again()
    os.read(pipe[0], 1)
    began = time.monotonic()
    assert not window.look_again()
    assert time.monotonic() - began >= 0.9e-3


def test_a_late_request(pipe: tuple[int, int], client: Client, clock: Clock) -> None:
    """After a request that came after the window the loop sleeps at once, until one comes within it."""
    window = Window(pipe[0])
    client.ask(window, 0.0, clock)
    assert turns(window, client, clock) >= 45
    client.ask(window, 2 * WINDOW, clock)
    before = clock.now
    window.until = before + WINDOW
    assert not window.look_again()
    assert clock.now == before
    client.ask(window, WINDOW / 2, clock)
    window.until = clock.now + WINDOW
    assert window.look_again()
    assert clock.now > before


def test_a_request_that_wakes_the_loop(pipe: tuple[int, int], client: Client, clock: Clock) -> None:
    """A request that ends a sleep counts as one of before the window's end, by what waking may take."""
    window = Window(pipe[0])
    client.ask(window, 2 * WINDOW, clock)
    client.ask(window, WINDOW + 100e-6, clock)
    assert turns(window, client, clock) >= 45


def test_a_window_that_is_a_little_too_short(pipe: tuple[int, int], client: Client, clock: Clock) -> None:
    """A client that always asks shortly after the window's end makes the loop wait in vain only a few times."""
    window = Window(pipe[0])
    tries = 0
    for _ in range(100):
        window.until = clock.now + WINDOW
        begin = clock.now
        while clock.now < window.until and not window._late:
            assert window.look_again()
        tries += clock.now > begin
        clock.now = begin + WINDOW + 50e-6
        client.ask_now(window)
    assert tries <= 4
    # one that keeps within the window gets all of it again
    client.ask(window, WINDOW / 2, clock)
    for _ in range(2):
        window.until = clock.now + WINDOW
        assert window.look_again()
    client.ask(window, 2 * WINDOW, clock)
    client.ask(window, WINDOW + 100e-6, clock)
    assert not window._late


def test_a_busy_machine(pipe: tuple[int, int], client: Client, clock: Clock) -> None:
    """Where another program takes its whole turn, the loop stops to give way, and waits in poll() for requests."""
    window = Window(pipe[0])
    clock.cost = 3e-3
    assert sum(turns(window, client, clock) for _ in range(100)) == 4
    before = time.monotonic()
    os.write(pipe[1], b"x")
    assert window.look_again()
    os.read(pipe[0], 1)
    assert not window.look_again()
    assert time.monotonic() - before < 1
    # after the pause the window is tried again, for longer each time, and used again when it is cheap
    assert pauses(window, client, clock, 5) == pytest.approx([2, 4, 8, 16, 16], rel=0.1)
    clock.now += 20
    clock.cost = 5e-6
    assert turns(window, client, clock) >= 45
    clock.cost = 3e-3
    clock.now += 100
    assert pauses(window, client, clock, 1) == pytest.approx([1], rel=0.1)


def pauses(window: Window, client: Client, clock: Clock, count: int) -> list[float]:
    """How long the window stays closed, the next `count` times, in seconds."""
    found = []
    for _ in range(count):
        clock.now = max(clock.now, window._ends)
        while clock.now >= window._ends:
            turns(window, client, clock)
        found.append(window._ends - clock.now)
    return found


def test_a_client_on_the_same_processor(pipe: tuple[int, int], clock: Clock) -> None:
    """A costly turn now and then closes nothing."""
    window = Window(pipe[0])
    for turn in range(500):
        clock.cost = 3e-3 if turn % 50 == 0 else 5e-6
        window.until = clock.now + WINDOW
        assert window.look_again()
