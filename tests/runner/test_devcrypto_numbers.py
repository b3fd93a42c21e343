"""cryptodev's structures and numbers: construct, the fast form and a C compiler agree."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.compiling import compiled
from helpers.waiting import PATIENCE

from cryptofs.runner.devcrypto import numbers
from cryptofs.runner.devcrypto.numbers import Command

PAIRS = [
    (numbers.SESSION_OP, numbers.SESSION, 48),
    (numbers.SESSION2_OP, numbers.SESSION2, 64),
    (numbers.CRYPT_OP, numbers.CRYPT, 48),
    (numbers.CRYPT_AUTH_OP, numbers.AUTH, 72),
    (numbers.SESSION_INFO_OP, numbers.INFO, 268),
    (numbers.HASH_COPY_OP, numbers.HASH_COPY, 8),
    (numbers.KEY_OP, numbers.KEY, 16),
    (numbers.PARAMETER, numbers.KEY_PARAMETER, 16),
]


@pytest.mark.parametrize(("definition", "fast", "size"), PAIRS, ids=[str(pair[2]) for pair in PAIRS])
def test_the_fast_form_is_the_definition(definition: Any, fast: Any, size: int) -> None:
    """Bytes that differ everywhere give the same values in both."""
    data = bytes(range(1, 256)) + bytes(range(1, 14))
    assert fast.size == definition.sizeof() == size
    parsed = definition.parse(data[:size])
    assert tuple(parsed[field.name] for field in definition.subcons) == fast.unpack(data[:size])
    assert fast.pack(*fast.unpack(data[:size])) == data[:size]


@pytest.mark.parametrize(
    ("shape", "definition"),
    [
        (numbers.SessionOp, numbers.SESSION_OP),
        (numbers.CryptOp, numbers.CRYPT_OP),
        (numbers.AuthOp, numbers.CRYPT_AUTH_OP),
    ],
)
def test_the_named_forms_are_the_definition(shape: Any, definition: Any) -> None:
    """The same fields in the same order."""
    assert shape._fields == tuple(field.name for field in definition.subcons)


def test_a_compiler_lays_them_out_alike(tmp_path: Path) -> None:
    """devcrypto.h is what C programs have of the interface: sizes, places and the ioctls' numbers are the same."""
    program = compiled("devcrypto_layout", tmp_path)
    lines = subprocess.run([program], capture_output=True, text=True, check=True, timeout=10 * PATIENCE).stdout
    found = dict(line.split() for line in lines.splitlines())
    for command in Command:
        assert int(found.pop(command.name)) == command, command
    for name, definition in (
        ("session_op", numbers.SESSION_OP),
        ("session2_op", numbers.SESSION2_OP),
        ("crypt_op", numbers.CRYPT_OP),
        ("crypt_auth_op", numbers.CRYPT_AUTH_OP),
        ("session_info_op", numbers.SESSION_INFO_OP),
        ("crypt_kop", numbers.KEY_OP),
        ("crparam", numbers.PARAMETER),
    ):
        place = 0
        for field in definition.subcons:
            expected = found.pop(f"{name}.{field.name}", None)
            assert expected is None or int(expected) == place, f"{name}.{field.name}"
            place += field.sizeof()
    assert not found


def test_what_a_command_reads() -> None:
    """The size is in the number, for those that read."""
    sizes = {command.name: command.input_size for command in Command}
    assert sizes == {
        "CRIOGET": 4, "CIOCGSESSION": 48, "CIOCGSESSION2": 64, "CIOCFSESSION": 4, "CIOCCRYPT": 48, "CIOCKEY": 144,
        "CIOCASYMFEAT": 0, "CIOCGSESSINFO": 268, "CIOCAUTHCRYPT": 72, "CIOCASYNCCRYPT": 48, "CIOCASYNCFETCH": 0,
        "CIOCCPHASH": 8,
    }  # fmt: skip
