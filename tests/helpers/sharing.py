"""Several pytest processes share the tests: each takes the next file that no other one has taken.

pytest-xdist is not for this: its workers are never without a second thread, and tests that fork then warn (an error
here) from Python 3.12 on.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import pytest


class Shared:
    """The loop over the tests of one of the processes; they have `directory` in common, which is empty at the start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """As pytest's own loop, for the files that are this process's."""
        if session.config.option.collectonly:
            return False
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        taken = self._taken(session.items)
        item = next(taken, None)
        while item is not None:
            # the fixtures that both use stay between the two
            following = next(taken, None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    def _taken(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        for path, tests in groupby(items, key=lambda item: item.path):
            try:
                # Not a file: a guest's file system may open one that another guest has made meanwhile.
                (self._directory / quote(str(path), safe="")).mkdir()
            except FileExistsError:
                continue
            yield from tests
