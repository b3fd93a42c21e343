"""The configuration file: what is accepted, and that every error names file, line and key."""

import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import Type
from cryptofs.cli.commands import commands
from cryptofs.config import ConfigError, load
from cryptofs.config.lines import find_line
from cryptofs.daemon.assembly import Assembly
from cryptofs.errors import CryptofsError
from cryptofs.policy import CONTEXTS_PER_USER
from cryptofs.records import Operation

WHOLE = """\
[daemon]
engines = ["openssl"]
audit = false

[policy]
profile = "standard"
allow = ["md5", "hash:sha1"]
contexts = 100
queue-bytes = 1_000_000

[policy.users.root]
profile = "all"
contexts = 5

[policy.groups.0]
deny = ["gcm(aes)"]
rate = 50

[devices.backup]
type = "aead"
name = "gcm(aes)"
operations = ["encrypt"]
user = "root"
group = 0
mode = "0640"
key.file = "/etc/cryptofs/backup.key"
key.encoding = "hex"

[devices.token]
type = "hash"
name = "hmac(sha256)"
key.pkcs11 = "mac"
key.module = "/usr/lib/softhsm/libsofthsm2.so"
key.token = "cryptofs"
key.pin-credential = "pin"
"""

TOKEN = '[devices.x]\ntype = "aead"\nname = "gcm(aes)"\nkey.pkcs11 = "pkcs11:'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test writes its configuration."""
    return tmp_path / "cryptofs.toml"


def test_whole(file: Path) -> None:
    """Everything that can stand in it."""
    file.write_text(WHOLE)
    config = load(file)
    policy = config.policy.policy()
    assert config.daemon.engines == ("openssl",)
    assert policy.everybody.admits(Type.HASH, "md5")
    assert policy.everybody.admits(Type.HASH, "sha1")
    assert not policy.everybody.admits(Type.SKCIPHER, "ecb(aes)")
    assert policy.everybody.contexts == 100
    root = policy.users[0]
    assert (root.names, root.contexts, root.queue_bytes) == (None, 5, 1_000_000)
    group = policy.groups[0]
    assert group.rate == 50
    assert not group.admits(Type.AEAD, "gcm(aes)")
    assert group.admits(Type.AEAD, "ccm(aes)")
    backup = config.devices["backup"]
    assert (backup.user, backup.mode, backup.operations) == (0, 0o640, (Operation.ENCRYPT,))
    assert backup.key.encoding == "hex"


def test_empty(file: Path) -> None:
    """Nothing is needed: everybody may then use every name, within the daemon's own bounds."""
    file.write_text("")
    rule = load(file).policy.policy().everybody
    assert (rule.names, rule.contexts, rule.counts) == (None, CONTEXTS_PER_USER, False)


