"""docs/configuration.md against the models: every key with its default and bounds, and examples that are accepted."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields

from cryptofs.config import Config, ConfigError, load
from cryptofs.config.models import DaemonModel, DeviceModel, KeyModel, PolicyModel, Table
from cryptofs.devices.nonces import MESSAGES_MAX
from cryptofs.nodes.devices import DEVICE_STREAM
from cryptofs.records import PAYLOAD_MAX

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "configuration.md").read_text()
SECTIONS: dict[str, type[Table]] = {
    "daemon": DaemonModel,
    "policy": PolicyModel,
    "devices": DeviceModel,
    "keys": KeyModel,
}
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> dict[str, list[str]]:
    """The table of a section, by key."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0].strip(" `"): row[1:] for row in cells}


def test_every_table_is_described() -> None:
    """The file's tables are the document's sections."""
    assert set(Config.__struct_fields__) == {"daemon", "policy", "devices"}
    headings = re.findall(r"\n## (.+)", TEXT)
    assert [each for each in headings if each in SECTIONS] == list(SECTIONS)
    for heading in headings:
        assert f"(#{heading.replace(' ', '-')})".lower() in TEXT


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_described(title: str) -> None:
    """Neither more nor fewer, each with type, bounds, default and meaning."""
    table = rows(title)
    assert set(table) == {field.encode_name for field in fields(SECTIONS[title])}
    for key, cells in table.items():
        assert len(cells) == 4, key
        assert cells[0], key


def parts(field: FieldInfo) -> list[Any]:
    """What a field's type is made of: its bounds, and the words that it takes, where it takes certain words only."""
    found: list[Any] = []
    kinds: list[Any] = [field.type]
    while kinds:
        kind = kinds.pop()
        found.append(kind)
        kinds += [*get_args(kind), *getattr(kind, "__metadata__", ())]
    return found


@pytest.mark.parametrize("title", SECTIONS)
def test_defaults_and_bounds(title: str) -> None:
    """What the models say is in the cells."""
    table = rows(title)
    for field in fields(SECTIONS[title]):
        _, bounds, default, meaning = table[field.encode_name]
        for part in parts(field):
            if isinstance(part, Meta):
                for number in {part.ge, part.le} - {None}:
                    assert f"{number:,}" in re.findall(r"[0-9,]*[0-9]", bounds), field
            if isinstance(part, str):
                assert f"`{part}`" in bounds, field
        if field.default is NODEFAULT and field.default_factory is NODEFAULT:
            assert default == "required"
        elif isinstance(field.default, str):
            assert default == f"`{field.default}`"
        elif isinstance(field.default, bool):
            assert default == str(field.default).lower()
        elif isinstance(field.default, int) and field.default:
            assert default == f'`"{field.default:04o}"`'
        else:
            assert default != "required"
        assert meaning


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_examples(tmp_path: Path, index: int) -> None:
    """They are accepted as they stand, except that users are replaced by root."""
    assert len(EXAMPLES) == 3
    text = re.sub(r'^(user|group) = "[^"]+"', r'\1 = "root"', EXAMPLES[index], flags=re.MULTILINE)
    text = text.replace("[policy.groups.users]", "[policy.groups.0]")
    path = tmp_path / "cryptofs.toml"
    path.write_text(text)
    path.chmod(0o600)
    config = load(path)
    assert set(config.devices) == set(tomllib.loads(EXAMPLES[index])["devices"])
    config.policy.policy()


def test_limits_of_devices() -> None:
    """The table of docs/devices.md."""
    table = re.findall(r"^\| ([A-Z_]+) \| ([0-9,]+) \|", (DOCS / "devices.md").read_text(), re.MULTILINE)
    assert {name: int(value.replace(",", "")) for name, value in table} == {
        "MESSAGES_MAX": MESSAGES_MAX,
        "DEVICE_STREAM": DEVICE_STREAM,
        "PAYLOAD_MAX": PAYLOAD_MAX,
    }


def test_links() -> None:
    """Links within the documents lead somewhere."""
    for name in ("configuration.md", "devices.md"):
        text = (DOCS / name).read_text()
        for target, anchor in re.findall(r"\]\(([a-z-]*\.?m?d?)#?([a-z-]*)\)", text):
            other = (DOCS / (target or name)).read_text()
            headings = {each.lower().replace(" ", "-") for each in re.findall(r"^#+ (.+)$", other, re.MULTILINE)}
            assert not anchor or anchor in headings, (name, target, anchor)


DEVICE = '[devices.x]\ntype = "{}"\nname = "{}"\nkey.file = "/k"\n{}\n'


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        # nothing that is allowed is not everything
        (DEVICE.format("aead", "gcm(aes)", "operations = []"), 1, "one or more of encrypt, decrypt"),
        (DEVICE.format("aead", "gcm(aes)", 'operations = ["digest"]'), 1, "one or more of encrypt, decrypt"),
        (DEVICE.format("hash", "hmac(sha256)", 'operations = ["encrypt"]'), 1, "one or more of digest"),
        (DEVICE.format("skcipher", "aead:gcm(aes)", ""), 1, "name is one of type aead"),
        (DEVICE.format("hash", "hmac(sha256)", "authsize = 16"), 1, "no tag"),
        (DEVICE.format("hash", "hmac(sha256)", 'nonce = "caller"'), 1, "takes none"),
        # decimal, which is 0620 in octal
        (DEVICE.format("hash", "hmac(sha256)", "mode = 400"), 5, "in quotes"),
        (DEVICE.format("hash", "hmac(sha256)", 'mode = "1777"'), 5, "octal"),
        (DEVICE.format("hash", "hmac(sha256)", 'mode = "089"'), 5, "octal"),
        (DEVICE.format("hash", "hmac(sha256)", "user = 4294967295"), 5, "name or number"),
        (DEVICE.format("hash", "hmac(sha256)", "user = -1"), 5, "name or number"),
        ("[policy.users.root]\nrate = 1\n[policy.users.0]\nrate = 2\n", 3, "the same as root"),
        ("[policy.groups.7]\nrate = 1\n[policy.groups.007]\nrate = 2\n", 3, "the same as 7"),
        ("x = " + "[" * 20_000, 1, "too deep"),
    ],
)
def test_refused(tmp_path: Path, text: str, line: int, why: str) -> None:
    """What could be taken for something else is an error, with file, line and key."""
    path = tmp_path / "cryptofs.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}:{line}: "), caught.value.message
    assert why in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give a file away")
def test_whose_file(tmp_path: Path) -> None:
    """A file that another user can change is none to follow."""
    path = tmp_path / "cryptofs.toml"
    path.write_text("")
    path.chmod(0o600)
    os.chown(path, 70_001, 0)
    with pytest.raises(ConfigError, match="owned by uid 70001"):
        load(path)


def test_modes(tmp_path: Path) -> None:
    """Three digits, with or without a 0 before them; nobody executes a device."""
    path = tmp_path / "cryptofs.toml"
    for text, mode in (("0640", 0o640), ("660", 0o660), ("0777", 0o666), ("000", 0)):
        path.write_text(DEVICE.format("hash", "hmac(sha256)", f'mode = "{text}"'))
        path.chmod(0o600)
        assert load(path).devices["x"].mode == mode
