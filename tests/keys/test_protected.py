"""Key files that a passphrase protects: the format fixed as bytes, and every changed byte refused."""

import struct
import threading
from contextlib import closing
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from helpers.configs import write_private
from helpers.waiting import PATIENCE

from cryptofs.cli.commands import commands
from cryptofs.cli.steps import key_files
from cryptofs.config import ConfigError, load
from cryptofs.daemon import serve
from cryptofs.daemon.assembly import Assembly
from cryptofs.daemon.logs import Logs, Standard
from cryptofs.errors import CryptofsError, InvalidValue, KeyUnavailable
from cryptofs.keys import KEY_MAX, FileKey, protected
from cryptofs.keys.protected import OVERHEAD, protect, unprotect
from cryptofs.wiping import wipe

KEY, PASSPHRASE = bytearray(range(32)), bytearray(b"correct horse")
FIXED = bytes.fromhex(
    "63727970746f6673206b657920310a01000000400101000102030405060708090a0b0c0d0e0f101112131415161718191a1b6d759caaac"
    "d97e382468e0968c4d0b4a3fa78f84bbee888de8d6e364301a50343194dfe0e14418de9336ae5715646934"
)
"""Made with 64 KiB, one pass and one lane, salt 00…0f and nonce 10…1b."""


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A derivation that takes no time."""
    monkeypatch.setattr(protected, "MEMORY", 64)
    monkeypatch.setattr(protected, "PASSES", 1)
    monkeypatch.setattr(protected, "LANES", 1)


def test_the_format_is_fixed() -> None:
    """Files of today open for ever."""
    assert unprotect(bytearray(FIXED), PASSPHRASE) == KEY


@pytest.mark.usefixtures("cheap")
def test_round_trip() -> None:
    """Two files of one key have nothing in common but the head's beginning."""
    one, other = protect(KEY, PASSPHRASE), protect(KEY, PASSPHRASE)
    assert len(one) == OVERHEAD + 32
    assert one[22:] != other[22:]
    assert bytes(KEY) not in bytes(one)
    assert unprotect(one, PASSPHRASE) == unprotect(other, PASSPHRASE) == KEY


def test_every_byte_counts() -> None:
    """A changed file does not open, nor does one that was cut."""
    for at in range(len(FIXED)):
        if 16 <= at < 20:
            # The memory: with more of it the test would take long.
            continue
        changed = bytearray(FIXED)
        changed[at] ^= 1
        with pytest.raises(CryptofsError):
            unprotect(changed, PASSPHRASE)
    for size in (0, 10, OVERHEAD - 1, len(FIXED) - 1):
        with pytest.raises(KeyUnavailable):
            unprotect(bytearray(FIXED[:size]), PASSPHRASE)
    with pytest.raises(KeyUnavailable, match="another one"):
        unprotect(bytearray(FIXED), bytearray(b"wrong horse"))


@pytest.mark.parametrize(
    ("memory", "passes", "lanes"), [((1 << 20) + 1, 1, 1), (7, 1, 1), (64, 0, 1), (64, 17, 1), (64, 1, 0), (256, 1, 17)]
)
def test_bounds(memory: int, passes: int, lanes: int) -> None:
    """What a head asks for is refused before anything is derived."""
    head = struct.pack(">15sBIBB", b"cryptofs key 1\n", 1, memory, passes, lanes)
    with pytest.raises(InvalidValue, match="in the head of a protected key"):
        unprotect(bytearray(head + FIXED[len(head) :]), PASSPHRASE)


def test_a_short_passphrase() -> None:
    """It would be guessed."""
    with pytest.raises(InvalidValue, match="passphrase of 7 bytes: at least 8"):
        protect(KEY, bytearray(b"1234567"))


def test_the_largest_key(tmp_path: Path, cheap: None) -> None:
    """What `key new` makes of it, a device can read."""
    given = FileKey(write_private(tmp_path / "passphrase", bytes(PASSPHRASE)))
    key = bytearray(bytes(range(256)) * 32)
    assert len(key) == KEY_MAX
    path = write_private(tmp_path / "key", bytes(protect(bytearray(key), PASSPHRASE)))
    assert FileKey(path, passphrase=given).read() == key


def test_what_does_not_verify_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cipher may have written the key before it saw that the file was changed."""
    wiped: list[bytearray] = []

    def note(buffer: bytearray) -> None:
        wiped.append(buffer)
        wipe(buffer)

    monkeypatch.setattr(protected, "wipe", note)
    with pytest.raises(KeyUnavailable):
        unprotect(bytearray(FIXED[:-1] + b"x"), PASSPHRASE)
    assert [len(each) for each in wiped] == [32, 32]
    assert not any(any(each) for each in wiped)


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own error would end a reload with a word of its own."""

    class Full:
        def __init__(self, **_: object) -> None:
            raise MemoryError

    monkeypatch.setattr(protected, "Argon2id", Full)
    with pytest.raises(KeyUnavailable, match="not enough memory for Argon2id, which takes 64 KiB"):
        unprotect(bytearray(FIXED), PASSPHRASE)


