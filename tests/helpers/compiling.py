"""The clients in C."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.machine import TESTS


def compiled(name: str, directory: Path, *headers: Path, options: Sequence[str] = ()) -> Path:
    """The client `name`.c as a program; headers: directories of what it includes; options: more for the compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("no cc: a C compiler is needed to test the clients in C")
    program = directory / name
    source = TESTS / "clients" / f"{name}.c"
    included = [f"-I{directory}" for directory in headers]
    usual = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", *included]
    subprocess.run([compiler, *usual, *options, "-o", program, source], check=True)
    return program
