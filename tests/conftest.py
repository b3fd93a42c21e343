"""Fixtures and rules for all tests: live mounts, and nothing left behind."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# what several files of tests share says as much where an assertion fails as they do; before any of it is imported
pytest.register_assert_rewrite("helpers")

from helpers.daemons import SHARED, Daemon, serving  # noqa: E402
from helpers.machine import AF_ALG, IN_GUEST, mounts_below  # noqa: E402
from helpers.sharing import Shared  # noqa: E402
from helpers.waiting import PATIENCE  # noqa: E402

from cryptofs.daemon.privileges import PrivilegeError, take_away  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """What ./scripts/test passes to the processes that it starts side by side."""
    parser.addoption(
        "--share", type=Path, metavar="DIR", help="run only test files that no other process with this DIR has taken"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Share the tests with other processes, if asked."""
    if config.option.share is not None:
        config.pluginmanager.register(Shared(config.option.share))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need AF_ALG are skipped where the kernel has none, except where it must have it."""
    if AF_ALG or IN_GUEST:
        return
    skip = pytest.mark.skip(reason="NOT RUN: this kernel has no AF_ALG; ./scripts/test runs it in the guest")
    for item in items:
        if "af_alg" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not run, and how many vectors passed."""
    from vectors.counts import summary_lines

    for line in summary_lines():
        terminalreporter.write_line(line)
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"NOT RUN here: {skipped} tests", yellow=True, bold=True)


# Nothing may be left behind


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        # the listing's own descriptor, and the event loop's that the interpreter keeps
        if not target.startswith(("/proc/", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")):
            found.add((entry, target))
    return found


def _children() -> set[str]:
    children: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            children |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
        except OSError:
            continue
    return children


def _state(below: Path) -> tuple[set[tuple[str, str]], set[str], set[str]]:
    return _descriptors(), _children(), mounts_below(below)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a descriptor, a process or a mount."""
    below = tmp_path_factory.getbasetemp()
    before = _state(below)
    yield
    deadline = time.monotonic() + 3 * PATIENCE
    while True:
        left = [sorted(now - then) for now, then in zip(_state(below), before, strict=True)]
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: descriptors {left[0]}, processes {left[1]}, mounts {left[2]}")
        time.sleep(0.05)


# Mounts


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that serves a mount for all tests of a module, with every engine there is."""
    with serving(tmp_path_factory.mktemp("cryptofs") / "mount", *SHARED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def mount(daemon: Daemon) -> Path:
    """The mount point of the module's daemon."""
    return daemon.mountpoint


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon for one test that does something rough to it; the test may end it itself."""
    with serving(tmp_path / "mount", rough=True) as daemon:
        yield daemon


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory to mount on, which every user can reach; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory(prefix="cryptofs-test.") as directory:
        Path(directory).chmod(0o755)
        mountpoint = Path(directory) / "mount"
        mountpoint.mkdir()
        yield mountpoint
        with contextlib.suppress(PrivilegeError):
            take_away(mountpoint)