DEVICE = '[devices.x]\ntype = "hash"\nname = "hmac(sha256)"\nkey.file = "/k"\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        ("[polcy]\n", 1, "polcy", "unknown key"),
        ("\n[policy]\ncontext = 3\n", 3, "policy.context", "unknown key"),
        ("[policy]\ncontexts = -1\n", 2, "policy.contexts", "-1: expected int >= 0"),
        (f"[policy]\ncontexts = {CONTEXTS_PER_USER + 1}\n", 2, "policy.contexts", "16385: expected int <= 16384"),
        ('[policy]\nprofile = "weak"\n', 2, "policy.profile", "'standard', 'all' or 'none'"),
        ('[policy]\nallow = [\n  "sha256",\n  "sha256)"\n]\n', 2, "policy.allow.1", "exact name"),
        ('[policy]\nallow = ["colour:sha256"]\n', 2, "policy.allow.0", "exact name"),
        ('[policy]\nprofile = "all"\ndeny = ["md5"]\n', 1, "policy", "removes nothing"),
        ("[policy.users.nobody-of-this-name]\nrate = 1\n", 1, "policy.users.nobody-of-this-name", "no user"),
        ("[policy.groups.nobody-of-this-name]\nrate = 1\n", 1, "policy.groups.nobody-of-this-name", "no group"),
        ("[policy.users.root]\nrate = 1.5\n", 2, "policy.users.root.rate", "expected int, got float"),
        ('[devices."a/b"]\ntype = "hash"\nname = "sha256"\nkey.file = "/k"\n', 1, "devices.a/b", "pattern"),
        (DEVICE + "mode = 1000\n", 5, "devices.x.mode", "octal"),
        (DEVICE + 'user = "nobody-of-this-name"\n', 5, "devices.x.user", "no user"),
        (DEVICE + 'operations = ["sing"]\n', 5, "devices.x.operations.0", "one of agree, decapsulate, decrypt"),
        (DEVICE + 'nonce = "random"\n', 5, "devices.x.nonce", "'daemon' or 'caller'"),
        (DEVICE + 'key.hex = "00112233445566778899"\n', 5, "devices.x.key.hex", "unknown key"),
        (DEVICE + 'key.credential = "k"\n', 4, "devices.x.key", "one source"),
        (DEVICE + 'key.module = "/m"\n', 4, "devices.x.key", "module does not belong"),
        (
            '[devices.x]\ntype = "hash"\nname = "sha256"\nkey = {pkcs11 = "l"}\n',
            4,
            "devices.x.key",
            "needs one of module",
        ),
        (TOKEN + 'token=t?module-path=/m"\n', 4, "devices.x.key", "needs one of pin-file"),
        (TOKEN + 'token=t?pin-source=/p"\n', 4, "devices.x.key", "needs one of module"),
        (TOKEN + '?module-path=/m&pin-source=/p"\nkey.pin-file = "/p"\n', 4, "devices.x.key", "one of pin-file"),
        (TOKEN + '?module-path=/m&pin-source=/p"\nkey.module = "/m"\n', 4, "devices.x.key", "one of module"),
        (TOKEN + 'token=t?module-path=/m&pin-source=/p"\nkey.token = "t"\n', 4, "devices.x.key", "names it already"),
        (TOKEN + 'type=private?module-path=/m&pin-source=/p"\n', 4, "devices.x.key.pkcs11", "takes a secret key"),
        (TOKEN + 'x=y"\n', 4, "devices.x.key.pkcs11", "'x': not one of id, "),
        (TOKEN + '?pin-value=7788990011223344"\n', 4, "devices.x.key.pkcs11", "pin-source=file:PATH"),
        (DEVICE + "key.token = 7788990011223344\n", 5, "devices.x.key.token", "expected str, got int"),
        (DEVICE.replace('.file = "/k"', ' = "00112233"'), 4, "devices.x.key", "expected a table"),
        (DEVICE.replace('"/k"', '"k"'), 4, "devices.x.key.file", "an absolute path"),
        (DEVICE.replace("/k", "/a\\u0000b"), 4, "devices.x.key.file", "an unprintable character"),
        (
            DEVICE.replace('key.file = "/k"', 'key.keyring = "a\\tb"'),
            4,
            "devices.x.key.keyring",
            "an unprintable character",
        ),
        ('[policy]\ncontexts = "5"\n', 2, "policy.contexts", "expected int, got str"),
        ("[policy]\nrate = 1.0\n", 2, "policy.rate", "expected int, got float"),
        ("[policy]\nrequests = true\n", 2, "policy.requests", "expected int, got bool"),
        ("[daemon]\naudit = 1\n", 2, "daemon.audit", "expected bool, got int"),
        (f"[policy]\n\ncontexts = {'9' * 5000}\n", 3, "", "too many digits"),
        (f"[policy]\ncontexts = {'9' * 50}\n", 2, "policy.contexts", ""),
        ("devices = 3\n", 1, "devices", "expected a table"),
        ("[policy]\nusers.root = 3\n", 2, "policy.users.root", "expected a table"),
        ('[policy]\nallow = "sha256"\n', 2, "policy.allow", "expected an array"),
        ("[daemon]\nengines = []\n", 2, "daemon.engines", "length >= 1"),
        ('[devices.x]\ntype = "rng"\nname = "stdrng"\nkey.file = "/k"\n', 2, "devices.x.type", "'hash'"),
        ('[devices.x]\ntype = "hash"\nkey.file = "/k"\n', 1, "devices.x.name", "required"),
        ('[policy]\nprofile = "standard\n', 2, "", "Illegal"),
        ("[policy]\n[policy]\n", 2, "", "twice"),
    ],
)
def test_errors(file: Path, text: str, line: int, key: str, why: str) -> None:
    """Every error has file, line, key and reason, and repeats no value that may be a secret."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    message = caught.value.message
    assert message.startswith(f"{file}:{line}: {key}"), message
    assert why in message
    assert "00112233" not in message
    assert "7788990011" not in message


def test_all_errors_at_once(file: Path) -> None:
    """One line for each."""
    file.write_text("[policy]\nrate = -1\ncontexts = -1\n[daemon]\nx = 1\n[devices.x]\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = sorted(line.removeprefix(f"{file}:") for line in caught.value.message.splitlines())
    assert [line.partition(": ")[0] for line in lines] == ["2", "3", "5", "6", "6"]


def test_file_itself(file: Path) -> None:
    """What is no configuration file."""
    with pytest.raises(ConfigError, match="No such file"):
        load(file)
    file.write_text("")
    file.chmod(0o622)
    with pytest.raises(ConfigError, match="0622"):
        load(file)
    file.chmod(0o600)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(file)
    file.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="1048576"):
        load(file)
    with pytest.raises(ConfigError, match="directory"):
        load(file.parent)


NAMES = st.sampled_from(["a", "b", "cc", "d-d"])


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES), unique=True, min_size=1))
def test_lines(places: list[tuple[str, str]]) -> None:
    """A key in a table is found on its own line."""
    lines, expected = [], {}
    for table in {table for table, _ in places}:
        lines.append(f"[{table}]  # a comment")
        for key in (key for each, key in places if each == table):
            lines.append(f'"{key}".value = 1' if "-" in key else f"{key} . value = 1")
            expected[table, key] = len(lines)
    text = "\n".join(lines)
    for place, line in expected.items():
        assert find_line(text, (*place, "value")) == line


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """A key file."""
    path.write_bytes(data)
    path.chmod(mode)
    return path


def checked(file: Path, *options: str) -> Result:
    """What check-config says of a file."""
    return CliRunner().invoke(commands, ["check-config", str(file), *options])


def test_check_config(file: Path, tmp_path: Path) -> None:
    """The command says that a file is right, or what is wrong with it."""
    key = private(tmp_path / "key", b"00" * 32)
    module = private(tmp_path / "module.so", b"")
    text = WHOLE.replace("/etc/cryptofs/backup.key", str(key))
    file.write_text(text.replace("/usr/lib/softhsm/libsofthsm2.so", str(module)))
    good = CliRunner().invoke(commands, ["check-config", str(file)])
    assert good.exit_code == 0, good.output
    assert "2 devices" in good.output
    file.write_text("[policy]\nrate = -1\n")
    bad = CliRunner().invoke(commands, ["check-config", str(file)])
    assert isinstance(bad.exception, ConfigError)


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ('type = "aead"\nname = "gcm(aes)"\nauthsize = 3', "authsize 3: gcm(aes) takes 4 8 12"),
        ('type = "aead"\nname = "nope(aes)"', "aead 'nope(aes)': no engine offers it here"),
        ('type = "hash"\nname = "gcm(aes)"', "hash 'gcm(aes)': no engine offers it here"),
        ('type = "skcipher"\nname = "ctr(aes)"\noperations = ["decrypt"]', "encrypts what it is given to decrypt"),
        ('type = "skcipher"\nname = "ctr(aes)"\noperations = ["encrypt"]\nnonce = "caller"', "undoes its own"),
    ],
)
def test_check_config_makes_the_devices(file: Path, tmp_path: Path, device: str, why: str) -> None:
    """What only shows when a device is made is found as well, with file, line and key, for all devices at once."""
    rest = f'{device}\nkey.file = "{private(tmp_path / "key", bytes(32))}"\n'
    text = f'[daemon]\nengines = ["openssl"]\n[devices.a]\n{rest}[devices.b]\n{rest}'
    file.write_text(text)
    bad = CliRunner().invoke(commands, ["check-config", str(file)])
    assert isinstance(bad.exception, ConfigError)
    lines = bad.exception.message.splitlines()
    second = text.splitlines().index("[devices.b]") + 1
    assert lines[0].startswith(f"{file}:3: devices.a: ")
    assert why in lines[0]
    assert lines[1].startswith(f"{file}:{second}: devices.b: ")
    assert len(lines) == 2


ONE = '[devices.a]\ntype = "aead"\nname = "gcm(aes)"\n'


@pytest.mark.parametrize(
    ("data", "mode", "more", "why"),
    [
        (None, 0, "", "key source gone: file KEY: no such file (ENOENT)"),
        (bytes(32), 0o644, "", "file KEY: mode 0644: it may have none of the bits 0077"),
        (bytes(32), 0o620, "", "file KEY: mode 0620: it may have none of the bits 0077"),
        (bytes(33), 0o600, "", "file KEY: key of 33 bytes: gcm(aes) takes 16 24 32 bytes"),
        (b"", 0o600, "", "file KEY: it is empty"),
        (b"0" * 63, 0o600, 'key.encoding = "hex"\n', "file KEY: 63 characters: hexadecimal digits are two for each"),
        (
            b"00" * 32 + b"\n\n",
            0o600,
            'key.encoding = "hex"\n',
            "file KEY: 65 characters: hexadecimal digits are",
        ),
        (b"00" * 31 + b"\n", 0o600, 'key.encoding = "hex"\n', "file KEY: key of 31 bytes: gcm(aes) takes"),
    ],
)
def test_check_config_reads_key_files(
    file: Path, tmp_path: Path, data: bytes | None, mode: int, more: str, why: str
) -> None:
    """A key file that would end a start is an error here, with the same words, and with file, line and key."""
    key = tmp_path / "key"
    if data is not None:
        private(key, data, mode)
    file.write_text(f'{ONE}key.file = "{key}"\n{more}')
    bad = checked(file)
    assert isinstance(bad.exception, ConfigError)
    expected = why.replace("KEY", str(key))
    assert bad.exception.message.startswith(f"{file}:4: devices.a.key.file: {expected}")
    with pytest.raises(CryptofsError) as caught:
        Assembly(("openssl",), file)
    assert caught.value.message == bad.exception.message
    # with one newline at the end, hexadecimal digits are a key
    private(key, b"00" * 32 + b"\n" if more else bytes(32))
    assert checked(file).exit_code == 0


def test_check_config_of_a_link(file: Path, tmp_path: Path) -> None:
    """A symbolic link is not followed, though it leads to a file that would do."""
    (tmp_path / "link").symlink_to(private(tmp_path / "key", bytes(32)))
    file.write_text(f'{ONE}key.file = "{tmp_path / "link"}"\n')
    assert "a symbolic link, which is not followed (ELOOP)" in str(checked(file).exception)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give a file away")
def test_check_config_of_owners(file: Path, tmp_path: Path) -> None:
    """Root and the account that will serve may own a key file, nobody else."""
    key = private(tmp_path / "key", bytes(32))
    file.write_text(f'{ONE}key.file = "{key}"\n')
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(key, nobody, -1)
    assert checked(file, "--user", "nobody").exit_code == 0
    os.chown(key, 70_001, -1)
    refused = str(checked(file, "--user", "nobody").exception)
    assert f"owned by uid 70001: root or uid {nobody} must own it" in refused


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give a file away")
def test_a_configuration_of_another_user(file: Path) -> None:
    """It says what root's daemon does, so that nobody else may own it."""
    file.write_text("[policy]\n")
    os.chown(file, 70_001, -1)
    with pytest.raises(ConfigError, match="owned by uid 70001: root or uid 0 must own it"):
        load(file)


