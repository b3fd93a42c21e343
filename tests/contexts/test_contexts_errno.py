"""Every errno of every operation is provoked, and the document has each of them."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import context_bench
from helpers.context_bench import (
    CANCEL,
    CLONE,
    COMPRESS,
    CONFIGURE,
    DECOMPRESS,
    DECRYPT,
    DIGEST,
    ENCRYPT,
    GENERATE,
    INFO,
    KEY,
    RESET,
    SET,
    SET_KEY,
    Bench,
    symbol_of,
)
from helpers.errno_scenarios import (
    Scenario,
    after,
    burning,
    burning_control,
    burning_operation,
    busy_key,
    cancelled,
    cancelled_operation,
    clone_of_device,
    clone_over_quota,
    cloning,
    cloning_stream,
    configuring,
    configuring_kind,
    denied,
    failing,
    forbidden_meanwhile,
    forged,
    gathered,
    keyless,
    of_device,
    over_quota,
    public_key,
    required,
    signing_device,
    signing_over_quota,
    signing_too_much,
    special,
    with_iv,
)
from helpers.fake_engine import CANARY
from helpers.record_format import table_of

from cryptofs.contexts import exchange, requests, scheduler
from cryptofs.contexts.control import CONTROLS
from cryptofs.records import PAYLOAD_MAX, Attr, Operation

bench = context_bench.bench

BOMB = zlib.compress(bytes(PAYLOAD_MAX + 1))

AESTEXT: dict[str, Any] = {"type": "skcipher", "name": "cbc(aes)"}
OPEN_DIGEST: dict[str, Any] = {"operation": DIGEST}
OPEN_ENCRYPT: dict[str, Any] = {"operation": ENCRYPT, "iv": True}

# the public key operations, by the engine that has them
PUBLIC_OPERATIONS = [operation for operation in Operation if operation.row.operands]
_ED25519_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

TABLE: list[tuple[Operation, str, Scenario]] = [
    # any: what does not belong, and before configure
    *[(operation, "EINVAL", failing(None, operation, message="x")) for operation in CONTROLS],
    *[
        (operation, "EINVAL", failing("hash", operation, b"payload"))
        for operation in CONTROLS
        if operation != CONFIGURE
    ],
    *[(operation, "EINVAL", failing("hash", operation, more=True)) for operation in CONTROLS if operation != CONFIGURE],
    *[(operation, "EINVAL", failing("stream", operation, key=KEY)) for operation in (ENCRYPT, DECRYPT)],
    *[(operation, "EINVAL", with_iv("stream", operation, length=1)) for operation in (ENCRYPT, DECRYPT)],
    (DIGEST, "EINVAL", failing("hash", DIGEST, key=KEY)),
    (DIGEST, "EINVAL", failing("hash", DIGEST, length=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, target=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, iv=b"x")),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, assoclen=1)),
    (SET_KEY, "EBADFD", failing(None, SET_KEY, key=KEY)),
    (CLONE, "EBADFD", failing(None, CLONE, target=1)),
    *[(op, "EBADFD", failing(None, op)) for op in (RESET, ENCRYPT, DECRYPT, DIGEST, GENERATE, COMPRESS, DECOMPRESS)],
    # configure
    (CONFIGURE, "EBUSY", failing("hash", CONFIGURE, type="hash", name="sha256")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="skcipher", name="sha256")),
    (CONFIGURE, "ENOENT", configuring_kind("hash", engine="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="sha256", engine="fake")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="toysum", engine="openssl")),
    (CONFIGURE, "ENOENT", configuring_kind("hash", driver="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="sha256", driver="sha1-openssl")),
    (CONFIGURE, "EINVAL", configuring(type="hash")),
    (CONFIGURE, "EINVAL", configuring(name="sha256")),
    (CONFIGURE, "EINVAL", failing(None, CONFIGURE, b"x", **AESTEXT)),
    (CONFIGURE, "EINVAL", configuring(**AESTEXT, more=True)),
    (CONFIGURE, "EINVAL", configuring(**AESTEXT, length=1)),
    (CONFIGURE, "EINVAL", configuring(type="cipher", name="cbc(aes)")),
    (CONFIGURE, "EINVAL", configuring(type="skcipher", name="cbc(aes")),
    (CONFIGURE, "EINVAL", configuring(type="skcipher", name="")),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=bytes(15))),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=b"")),
    (CONFIGURE, "EINVAL", configuring_kind("hash", key=KEY)),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=KEY, authsize=3)),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=KEY, authsize=17)),
    (CONFIGURE, "EINVAL", configuring_kind("hash", authsize=16)),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, iv=bytes(15))),
    (CONFIGURE, "EINVAL", configuring_kind("hash", iv=bytes(1))),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, assoclen=1)),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, operation="digest")),
    (CONFIGURE, "EINVAL", configuring_kind("hash", operation="nosuch")),
    (CONFIGURE, "EIO", burning_control("describe", False)),
    (CONFIGURE, "EIO", burning_control("open", False)),
    (CONFIGURE, "EIO", burning_control("set_key", False)),
    # set-key, info, reset, set
    (SET_KEY, "EINVAL", failing("mac", SET_KEY)),
    (SET_KEY, "EINVAL", failing("blocks", SET_KEY, key=bytes(31))),
    (SET_KEY, "EINVAL", failing("hash", SET_KEY, key=KEY)),
    (SET_KEY, "EBUSY", after("mac", OPEN_DIGEST, SET_KEY, key=KEY)),
    (SET_KEY, "EBUSY", busy_key),
    (SET_KEY, "EIO", burning_control("set_key", True)),
    (INFO, "EINVAL", failing("hash", INFO, target=1)),
    (RESET, "EINVAL", failing("blocks", RESET, iv=bytes(15))),
    (RESET, "EINVAL", failing("blocks", RESET, operation="generate")),
    (RESET, "EINVAL", failing("blocks", RESET, assoclen=1)),
    (SET, "EINVAL", failing("hash", SET)),
    (SET, "EINVAL", failing("hash", SET, nonblocking=2)),
    # cancel, clone
    (CANCEL, "EINVAL", failing("hash", CANCEL)),
    (CANCEL, "ENOENT", failing("hash", CANCEL, target=1)),
    (CANCEL, "ENOENT", failing(None, CANCEL, target=1)),
    (CLONE, "ENOENT", failing("hash", CLONE, target=1)),
    (CLONE, "ENOENT", failing("hash", CLONE, target=1, context=99)),
    (CLONE, "ENOENT", cloning("hash", "hash", uid=1001)),
    (CLONE, "ENOENT", cloning("hash", None)),
    (CLONE, "ENOENT", cloning("hash", "hash", target=6)),
    (CLONE, "ENOENT", cloning_stream(fed=False, busy=False)),
    (CLONE, "EINVAL", cloning("hash", "mac")),
    (CLONE, "EINVAL", failing("hash", CLONE)),
    (CLONE, "EBUSY", after("hash", OPEN_DIGEST, CLONE, id=1, target=1)),
    (CLONE, "EBUSY", cloning_stream(fed=True, busy=True)),
    (CLONE, "EOPNOTSUPP", cloning("stream", "stream")),
    (CLONE, "EOPNOTSUPP", cloning("aead", "aead")),
    # operations of other types, keys
    *[(op, "EOPNOTSUPP", failing("hash", op, iv=bytes(16))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EOPNOTSUPP", failing("hash", op, more=True)) for op in (ENCRYPT, DECRYPT)],
    *[(DIGEST, "EOPNOTSUPP", failing(kind, DIGEST)) for kind in ("stream", "whole", "aead")],
    *[(GENERATE, "EOPNOTSUPP", failing(kind, GENERATE, length=1)) for kind in ("stream", "whole", "aead", "hash")],
    (GENERATE, "EINVAL", failing("rng", GENERATE)),
    (DIGEST, "EOPNOTSUPP", failing("rng", DIGEST)),
    (ENCRYPT, "EOPNOTSUPP", failing("rng", ENCRYPT)),
    *[(op, "ENOKEY", keyless(kind, op, True)) for kind in ("stream", "whole", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "ENOKEY", keyless("mac", DIGEST, False)),
    # sizes
    *[(op, "EINVAL", failing(kind, op, bytes(16))) for kind in ("stream", "aead") for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", failing("blocks", op, bytes(16), iv=bytes(15))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", failing("blocks", op, bytes(16), iv=bytes(15), more=True)) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("blocks", op, bytes(17))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("whole", op, bytes(15))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("aead", op, bytes(16), assoclen=17)) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("stream", op, bytes(16), assoclen=1)) for op in (ENCRYPT, DECRYPT)],
    (DECRYPT, "EINVAL", with_iv("aead", DECRYPT, bytes(15))),
    (DIGEST, "EINVAL", failing("hash", DIGEST, iv=b"x")),
    (GENERATE, "EINVAL", failing("rng", GENERATE, b"payload", length=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, more=True)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=PAYLOAD_MAX + 1)),
    (ENCRYPT, "EINVAL", special("rfc4106(gcm(aes))", 20, ENCRYPT, bytes(32), bytes(8), assoclen=12)),
    (ENCRYPT, "EINVAL", special("rfc4309(ccm(aes))", 19, ENCRYPT, bytes(32), bytes(8), assoclen=0)),
    (DECRYPT, "EINVAL", special("rfc4543(gcm(aes))", 20, DECRYPT, bytes(64), bytes(8), assoclen=17)),
    (ENCRYPT, "EINVAL", special("ccm(aes)", 16, ENCRYPT, b"", bytes(16))),
    (ENCRYPT, "EOVERFLOW", special("ccm(aes)", 16, ENCRYPT, bytes(65536), bytes((1, *range(13), 0, 0)))),
    # later parts
    (ENCRYPT, "EINVAL", after("stream", OPEN_ENCRYPT, ENCRYPT, iv=bytes(16))),
    (ENCRYPT, "EINVAL", after("aead", OPEN_ENCRYPT, ENCRYPT, assoclen=0)),
    (DECRYPT, "EINVAL", after("stream", OPEN_ENCRYPT, DECRYPT)),
    (DIGEST, "EINVAL", after("stream", OPEN_ENCRYPT, DIGEST)),
    (ENCRYPT, "EINVAL", after("hash", OPEN_DIGEST, ENCRYPT)),
    *[(op, "EMSGSIZE", gathered(kind, op)) for kind in ("whole", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "EDQUOT", over_quota("hash", DIGEST)),
    *[(op, "EDQUOT", over_quota(kind, op, iv=True)) for kind in ("stream", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "ECANCELED", cancelled("hash", DIGEST)),
    *[(op, "ECANCELED", cancelled(kind, op, iv=True)) for kind in ("stream", "whole") for op in (ENCRYPT, DECRYPT)],
    # the engine
    (DIGEST, "EIO", burning("hash", "begin", DIGEST)),
    (DIGEST, "EIO", burning("hash", "begin", DIGEST, more=True)),
    (DIGEST, "EIO", burning("hash", "digest", DIGEST)),
    *[(op, "EIO", burning("stream", "update", op, iv=True)) for op in (ENCRYPT, DECRYPT)],
    (ENCRYPT, "EIO", burning("whole", "crypt", ENCRYPT, iv=True)),
    (GENERATE, "EIO", burning("rng", "fill", GENERATE, length=8)),
    # policy and devices
    (CONFIGURE, "EACCES", denied),
    (SET_KEY, "ENOENT", forbidden_meanwhile),
    (SET_KEY, "EACCES", of_device("mac", DIGEST, SET_KEY, key=KEY)),
    (CLONE, "EACCES", clone_of_device),
    (CLONE, "EDQUOT", clone_over_quota),
    (ENCRYPT, "EACCES", of_device("blocks", DECRYPT, ENCRYPT, bytes(16))),
    (DECRYPT, "EACCES", of_device("blocks", ENCRYPT, DECRYPT, bytes(32))),
    (ENCRYPT, "EINVAL", of_device("blocks", ENCRYPT, ENCRYPT, bytes(16), iv=bytes(16))),
    (DECRYPT, "EINVAL", of_device("blocks", DECRYPT, DECRYPT, bytes(7))),
    (DECRYPT, "EBADMSG", forged(in_parts=False)),
    (DECRYPT, "EBADMSG", forged(in_parts=True)),
    # compression
    (CONFIGURE, "EINVAL", configuring_kind("packer", level=10)),
    (CONFIGURE, "EINVAL", configuring_kind("packer", key=KEY)),
    (CONFIGURE, "EINVAL", configuring_kind("packer", authsize=16)),
    (CONFIGURE, "EINVAL", configuring_kind("hash", level=1)),
    (CONFIGURE, "ENOENT", configuring(type="compression", name="842")),
    (CONFIGURE, "ENOENT", configuring(type="compression", name="zstd", engine="openssl")),
    (COMPRESS, "EOPNOTSUPP", failing("hash", COMPRESS)),
    (DECOMPRESS, "EOPNOTSUPP", failing("rng", DECOMPRESS)),
    (ENCRYPT, "EOPNOTSUPP", failing("packer", ENCRYPT)),
    (COMPRESS, "EINVAL", failing("packer", COMPRESS, iv=b"x")),
    (COMPRESS, "EINVAL", failing("packer", COMPRESS, length=1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS, BOMB, length=PAYLOAD_MAX + 1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS, more=True, length=1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS)),
    (DECOMPRESS, "EMSGSIZE", failing("packer", DECOMPRESS, BOMB)),
    (DECOMPRESS, "EMSGSIZE", failing("packer", DECOMPRESS, zlib.compress(bytes(9)), length=8)),
    # public keys
    *[(op, "EINVAL", failing("hash", op, length=1)) for op in PUBLIC_OPERATIONS],
    *[(op, "EBADFD", failing(None, op)) for op in PUBLIC_OPERATIONS],
    *[(op, "EOPNOTSUPP", failing("hash", op, **required(op))) for op in PUBLIC_OPERATIONS],
    *[(op, "EINVAL", failing("hash", op, more=True, **required(op))) for op in PUBLIC_OPERATIONS if not op.row.parts],
    *[
        (op, "ENOKEY", public_key("sig", "ed25519", None, op, **required(op)))
        for op in (Operation.SIGN, Operation.VERIFY, Operation.PUBLIC_KEY)
    ],
    (Operation.AGREE, "ENOKEY", public_key("kpp", "curve25519", None, Operation.AGREE, peer_key=bytes(32))),
    (Operation.DECAPSULATE, "ENOKEY", public_key("kpp", "mlkem768", None, Operation.DECAPSULATE, payload=bytes(1088))),
    (Operation.ENCAPSULATE, "ENOKEY", public_key("kpp", "mlkem768", None, Operation.ENCAPSULATE)),
    (Operation.SIGN, "ENOKEY", public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.SIGN)),
    (Operation.VERIFY, "EINVAL", public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.VERIFY)),
    (
        Operation.VERIFY,
        "EKEYREJECTED",
        public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.VERIFY, signature=bytes(64)),
    ),
    (
        Operation.VERIFY,
        "EBADMSG",
        public_key("sig", "mldsa44", bytes(32), Operation.VERIFY, signature=bytes(2420)),
    ),
    (
        Operation.VERIFY,
        "EMSGSIZE",
        public_key("sig", "mldsa87", bytes(32), Operation.VERIFY, signature=b"x", payload=bytes(PAYLOAD_MAX)),
    ),
    (Operation.SIGN, "EDQUOT", signing_over_quota),
    (Operation.SIGN, "EMSGSIZE", signing_too_much),
    (Operation.SIGN, "EACCES", signing_device(Operation.VERIFY, Operation.SIGN, b"x")),
    (Operation.VERIFY, "EACCES", signing_device(Operation.SIGN, Operation.VERIFY, b"x", signature=bytes(64))),
    (Operation.PUBLIC_KEY, "EACCES", signing_device(Operation.SIGN, Operation.PUBLIC_KEY)),
    (Operation.GENERATE_KEY, "EACCES", signing_device(Operation.SIGN, Operation.GENERATE_KEY)),
    (
        Operation.GENERATE_KEY,
        "EBUSY",
        public_key("sig", "ed25519", None, Operation.GENERATE_KEY, generated=True),
    ),
    (Operation.SIGN, "ECANCELED", cancelled_operation(Operation.SIGN)),
    *[(op, "EIO", burning_operation(op)) for op in PUBLIC_OPERATIONS],
]


@pytest.mark.parametrize(
    ("operation", "symbol", "scenario"),
    TABLE,
    ids=[f"{operation.word}-{symbol}-{index}" for index, (operation, symbol, _) in enumerate(TABLE)],
)
def test_errno(
    operation: Operation, symbol: str, scenario: Scenario, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row: the errno, a message for people, no output, and nothing of an engine's exception or a key."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 3)
    response = scenario(bench)
    assert response.operation == operation
    assert symbol_of(response.status) == symbol
    assert not len(response.payload)
    message = response.attributes[Attr.MESSAGE]
    assert isinstance(message, str)
    assert message
    for secret in (CANARY, KEY.hex(), repr(KEY)[2:-1]):
        assert secret not in message


@pytest.mark.parametrize(
    ("operation", "symbol", "scenario"),
    [row for row in TABLE if row[0] not in CONTROLS],
    ids=[f"{row[0].word}-{row[1]}-{index}" for index, row in enumerate(TABLE) if row[0] not in CONTROLS],
)
def test_errno_by_workers(
    operation: Operation, symbol: str, scenario: Scenario, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows when workers compute."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 3)
    monkeypatch.setattr(requests, "LONG_NS", -1)
    monkeypatch.setattr(scheduler, "LONG_NS", -1)

    def at_once(work: Callable[[], Any], done: Callable[[Any], None], turn: tuple[int, int]) -> None:
        done(work())

    monkeypatch.setattr(bench.workers, "submit", at_once)
    response = scenario(bench)
    assert symbol_of(response.status) == symbol
    assert CANARY not in str(response.attributes)


# The table and the document


def operations_of(words: str) -> tuple[set[Operation], bool]:
    """The operations of a row of the document, and whether the row is about each of them or about some."""
    by_word = {operation.word: operation for operation in Operation}
    if words.startswith("any"):
        but = {by_word[word] for word in words.removeprefix("any").removeprefix(" but ").split(", ") if word}
        return set(Operation) - but, True
    return {by_word[word] for word in words.split(", ")}, False


def documented() -> Iterator[tuple[set[Operation], bool, str]]:
    """Each errno of the document's table with its operations."""
    operations: tuple[set[Operation], bool] = set(), False
    for words, symbols, _ in table_of("Errors", "operation"):
        if words:
            operations = operations_of(words)
        for symbol in symbols.split(", "):
            yield *operations, symbol


def test_every_documented_errno_is_provoked() -> None:
    """A row about any operation is tested with each, another row with at least one of its operations."""
    tested = {(operation, symbol) for operation, symbol, _ in TABLE}
    rows = list(documented())
    assert len(rows) > 20
    for operations, each, symbol in rows:
        found = {operation for operation in operations if (operation, symbol) in tested}
        assert found == operations if each else found, f"{symbol} of {operations - found} is not tested"


def test_every_provoked_errno_is_documented() -> None:
    """No operation answers an errno that the document does not name for it."""
    rows = {(operation, symbol) for operations, _, symbol in documented() for operation in operations}
    undocumented = {(op.word, symbol) for op, symbol, _ in TABLE if (op, symbol) not in rows}
    # an engine may fail in any call that reaches it
    assert undocumented <= {("configure", "EIO"), ("set-key", "EIO")}
