"""OpenSSL's devcrypto engine, built from Debian's source package, under `cryptofs run --devcrypto`."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.machine import TESTS
from helpers.running import OPENSSL, run
from helpers.sources import unpacked
from helpers.waiting import PATIENCE

pytestmark = pytest.mark.legacy

OPTIONS = (*OPENSSL, "--devcrypto")
KEYS = {"aes-128-cbc": 16, "aes-256-cbc": 32, "aes-192-ctr": 24, "aes-128-ecb": 16, "des-ede3-cbc": 24}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the engine, which Debian leaves out. Only its own file is compiled, for the system library."""
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True, timeout=10).stdout
    if not shutil.which("cc") or not version.startswith("OpenSSL 3."):
        pytest.skip(f"NOT RUN: needs cc and OpenSSL 3, which has engines: {version}")
    directory = tmp_path_factory.mktemp("openssl")
    source = unpacked("openssl", directory / "fetched")
    (directory / "include" / "crypto").mkdir(parents=True)
    shutil.copy(TESTS / "clients" / "devcrypto.h", directory / "include" / "crypto" / "cryptodev.h")
    includes = [f"-I{directory / 'include'}", f"-I{source}", f"-I{source / 'include'}"]
    engine = ["-o", directory / "devcrypto.so", source / "engines" / "e_devcrypto.c", "-lcrypto"]
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", "-DLINUX_ONLY", *includes, *engine], check=True, timeout=120 * PATIENCE
    )
    return directory


def openssl(engines: Path, *arguments: str, engine: bool = True) -> bytes:
    """What openssl prints, with the engine under the supervisor, or without both."""
    if not engine:
        return subprocess.run(["openssl", *arguments], capture_output=True, check=True, timeout=60 * PATIENCE).stdout
    variables = {**os.environ, "OPENSSL_ENGINES": str(engines)}
    line = ["openssl", arguments[0], "-engine", "devcrypto", *arguments[1:]]
    output = engines / "output"
    done = run(*line, "-out", output, options=OPTIONS, env=variables)
    assert done.returncode == 0, done.stderr
    assert "devcrypto" in done.stderr, "the engine was used"
    return output.read_bytes()


@pytest.mark.parametrize("name", KEYS)
def test_ciphers(engines: Path, name: str, tmp_path: Path) -> None:
    """The bytes of OpenSSL itself, both ways; the file is longer than a buffer."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(os.urandom(100_001))
    iv = [] if name.endswith("ecb") else ["-iv", os.urandom(8 if "des" in name else 16).hex()]
    arguments = ["-" + name, "-K", os.urandom(KEYS[name]).hex(), *iv]
    expected = openssl(engines, "enc", *arguments, "-in", str(plain), engine=False)
    assert openssl(engines, "enc", *arguments, "-in", str(plain)) == expected
    sealed.write_bytes(expected)
    assert openssl(engines, "enc", "-d", *arguments, "-in", str(sealed)) == plain.read_bytes()


@pytest.mark.parametrize("name", ["sha256", "sha512", "sha1"])
def test_digests(engines: Path, name: str, tmp_path: Path) -> None:
    """In parts. The engine alone may compute them, and has no others."""
    data = os.urandom(100_001)
    (tmp_path / "data").write_bytes(data)
    settings = "openssl_conf = init\n[init]\nengines = all\n[all]\ndevcrypto = it\n[it]\nDIGESTS = ALL\n"
    (tmp_path / "openssl.cnf").write_text(settings)
    variables = {**os.environ, "OPENSSL_ENGINES": str(engines), "OPENSSL_CONF": str(tmp_path / "openssl.cnf")}
    line = ["openssl", "dgst", "-engine", "devcrypto", "-engine_impl"]
    done = run(*line, "-" + name, tmp_path / "data", options=OPTIONS, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == hashlib.new(name, data).hexdigest()
    assert run(*line, "-sha3-256", tmp_path / "data", options=OPTIONS, env=variables).returncode


def test_what_the_engine_finds(engines: Path) -> None:
    """All ciphers and digests that it knows and cryptodev 1.14 has."""
    variables = {**os.environ, "OPENSSL_ENGINES": str(engines)}
    done = run("openssl", "engine", "-t", "-c", "devcrypto", options=OPTIONS, env=variables)
    assert done.returncode == 0, done.stderr
    assert "[ available ]" in done.stdout
    for name in ("DES-EDE3-CBC", "AES-256-CBC", "AES-128-CTR", "AES-192-ECB", "CAMELLIA-128-CBC", "SHA512", "MD5"):
        assert name in done.stdout