def test_check_config_says_what_it_does_not_check(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the service itself can reach is told as that, and the rest of such a device is checked."""
    pin, module = private(tmp_path / "pin", b"1234"), private(tmp_path / "module.so", b"")
    token = f'key.pkcs11 = "k"\nkey.module = "{module}"\nkey.token = "t"\nkey.pin-file = "{pin}"\n'
    cases = {
        'key.credential = "c"\n': "$CREDENTIALS_DIRECTORY is not set here",
        'key.keyring = "k"\n': "the keyrings are those of the user who serves",
        token: "not tested, because each login is a try of the PIN",
    }
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for key, why in cases.items():
        file.write_text(ONE + key)
        said = checked(file)
        assert said.exit_code == 0, said.exception
        assert f"(not checked here: {why}" in said.output
        if key != token:
            file.write_text(ONE + "authsize = 3\n" + key)
            assert "authsize 3" in str(checked(file).exception)
    file.write_text(ONE + token)
    pin.chmod(0o644)
    assert f"{file}:4: devices.a.key.pkcs11: file {pin}: mode 0644" in str(checked(file).exception)
    pin.chmod(0o600)
    module.unlink()
    assert "no such file" in str(checked(file).exception)
    # where the credentials are, they are checked
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file.write_text(ONE + 'key.credential = "c"\n')
    assert "key source gone: credential 'c': no such file" in str(checked(file).exception)
    private(tmp_path / "c", bytes(32), 0o440)
    assert "not checked" not in checked(file).output


def test_check_config_places_an_engine(file: Path) -> None:
    """An unknown engine: file, line and key as well."""
    file.write_text('[daemon]\naudit = true\nengines = ["quantum"]\n')
    bad = CliRunner().invoke(commands, ["check-config", str(file)])
    assert f"{file}:3: daemon.engines: engine 'quantum': one of" in str(bad.exception)


def test_what_is_shipped() -> None:
    """The file that is installed can be used, and lets nobody use a weak name."""
    shipped = Path(__file__).parents[2] / "scripts" / "system" / "cryptofs.toml"
    config = load(shipped)
    everybody = config.policy.policy().everybody
    assert not everybody.admits(Type.HASH, "md5")
    assert everybody.admits(Type.AEAD, "gcm(aes)")
    assert everybody.counts
