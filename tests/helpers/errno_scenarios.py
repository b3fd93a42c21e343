"""Requests that fail, for the table of every errno of every operation in test_contexts_errno.py."""

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from helpers.context_bench import (
    CANCEL,
    CLONE,
    CONFIGURE,
    DECRYPT,
    DIGEST,
    ENCRYPT,
    FAMILIES,
    KEY,
    SET_KEY,
    TYPES,
    Bench,
    Client,
)
from helpers.fake_engine import CANARY

from cryptofs.algorithms import Type
from cryptofs.contexts import exchange
from cryptofs.devices import Device, DeviceSettings
from cryptofs.engines.base import resolve
from cryptofs.errors import NotOffered
from cryptofs.policy import Policy, Rule
from cryptofs.records import PAYLOAD_MAX, Kind, Operation, Record

Scenario = Callable[[Bench], Record]


def iv_words(client: Client, wanted: bool = True) -> dict[str, Any]:
    """A good IV as an attribute, if it is wanted."""
    return {"iv": client.iv} if wanted else {}


def required(operation: Operation) -> dict[str, Any]:
    """Attributes without which an operation is refused for its form alone, with some values."""
    return {each.name.lower(): 1 if each.kind is Kind.U32 else b"x" for each in operation.row.required}


def failing(kind: str | None, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request on a fresh context."""
    return lambda bench: bench.client(kind).ask(operation, payload, **words)


def with_iv(kind: str, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request with a good IV on a fresh context."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        return client.ask(operation, payload, iv=client.iv, **words)

    return scenario


def after(kind: str, first: dict[str, Any], operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request behind a part that opened a message; iv=True stands for a good one."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        opening = dict(first)
        if opening.get("iv"):
            opening["iv"] = client.iv
        opened = client.ask(opening.pop("operation"), more=True, **opening)
        assert opened.status == 0
        return client.ask(operation, payload, **words)

    return scenario


def configuring(**words: Any) -> Scenario:
    """A configure by itself."""
    return lambda bench: bench.client().ask(CONFIGURE, **words)


def configuring_kind(kind: str, **words: Any) -> Scenario:
    """A configure of one kind of the family."""
    return lambda bench: bench.client().configure(kind, **words)


def keyless(kind: str, operation: Operation, iv: bool) -> Scenario:
    """A message before a key."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        assert client.configure(kind).status == 0
        return client.ask(operation, bytes(16), **iv_words(client, iv))

    return scenario


def burning(kind: str, fuse: str, operation: Operation, iv: bool = False, **words: Any) -> Scenario:
    """A toy that fails with an exception."""

    def scenario(bench: Bench) -> Record:
        bench.family = "fake"
        client = bench.client(kind)
        bench.fake.fuses = {fuse}
        try:
            return client.ask(operation, **iv_words(client, iv), **words)
        finally:
            bench.fake.fuses = set()

    return scenario


def burning_control(fuse: str, configured: bool) -> Scenario:
    """A toy that fails in configure or set-key."""

    def scenario(bench: Bench) -> Record:
        bench.family = "fake"
        client = bench.client("mac") if configured else bench.client()
        bench.fake.fuses = {fuse}
        try:
            return client.ask(SET_KEY, key=KEY) if configured else client.configure("mac", key=KEY)
        finally:
            bench.fake.fuses = set()

    return scenario


def over_quota(kind: str, operation: Operation, iv: bool = False) -> Scenario:
    """One open message more than there may be."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        words: dict[str, Any] = {"iv": client.iv} if iv else {}
        for identity in range(exchange.OPEN_MESSAGES):
            client.ok(operation, bytes(16), id=identity, more=True, **words)
        return client.ask(operation, bytes(16), id=exchange.OPEN_MESSAGES, more=True, **words)

    return scenario


def cancelled(kind: str, operation: Operation, iv: bool = False) -> Scenario:
    """A later part of a cancelled message."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        client.ok(operation, bytes(16), id=7, more=True, **iv_words(client, iv))
        client.ok(CANCEL, id=8, target=7)
        return client.ask(operation, bytes(16), id=7)

    return scenario


def gathered(kind: str, operation: Operation) -> Scenario:
    """A message over PAYLOAD_MAX that must be whole."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        client.ok(operation, bytes(PAYLOAD_MAX), id=7, more=True, iv=client.iv)
        return client.ask(operation, bytes(16), id=7)

    return scenario


def special(name: str, key_size: int, operation: Operation, payload: bytes, iv: bytes, **words: Any) -> Scenario:
    """A message of an AEAD of OpenSSL's by its name."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        assert client.ask(CONFIGURE, type="aead", name=name, key=KEY[:key_size]).status == 0
        return client.ask(operation, payload, iv=iv, **words)

    return scenario


def clone_over_quota(bench: Bench) -> Record:
    """A clone where as many messages are open as may be."""
    client = bench.client("hash")
    for number in range(1, 4):
        client.ask(DIGEST, b"x", id=number, more=True)
    return client.ask(CLONE, id=9, target=1)


def forbidden_meanwhile(bench: Bench) -> Record:
    """A key for a name that the kernel does not let anybody have any more."""
    client = bench.client("mac")
    assert client.context.transform is not None

    def refuse(key: object) -> None:
        raise NotOffered("no longer")

    client.context.transform.replace_key = refuse  # type: ignore[method-assign]
    return client.ask(SET_KEY, key=KEY)


def denied(bench: Bench) -> Record:
    """A name that the policy does not allow."""
    bench.table.policy = Policy(Rule(frozenset()))
    return bench.client().ask(CONFIGURE, type="hash", name=FAMILIES[bench.family]["hash"])


def of_device(kind: str, allowed: Operation, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """A request on a context of a device that allows one operation."""

    def scenario(bench: Bench) -> Record:
        type_, name = Type(TYPES.get(kind, "skcipher")), FAMILIES[bench.family][kind]
        found = resolve(bench.table.engines, type_, name)
        assert found is not None
        transform = found[0].open(found[1], None)
        transform.set_key(KEY)
        device = Device(DeviceSettings("toy", type_, name, frozenset({allowed})), {1: transform})
        context = bench.table.open_device(device, 1000, 1000, 1, False)
        # the key goes with its last context
        device.retire()
        return Client(bench, context).ask(operation, payload, **words)

    return scenario


def clone_of_device(bench: Bench) -> Record:
    """The state of a device's message, wanted in a context that is not the device's."""
    other = bench.client("mac")
    return of_device("mac", DIGEST, CLONE, target=1, context=other.context.number)(bench)


def busy_key(bench: Bench) -> Record:
    """set-key while the stream carries a message."""
    client = bench.client("mac")
    stream = client.context.stream
    stream.feed_nowait(stream.attach(False, True), b"x")
    return client.ask(SET_KEY, key=KEY)


def forged(in_parts: bool) -> Scenario:
    """A wrong tag."""

    def scenario(bench: Bench) -> Record:
        client = bench.client("aead")
        sealed = bytearray(client.ok(ENCRYPT, b"secret text", iv=client.iv))
        sealed[-1] ^= 1
        if not in_parts:
            return client.ask(DECRYPT, bytes(sealed), iv=client.iv)
        assert client.ok(DECRYPT, bytes(sealed[:5]), more=True, iv=client.iv) == b""
        return client.ask(DECRYPT, bytes(sealed[5:]))

    return scenario


def cloning(source: str, other_kind: str | None, /, uid: int = 1000, **words: Any) -> Scenario:
    """A clone of the open message 7 into another context."""

    def scenario(bench: Bench) -> Record:
        client, other = bench.client(source), bench.client(other_kind, uid)
        opening = {"iv": client.iv} if client.iv_size else {}
        operation = DIGEST if source in ("hash", "mac") else ENCRYPT
        client.ok(operation, bytes(16), id=7, more=True, **opening)
        return client.ask(CLONE, **({"id": 8, "target": 7, "context": other.context.number} | words))

    return scenario


def cloning_stream(fed: bool, busy: bool) -> Scenario:
    """A clone of the stream's message into another context's stream."""

    def scenario(bench: Bench) -> Record:
        client, other = bench.client("hash"), bench.client("hash")
        for each, begins in ((client, fed), (other, busy)):
            if begins:
                each.context.stream.feed_nowait(each.context.stream.attach(False, True), b"x")
        return client.ask(CLONE, context=other.context.number)

    return scenario


def public_key(type_: str, name: str, key: bytes | None, operation: Operation, /, **words: Any) -> Scenario:
    """A public key operation that fails on a context of its own."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        given = {} if key is None else {"key": key}
        client.ask(CONFIGURE, type=type_, name=name, engine="openssl", **given)
        rest = dict(words)
        if rest.pop("generated", False):
            client.ok(Operation.GENERATE_KEY)
        return client.ask(operation, rest.pop("payload", b""), **rest)

    return scenario


_SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
# the private key and the public one
_ED25519_PRIVATE = _SIGNER.private_bytes_raw() + _SIGNER.public_key().public_bytes_raw()


def signing_device(allowed: Operation, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """A public key operation on a context of a device with a private key that allows another one."""

    def scenario(bench: Bench) -> Record:
        found = resolve(bench.table.engines, Type.SIG, "ed25519")
        assert found is not None
        transform = found[0].open(found[1], None)
        transform.set_key(_ED25519_PRIVATE)
        device = Device(DeviceSettings("toy", Type.SIG, "ed25519", frozenset({allowed})), {1: transform})
        context = bench.table.open_device(device, 1000, 1000, 1, False)
        device.retire()
        return Client(bench, context).ask(operation, payload, **words)

    return scenario


def signing(bench: Bench) -> Client:
    """A client with a new key for signatures."""
    client = bench.client()
    client.ask(CONFIGURE, type="sig", name="ed25519", engine="openssl")
    client.ok(Operation.GENERATE_KEY)
    return client


def signing_over_quota(bench: Bench) -> Record:
    """One message in parts more than there may be open."""
    client = signing(bench)
    for identity in range(exchange.OPEN_MESSAGES):
        client.ok(Operation.SIGN, b"x", id=identity, more=True)
    return client.ask(Operation.SIGN, b"x", id=exchange.OPEN_MESSAGES, more=True)


def signing_too_much(bench: Bench) -> Record:
    """A message in parts that is larger than it may be."""
    client = signing(bench)
    client.ok(Operation.SIGN, bytes(PAYLOAD_MAX), id=1, more=True)
    return client.ask(Operation.SIGN, b"x", id=1)


def cancelled_operation(operation: Operation) -> Scenario:
    """A later part of a cancelled message of a public key operation."""

    def scenario(bench: Bench) -> Record:
        client = signing(bench)
        client.ok(operation, b"x", id=7, more=True)
        client.ok(CANCEL, id=8, target=7)
        return client.ask(operation, b"y", id=7)

    return scenario


def burning_operation(operation: Operation) -> Scenario:
    """A public key operation whose engine fails in a way of its own."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        client.ask(CONFIGURE, type="sig", name="ed25519", engine="openssl")
        assert client.context.transform is not None

        def burn(*arguments: object) -> Any:
            raise RuntimeError(CANARY)

        client.context.transform.operate = burn  # type: ignore[method-assign]
        return client.ask(operation, b"x" if operation.row.payload else b"", **required(operation))

    return scenario
