"""The tree of tests: its folders mirror the code, and no test leans on another one."""

import re
from collections import Counter

from helpers.machine import TESTS

PACKAGE = TESTS.parent / "cryptofs"
FILES = sorted(TESTS.rglob("*.py"))
_OF_A_TEST = re.compile(r"\b(?:from|import) [\w., ]*\b(?:test_\w+|conftest)\b")
"""An import of a module that pytest collects: in code, and in programs that are strings."""


def test_no_test_is_imported() -> None:
    """What two files of tests share is in tests/helpers."""
    found = {str(path.relative_to(TESTS)): _OF_A_TEST.findall(path.read_text()) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_folders_are_the_packages() -> None:
    """Tests of a package of the code lie in the folder of its name; what concerns all of them, in `project`, and what
    runs programs of others, in `legacy`."""
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.relative_to(TESTS).parts[0] for path in FILES if path.name.startswith("test_")}
    assert folders == packages | {"project", "legacy"}


def test_the_names_tell_them_apart() -> None:
    """The documents name a test by its file alone."""
    names = Counter(path.name for path in FILES if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_check_finds() -> None:
    """An import of each form, and of a helper none."""
    # not as one word, or this file would be found
    for module in ("test_" + "a", "conf" + "test"):
        for line in (f"import {module}", f"from {module} import b", f"from tests.x import {module}"):
            for text in (line, f"def f():\n    {line}", f"PROGRAM = 'import sys\n{line}\n'"):
                assert _OF_A_TEST.search(text), text
    assert not _OF_A_TEST.search("import pytest\nfrom helpers.raw import Raw\n\n\ndef test_of_imports() -> None:")
