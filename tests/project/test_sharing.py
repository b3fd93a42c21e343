"""Two pytest processes that share the tests, as ./scripts/test starts them."""

import re
import subprocess
import sys
from pathlib import Path

from helpers.machine import TESTS

SUITE = """
import time
import pytest

@pytest.fixture(scope="module")
def made():
    yield print("made {name}")
    print("gone {name}")

@pytest.mark.parametrize("number", range(3))
def test_it(made, number):
    print("ran {name}", number)
    time.sleep(0.1)
    assert (number, "{name}") != (1, "c")
"""


def test_each_test_runs_once(tmp_path: Path) -> None:
    """In one of the processes, between its module's fixtures; a failure is its process's."""
    for name in "abcd":
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(SUITE.format(name=name))
    (tmp_path / "tests" / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    share = tmp_path / "share"
    share.mkdir()
    command = [sys.executable, "-m", "pytest", "-s", "--tb=no", "-p", "no:cacheprovider", f"--share={share}"]
    environ = {"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin"}
    both = [subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    ran = [re.findall(r"(made|ran|gone) (\w)(?: (\d))?", output) for output in outputs]
    whole = [("made", ""), ("ran", "0"), ("ran", "1"), ("ran", "2"), ("gone", "")]
    found = sorted(
        (name, [(what, number) for what, each, number in one if each == name])
        for one in ran
        for name in {each for _, each, _ in one}
    )
    assert found == [(name, whole) for name in "abcd"]
    assert sorted(process.returncode for process in both) == [0, 1]
