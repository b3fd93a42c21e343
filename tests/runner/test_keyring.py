"""Keys by their serial number (ALG_SET_KEY_BY_KEY_SERIAL), on a session keyring of the test's own."""

import hmac
import shlex
import subprocess
import sys

import pytest
from helpers.other_user import needs_root
from helpers.running import command
from helpers.waiting import PATIENCE

PROGRAM = """
import os, socket, sys
if sys.argv[2:]: os.setresuid(*[int(sys.argv[2])] * 3)
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "hmac(sha256)"))
    try:
        bound.setsockopt(279, 7, int(sys.argv[1]).to_bytes(4, sys.byteorder, signed=True))
    except OSError as error:
        sys.exit(os.strerror(error.errno))
    with bound.accept()[0] as operation:
        operation.sendall(b"abc")
        print(operation.recv(32).hex())
"""
IN_SESSION = """
key=$(keyctl add user cryptofs:test "a key" @s) && logon=$(keyctl add logon cryptofs:test "a key" @s) || exit 77
revoked=$(keyctl add user cryptofs:revoked "a key" @s) && keyctl revoke "$revoked" || exit 77
"""
DIGEST = hmac.digest(b"a key", b"abc", "sha256").hex()


def with_key(arguments: str, run: list[str]) -> "subprocess.CompletedProcess[str]":
    """The program, in a session with keys. run: the command line before it; arguments: of the program, in shell."""
    line = shlex.join([*run, sys.executable, "-c", PROGRAM])
    done = subprocess.run(
        ["keyctl", "session", "-", "sh", "-c", f"{IN_SESSION}\n{line} {arguments}"],
        capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"NOT RUN: no keyrings here: {done.stderr}")
    return done


UNDER_RUN = command()


def test_a_users_key() -> None:
    """Its bytes are the key."""
    done = with_key('"$key"', UNDER_RUN)
    assert (done.stdout, done.returncode) == (DIGEST + "\n", 0), done.stderr


@pytest.mark.parametrize(
    ("serial", "said"),
    [
        ('"$logon"', "Protocol not available"),
        ("-3", "Protocol not available"),
        ('"$revoked"', "Key has been revoked"),
        ("1", "Required key not available"),
    ],
    ids=["unreadable", "a keyring", "revoked", "none"],
)
def test_what_is_no_key_that_can_be_read(serial: str, said: str) -> None:
    """The errno is the kernel's, except for a key that no process can read."""
    done = with_key(serial, UNDER_RUN)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.endswith(said + "\n"), done.stderr


@needs_root
def test_another_user() -> None:
    """A program that has become one does not get the keys of the supervisor's user."""
    done = with_key('"$key" 65534', UNDER_RUN)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.endswith("Permission denied\n"), done.stderr


@pytest.mark.af_alg
@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        ('"$key"', (DIGEST + "\n", "")),
        ('"$logon"', (DIGEST + "\n", "")),
        ("-3", ("", "Protocol not available\n")),
        ('"$revoked"', ("", "Key has been revoked\n")),
        ("1", ("", "Required key not available\n")),
    ],
)
def test_the_kernel_itself(serial: str, expected: tuple[str, str]) -> None:
    """It answers the same, and takes logon keys, too."""
    done = with_key(serial, [])
    # before it, keyctl names the session
    assert (done.stdout, done.stderr.partition("\n")[2]) == expected
