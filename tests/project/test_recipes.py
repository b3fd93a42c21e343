"""The recipes of docs/contributing.md: each file that they name exists, and a forgotten place is noticed here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.stream_devices import declare, serving

from cryptofs.client import Context
from cryptofs.contexts import lanes
from cryptofs.engines import ENGINES
from cryptofs.engines.base import OPERANDS, OPERATIONS
from cryptofs.nodes.devices import _STREAMS
from cryptofs.records import ATTRIBUTES, CONTROL_OPERATIONS, Attr, Kind, Operation, Record, Value

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text()
RECIPES = (DOCS / "contributing.md").read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]


def test_every_file_of_a_recipe_exists() -> None:
    """Paths from the root of the project, and there are six recipes."""
    assert len(re.findall(r"^### ", RECIPES, re.MULTILINE)) == 6
    paths = re.findall(r"`((?:cryptofs|tests|scripts|docs)/[^` *]*)`", RECIPES)
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_operation_belongs_to_a_type() -> None:
    """A new operation that no type has would be EOPNOTSUPP for good."""
    assert CONTROL_OPERATIONS.union(*OPERATIONS.values()) == set(Operation)


@pytest.mark.parametrize("operation", sorted(OPERANDS))
def test_operands_outlive_their_write(operation: Operation) -> None:
    """A request that waits lets go of its write, and still has the bytes of each attribute that it takes."""
    taken = {number for number in OPERANDS[operation] if ATTRIBUTES[number].kind is Kind.BYTES}
    written = bytearray(b"of the write")
    given: dict[int, Value] = {number: memoryview(written) for number in taken}
    request = Record(operation, attributes=given, payload=memoryview(written))
    lanes.detach(request)
    written[:] = bytes(len(written))
    assert request.attributes == dict.fromkeys(taken, b"of the write")
    assert request.payload == b"of the write"


def test_every_engine_is_documented() -> None:
    """In the configuration's bounds, in the attribute and in the glossary."""
    (configured,) = re.findall(
        r"^\| `engines` \| list of texts \| (.*?);", (DOCS / "configuration.md").read_text(), re.M
    )
    attribute = next(line for line in PROTOCOL.splitlines() if line.startswith(f"| {Attr.ENGINE} | engine |"))
    glossary = next(line for line in PROTOCOL.splitlines() if line.startswith("| engine |"))
    assert configured == ", ".join(f"`{name}`" for name in ENGINES)
    for name in ENGINES:
        assert f"`{name}`" in attribute, name
        assert f"`{name}`" in glossary, name


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device."""
    config = declare("backup", "aead", "gcm(aes)", "secret")
    with serving(tmp_path_factory.mktemp("recipes"), {"secret": bytes(32)}, config) as daemon:
        yield daemon


@pytest.mark.mount
def test_every_file_of_the_tree_is_documented(mount: Path) -> None:
    """In the table of the tree: of the root, of a context and of a device."""
    table = PROTOCOL.partition("\n## The tree\n")[2].partition("\n## ")[0]
    paths = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    tops = {re.split("[/`]", path.strip(" `"))[0] for path in paths}
    assert tops == set(os.listdir(mount))
    with Context("hash", "sha256", mount=mount) as context:
        found = re.findall(r"`contexts/<id>/(\w+)`", " ".join(paths))
        assert sorted(found) == ["ctl", "status", "stream"]
        # the stream is not listed
        assert sorted(os.listdir(context.directory)) == ["ctl", "status"]
    (streams,) = [re.findall(r"(\w+)`", path) for path in paths if "encrypt" in path]
    assert sorted(streams) == sorted(operation.word for operation in _STREAMS)
    listed = set(os.listdir(mount / "devices/backup"))
    assert listed == {"crypto", "status", "encrypt", "decrypt"}
    assert {name for name in listed if f"`devices/<name>/{name}`" in table} == {"crypto", "status", "encrypt"}
