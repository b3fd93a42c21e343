"""The recipes of docs/contributing.md: each file that they name exists, and a forgotten place is noticed here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.record_format import table_of
from stress.kinds import KINDS

from cryptofs.client import Context
from cryptofs.contexts import lanes
from cryptofs.contexts.control import CONTROLS
from cryptofs.engines.opening import ENGINES
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.engines.public import PublicKeyTransform
from cryptofs.nodes.devices import _STREAMS
from cryptofs.records import CONTROL_OPERATIONS, Attr, Kind, Operation, Record, Value

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text()
RECIPES = (DOCS / "contributing.md").read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]


def test_every_file_of_a_recipe_exists() -> None:
    """Paths from the root of the project, and there are eight recipes."""
    assert len(re.findall(r"^### ", RECIPES, re.MULTILINE)) == 8
    paths = re.findall(r"`((?:cryptofs|tests|scripts|docs)/[^` *]*)`", RECIPES)
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_operation_is_served() -> None:
    """A control call has a function, and only a control call has: forgotten types are noticed."""
    assert set(CONTROLS) == CONTROL_OPERATIONS


@pytest.mark.parametrize("operation", [each for each in Operation if each.row.operands])
def test_some_algorithm_does_it(operation: Operation) -> None:
    """Of each of its types, on the engine that is always there."""
    engine = OpensslEngine()
    for type_ in operation.row.types:
        described = [engine.describe(type_, name) for each, name in engine.names() if each is type_]
        opened = [engine.open(description, None) for description in described if description is not None]
        assert any(isinstance(each, PublicKeyTransform) and operation in each.operations for each in opened), type_


@pytest.mark.parametrize("operation", Operation)
def test_row_is_documented(operation: Operation) -> None:
    """The table of the protocol names the operation's attributes and payload as its row does."""
    (cells,) = [cells for cells in table_of("Operations", "number") if cells[1] == operation.word]
    words = re.findall(r"([a-z][a-z-]*)(\*?)", re.sub(r"\([^)]*\)", "", cells[2]))
    taken = {word: bool(star) for word, star in words if word != "none"}
    row = operation.row
    if operation is Operation.DIGEST:
        # it takes what it has not, if it is empty
        assert taken == {"key-version": False}
        assert row.allowed == {Attr.IV, Attr.ASSOCLEN, Attr.KEY_VERSION}
    else:
        assert taken == {each.word: each in row.required for each in row.allowed}
    assert row.payload == (cells[3] != "none")


@pytest.mark.parametrize("operation", Operation)
def test_attributes_outlive_their_write(operation: Operation) -> None:
    """A request that waits lets go of its write and keeps each attribute that it takes; its cost stays the same."""
    written = bytearray(b"of the write")
    given: dict[int, Value] = {each: memoryview(written) for each in Attr if each.kind is Kind.BYTES}
    request = Record(operation, attributes=given, payload=memoryview(written))
    cost = lanes.cost_of(request)
    lanes.detach(request)
    written[:] = bytes(len(written))
    assert request.attributes == {each: b"of the write" if each in operation.row.allowed else b"" for each in given}
    assert request.payload == b"of the write"
    assert lanes.cost_of(request) == cost


ANSWERS = frozenset(
    {
        Attr.MESSAGE,
        Attr.BLOCK_SIZE,
        Attr.IV_SIZE,
        Attr.KEY_SIZES,
        Attr.DIGEST_SIZE,
        Attr.MAX_AUTHSIZE,
        Attr.QUEUE_REQUESTS,
        Attr.QUEUE_BYTES,
    }
)
"""Attributes that no request has."""


def test_every_attribute_is_taken() -> None:
    """By a request of some operation, or it is one of answers only."""
    taken = frozenset[Attr]().union(*(operation.row.allowed for operation in Operation))
    assert taken | ANSWERS == set(Attr)
    assert not taken & ANSWERS


def test_hostile_clients_send_every_operation() -> None:
    """Each one that is no control call belongs to a kind of the stress run."""
    sent = {operation for kind in KINDS.values() for operation in kind.operations}
    assert sent | CONTROL_OPERATIONS == set(Operation)


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
    config = declare("backup", "aead", "gcm(aes)", "{secret}")
    with serving_config(tmp_path_factory.mktemp("recipes"), config, secret=bytes(32)) as daemon:
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