def test_a_source(tmp_path: Path) -> None:
    """A protected file without its passphrase says what is missing; errors have no part of either."""
    path = write_private(tmp_path / "key", FIXED)
    given = FileKey(write_private(tmp_path / "passphrase", bytes(PASSPHRASE) + b"\n"))
    assert FileKey(path, passphrase=given).read() == KEY
    with pytest.raises(KeyUnavailable, match="a passphrase protects it"):
        FileKey(path).read()
    wrong = FileKey(write_private(tmp_path / "wrong", b"another horse"))
    with pytest.raises(KeyUnavailable, match=f"file {path}: the passphrase is another one") as caught:
        FileKey(path, passphrase=wrong).read()
    assert "horse" not in str(caught.value) + repr(FileKey(path, passphrase=wrong))
    write_private(path, bytes(32))
    with pytest.raises(KeyUnavailable, match="32 bytes: a protected key"):
        FileKey(path, passphrase=given).read()


@pytest.mark.usefixtures("cheap")
def test_commands_and_a_device(tmp_path: Path) -> None:
    """`key new` and `rotate` make them, the daemon opens them, and the privileged step hands the passphrase over."""
    (tmp_path / "set").mkdir(0o700)
    secret = write_private(tmp_path / "passphrase", bytes(PASSPHRASE) + b"\n")
    text = (
        f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.directory = "{tmp_path}/set"\n'
        f'key.passphrase-file = "{secret}"\n'
    )
    config = write_private(tmp_path / "cryptofs.toml", text.encode())
    new = [
        "key",
        "new",
        "--type",
        "aead",
        "-n",
        "gcm(aes)",
        "-o",
        f"{tmp_path}/set/1",
        "--passphrase-file",
        str(secret),
    ]
    for arguments in (new, ["key", "rotate", "d", "--config", str(config)]):
        done = CliRunner().invoke(commands, arguments)
        assert (done.exit_code, done.exception) == (0, None), done.output
    assert {path.stat().st_size for path in (tmp_path / "set").iterdir()} == {OVERHEAD + 32}
    with closing(Assembly(("openssl",), config)) as assembly:
        assert str(assembly.table.devices["d"].versions) == "2, 1"
    assert key_files(config, 0)["passphrase-d"] == secret
    hexadecimal = CliRunner().invoke(commands, [*new[:-3], f"{tmp_path}/x", *new[-2:], "--hex"])
    assert hexadecimal.exception is not None
    assert not (tmp_path / "x").exists()
    typed = CliRunner().invoke(commands, [*new[:-2], "--passphrase"])
    assert "no terminal" in f"{typed.output}{typed.exception}"


@pytest.mark.usefixtures("cheap")
def test_a_reload_derives_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivation of a new version waits for what only the event loop can do: clients are answered meanwhile."""
    (tmp_path / "set").mkdir(0o700)
    secret = write_private(tmp_path / "passphrase", bytes(PASSPHRASE))
    text = (
        f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.directory = "{tmp_path}/set"\n'
        f'key.passphrase-file = "{secret}"\n'
    )
    config = write_private(tmp_path / "cryptofs.toml", text.encode())
    write_private(tmp_path / "set" / "1", bytes(protect(bytearray(32), PASSPHRASE)))
    made = Assembly(("openssl",), config)
    write_private(tmp_path / "set" / "2", bytes(protect(bytearray(KEY), PASSPHRASE)))
    derives, goes_on = threading.Event(), threading.Event()
    real = protected.Argon2id

    def waiting(**given: int) -> Argon2id:
        derives.set()
        assert goes_on.wait(20 * PATIENCE)
        return real(**given)

    monkeypatch.setattr(protected, "Argon2id", waiting)

    async def both() -> tuple[bool, str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            return await serve._reload(made, Logs(Standard()), trio.Lock(), None)

    async def answer() -> None:
        while not derives.is_set():
            await trio.sleep(0.01)
        # Not switched yet: whoever opens the device now has what was there.
        assert str(made.table.devices["d"].versions) == "1"
        goes_on.set()

    with closing(made):
        done, line = trio.run(both)
        assert (done, str(made.table.devices["d"].versions)) == (True, "2, 1"), line


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('key.passphrase-file = "/p"\nkey.passphrase-credential = "p"', "one of passphrase-file"),
        ('key.passphrase-file = "/p"\nkey.encoding = "hex"', "is raw"),
    ],
)
def test_refused_declarations(tmp_path: Path, more: str, why: str) -> None:
    """Errors of the configuration."""
    text = f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "/k"\n{more}\n'
    with pytest.raises(ConfigError, match=why):
        load(write_private(tmp_path / "cryptofs.toml", text.encode()))
