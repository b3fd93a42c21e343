"""Each system call of AF_ALG under `cryptofs run`, against what a kernel 7.2 answers to the same program.

In the guest the program is compared with it again.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.compiling import compiled
from helpers.running import OPENSSL, SECTIONS, run
from helpers.waiting import PATIENCE

KERNEL = ("--engines", "af_alg")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client."""
    return compiled("alg", tmp_path_factory.mktemp("alg"), options=("-pthread",))


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_calls(program: Path, section: str) -> None:
    """Engines in the supervisor: the same values, errnos and bytes."""
    done = run(program, section)
    assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0)


@pytest.mark.parametrize("options", [OPENSSL, (*OPENSSL, "--wide")], ids=["high", "wide"])
def test_all_numbers(program: Path, options: Sequence[str]) -> None:
    """With --wide the copies have the numbers that the kernel would give them."""
    done = run(program, "numbers", options=options)
    low = "--wide" in options
    assert done.stdout == f"below 512: {int(low)}\ndup2 to 20: {'20' if low else 'EBUSY'}\nworks: {int(low)}\n"


def test_wide(program: Path) -> None:
    """All the rest is the same there."""
    for section in ("sockets", "processes", "waiting", "pipes"):
        done = run(program, section, options=(*OPENSSL, "--wide"))
        assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0), section


@pytest.mark.mount
def test_through_a_mount(program: Path, mount: Path) -> None:
    """Records on a daemon's mount: the same again."""
    for section in ("hash", "cipher", "aead", "rng"):
        done = run(program, section, options=("--mount", str(mount)))
        assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0), section


@pytest.mark.af_alg
@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_the_kernel_itself(program: Path, section: str) -> None:
    """The kernel answers what it is said to."""
    done = subprocess.run([program, section], capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert (done.stdout, done.returncode) == (SECTIONS[section], 0)


@pytest.mark.af_alg
@pytest.mark.parametrize("section", ["hash", "cipher", "aead", "rng"])
def test_calls_computed_by_the_kernel(program: Path, section: str) -> None:
    """Its arithmetic under our answers."""
    done = run(program, section, options=KERNEL)
    assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0)
