"""Programs of Debian's packages under `cryptofs run`."""

import re
import subprocess
from pathlib import Path

import pytest
from helpers.machine import TESTS
from helpers.running import run
from helpers.sources import Packages
from helpers.waiting import PATIENCE

pytestmark = pytest.mark.legacy


def test_cryptsetup_benchmark(packages: Packages) -> None:
    """The ciphers of the catalogue have a speed, and serpent and twofish have none, as in a kernel without them."""
    packages.need("cryptsetup-bin")
    done = run(packages.program("cryptsetup"), "benchmark", env=packages.environment(), timeout=110 * PATIENCE)
    # the exit status is that of the last cipher, twofish, which few kernels have either
    speeds = re.findall(r"^ *(\S+-\S+) +(\d+)b +([0-9.]+ MiB/s|N/A) +([0-9.]+ MiB/s|N/A)$", done.stdout, re.MULTILINE)
    known = {(name, int(bits)) for name, bits, *both in speeds if "N/A" not in both}
    assert known >= {("aes-cbc", 128), ("aes-cbc", 256), ("aes-xts", 256), ("aes-xts", 512)}, done.stdout


def test_stress_ng(packages: Packages) -> None:
    """All its names, encrypted and decrypted again by two processes. Its alarm may interrupt a call of each."""
    packages.need("stress-ng")
    program = packages.program("stress-ng")
    line = [program, "--af-alg", "2", "-t", "10", "--verify", "--metrics-brief"]
    done = run(*line, env=packages.environment(), timeout=100 * PATIENCE)
    said = done.stdout + done.stderr
    operations = re.search(r"metrc:.* af-alg +(\d+)", said)
    assert operations, said
    assert int(operations[1]) > 200, said
    failures = [line for line in said.splitlines() if "fail:" in line]
    assert [line for line in failures if "errno=4 " not in line] == []
    assert len(failures) <= 2, said


@pytest.mark.timeout(300)
def test_strongswan(packages: Packages, tmp_path: Path) -> None:
    """pki makes a key and a certificate with digests of af-alg alone; openssl verifies its signature."""
    packages.need("strongswan-pki", "libstrongswan-extra-plugins")
    usr = packages.root / "usr"
    # its plug-ins have a fixed place, hence a mount for this process alone
    overlaid = ["unshare", "-rm", "sh", "-c", f'mount -t overlay -o lowerdir={usr}:/usr none /usr && exec "$@"', "sh"]
    if subprocess.run([*overlaid, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: strongSwan: this machine lets nobody mount over /usr")
    (tmp_path / "strongswan.conf").write_text(
        "pki { load = random nonce drbg af-alg gmp x509 pem pkcs1 pkcs8 pubkey }\n"
    )
    environment = {**packages.environment(), "STRONGSWAN_CONF": str(tmp_path / "strongswan.conf")}
    commands = """
    cd "$1"
    pki --gen --type rsa --size 2048 --outform pem > key.pem
    pki --self --in key.pem --type rsa --dn CN=test --digest sha512 --outform pem > certificate.pem
    """
    line = [*overlaid, "sh", "-ec", commands, "sh", tmp_path]
    done = run(*line, env=environment, timeout=200 * PATIENCE)
    assert done.returncode == 0, done.stderr
    certificate = tmp_path / "certificate.pem"
    verify = ["openssl", "verify", "-check_ss_sig", "-CAfile", certificate, certificate]
    subprocess.run(verify, capture_output=True, check=True, timeout=30)
    # without it there is no digest at all
    assert subprocess.run(line, env=environment, capture_output=True, check=False, timeout=200 * PATIENCE).returncode


@pytest.mark.timeout(400)
def test_a_static_program_in_go(packages: Packages, tmp_path: Path) -> None:
    """Go calls the kernel by itself, from threads that it moves its tasks between."""
    packages.need("golang-go")
    # in the packages, unless the machine has it
    places = [(root / "usr" / "lib" / "go").resolve() for root in (packages.root, Path("/"))]
    go = next((place for place in places if (place / "bin" / "go").exists()), None)
    if go is None:
        pytest.skip("NOT RUN: Go: not where Debian has it")
    variables = {"GOROOT": str(go), "HOME": str(tmp_path), "CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "-p=1"}
    build = [go / "bin" / "go", "build", "-o", tmp_path / "digests", TESTS / "clients" / "digests.go"]
    subprocess.run(build, env={"PATH": "/usr/bin:/bin", **variables}, check=True, timeout=300 * PATIENCE)
    kind = subprocess.run(["file", tmp_path / "digests"], capture_output=True, text=True, check=True, timeout=10).stdout
    assert "statically linked" in kind
    done = run(tmp_path / "digests")
    assert (done.stdout, done.stderr, done.returncode) == ("800 right, 0 wrong\n", "", 0)
