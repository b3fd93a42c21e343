"""What the programs of others share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.sources import Packages


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packages]:
    """Debian packages for all tests; they are hundreds of megabytes, so nothing of them stays."""
    directory: Path = tmp_path_factory.mktemp("packages")
    yield Packages(directory)
    shutil.rmtree(directory)
