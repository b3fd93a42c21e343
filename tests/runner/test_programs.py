"""Unmodified programs under `cryptofs run` that most machines have. tests/legacy fetches and builds others."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.compiling import compiled
from helpers.running import run
from helpers.waiting import PATIENCE


def test_a_static_program(tmp_path: Path) -> None:
    """No library can be put before its calls. 300 digests under a storm of signals: no call is lost or made twice."""
    done = run(compiled("storm", tmp_path, options=("-static",)))
    expected = hashlib.sha256(b"x" * 100).hexdigest()
    assert (done.stdout, done.stderr, done.returncode) == (f"{expected} 0 wrong, under signals\n", "", 0)


@pytest.fixture
def afalg() -> None:
    """OpenSSL with its engine, which Debian packs and other builds may lack."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: openssl: not installed")
    directory = subprocess.run(
        ["openssl", "version", "-e"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    if not Path(directory.partition('"')[2].rstrip('"\n'), "afalg.so").exists():
        pytest.skip(f"NOT RUN: openssl -engine afalg: this build has none: {directory.strip()}")


@pytest.mark.usefixtures("afalg")
@pytest.mark.parametrize("bits", [128, 192, 256])
def test_openssls_engine(tmp_path: Path, bits: int) -> None:
    """It sends by vmsplice and splice and receives by AIO. The bytes are those of OpenSSL itself, both ways."""
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(os.urandom(100_001))
    arguments = [f"-aes-{bits}-cbc", "-K", os.urandom(bits // 8).hex(), "-iv", os.urandom(16).hex()]
    line = ["openssl", "enc", *arguments, "-in", plain]
    expected = subprocess.run(line, capture_output=True, check=True, timeout=60 * PATIENCE).stdout
    for source, target, way in ((plain, sealed, "-e"), (sealed, opened, "-d")):
        done = run("openssl", "enc", "-engine", "afalg", way, *arguments, "-in", source, "-out", target)
        assert done.returncode == 0, done.stderr
        assert "afalg" in done.stderr, "the engine was used"
    assert sealed.read_bytes() == expected
    assert opened.read_bytes() == plain.read_bytes()


def test_cpythons_tests() -> None:
    """CPython's own tests of AF_ALG, against vectors. Linux 7.2 has lost the generator that one of them wants."""
    python = sys._base_executable  # type: ignore[attr-defined]
    tests = "test.test_socket.LinuxKernelCryptoAPI"
    has_tests = "import importlib.util as util, sys; sys.exit(util.find_spec('test.test_socket') is None)"
    if subprocess.run([python, "-c", has_tests], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: CPython's test_socket: this Python came without its tests")
    done = run(python, "-m", "unittest", "-v", tests)
    assert done.returncode == 0, done.stderr
    passed = {line.partition(" ")[0] for line in done.stderr.splitlines() if line.endswith("... ok")}
    wanted = {"test_aead_aes_gcm", "test_aes_cbc", "test_hmac_sha1", "test_length_restriction", "test_sha256"}
    assert passed >= {*wanted, "test_sendmsg_afalg_args"}, done.stderr
