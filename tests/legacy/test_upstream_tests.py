"""Unit tests of ell and BlueZ under `cryptofs run`, built from Debian's source packages, and what cannot be had."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.running import run
from helpers.sources import Packages, unpacked
from helpers.waiting import PATIENCE

pytestmark = pytest.mark.legacy

# test-pbkdf2 does 16 million iterations with two system calls each
ELLS = {"checksum": 8, "cipher": 16}
"""ell's unit tests, with how many cases run there, all but md4. Without AF_ALG they are 1 and 5."""


@pytest.fixture(scope="module")
def ell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ell's library and tests, compiled without its autotools."""
    if not shutil.which("cc"):
        pytest.skip("NOT RUN: ell: it needs cc")
    source = unpacked("ell", tmp_path_factory.mktemp("ell"))
    (source / "config.h").touch()
    line = ["cc", "-O1", "-w", "-D_GNU_SOURCE", "-DHAVE_EXPLICIT_BZERO", "-DHAVE_RAWMEMCHR", "-DHAVE_SYS_RANDOM_H"]
    line += ["-I.", "-fPIC", '-DUNITDIR="unit/"', '-DCERTDIR="unit/"']
    files = [str(file) for file in sorted((source / "ell").glob("*.c"))]
    subprocess.run([*line, "-shared", "-o", "libell.so", *files], cwd=source, check=True, timeout=240 * PATIENCE)
    for name in ELLS:
        made = ["-o", f"test-{name}", f"unit/test-{name}.c", "./libell.so"]
        subprocess.run([*line, *made], cwd=source, check=True, timeout=60 * PATIENCE)
    return source


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ELLS)
def test_ells_tests(ell: Path, name: str) -> None:
    """They compare with vectors and abort where one differs."""
    done = run(ell / f"test-{name}", cwd=ell)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    # newer ones speak TAP
    assert said.count("TEST: ") + len(re.findall(r"^ok \d+ (?!.*# SKIP)", said, re.MULTILINE)) >= ELLS[name], said
    assert "not ok " not in said


LTPS = {1: 7, 2: 0, 3: 1, 4: 0, 5: 0, 6: 1, 7: 1, 8: 0}
"""LTP's tests, with how many cases pass there. The others need names of drivers, or that Linux 7.2 has lost."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", LTPS)
def test_ltp(number: int) -> None:
    """Regression tests of the kernel's AF_ALG. Debian has no package of them."""
    if "CRYPTOFS_LTP" not in os.environ:
        pytest.skip("NOT RUN: LTP: Debian has no package: build it, and name its directory by CRYPTOFS_LTP")
    directory = Path(os.environ["CRYPTOFS_LTP"]) / "testcases" / "kernel" / "crypto"
    environment = {**os.environ, "LTP_TIMEOUT_MUL": "4"}
    done = run(directory / f"af_alg{number:02}", cwd=directory, env=environment, timeout=300 * PATIENCE)
    counts = dict(re.findall(r"^(passed|failed|broken) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert counts == {"passed": str(LTPS[number]), "failed": "0", "broken": "0"}, done.stdout + done.stderr


BLUEZ = [
    "crypto",
    "tester",
    "util",
    "queue",
    "io-glib",
    "mainloop-glib",
    "mainloop-notify",
    "timeout-glib",
    "log",
    "btsnoop",
]


@pytest.mark.timeout(400)
def test_bluez(packages: Packages, tmp_path: Path) -> None:
    """Its test-crypto compares with vectors of Bluetooth's specification: AES and CMAC."""
    if not shutil.which("cc"):
        pytest.skip("NOT RUN: BlueZ: it needs cc")
    packages.need("libglib2.0-dev")
    source = unpacked("bluez", tmp_path)
    (source / "config.h").touch()
    usrs = [packages.root / "usr", Path("/usr")]
    headers = [
        f"-I{place}" for usr in usrs for place in (usr / "include/glib-2.0", *usr.glob("lib/*/glib-2.0/include"))
    ]
    library = next(file for usr in usrs for file in usr.glob("lib/*/libglib-2.0.so.0"))
    files = ["unit/test-crypto.c", *(f"src/shared/{name}.c" for name in BLUEZ), library]
    line = ["cc", "-O1", "-w", "-D_GNU_SOURCE", '-DVERSION=""', "-I.", "-Ilib", *headers, "-o", "test-crypto", *files]
    subprocess.run(line, cwd=source, check=True, timeout=120 * PATIENCE)
    done = run(source / "test-crypto", env=packages.environment())
    assert done.returncode == 0, done.stdout[-2000:]
    total = re.search(r"Total: (\d+), .*Passed: \1 .*Failed: 0.*Not Run: 0", done.stdout)
    assert total, done.stdout[-2000:]
    # of BlueZ 5.66; later ones have more
    assert int(total[1]) >= 10
