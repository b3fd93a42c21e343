"""Vectors of digests and MACs."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cryptofs.algorithms import Type, look_up
from cryptofs.records import Operation

from .case import Case, Chain, Item, Loader, Opener, Skip
from .ciphers import BITWISE, key_of
from .packages import short
from .rsp import entries

OTHER_SIZES = {
    "blake2b": "the kernel's blake2b has digests of 20, 32, 48 and 64 bytes",
    "blake2s": "the kernel's blake2s has digests of 16, 20, 28 and 32 bytes",
}


def make(file: str, number: int, name: str, key: bytes | None, message: bytes, expected: bytes) -> Case:
    """A digest; what is expected may be its beginning."""
    return Case(Type.HASH, name, Operation.DIGEST, key, None, b"", message, expected, 0, file, number)


def messages(name: str) -> Loader:
    """Files of lengths in bits, messages and digests; an empty message is written 00."""
    return partial(_messages, name)


def _messages(name: str, path: Path) -> Iterator[Item]:
    for entry in entries(path, start="len"):
        bits = entry.integer("len")
        if bits % 8:
            yield Skip(BITWISE)
            continue
        key = entry.hex("key") if "key" in entry else None
        message = entry.hex("msg")[: bits // 8]
        yield make(entry.file, entry.number, name, key, message, entry.hex("md"))


def cmac(cipher: str) -> Loader:
    """The examples of SP 800-38B."""
    return partial(_macs, f"cmac({cipher})")


def _macs(name: str, path: Path) -> Iterator[Item]:
    for entry in entries(path):
        yield make(entry.file, entry.number, name, key_of(entry), entry.hex("message"), entry.hex("output"))


def poly1305(path: Path) -> Iterator[Item]:
    """The kernel's takes its key as the first 32 bytes of the message."""
    for entry in entries(path):
        message = entry.hex("key") + entry.hex("msg")
        yield make(entry.file, entry.number, "poly1305", None, message, entry.hex("tag"))


def shake(name: str) -> Loader:
    """Outputs of any size, which are the digest and what would follow, or its beginning."""
    return partial(_shake, name)


def _shake(name: str, path: Path) -> Iterator[Item]:
    facts = look_up(Type.HASH, name)
    assert facts is not None
    variable = "VariableOut" in path.name
    for entry in entries(path, start="count" if variable else "len"):
        bits = entry.integer("input length" if variable else "len")
        if bits % 8:
            yield Skip(BITWISE)
            continue
        output = entry.hex("md" if "md" in entry else "output")
        yield make(
            entry.file, entry.number, name, None, entry.hex("msg")[: bits // 8], output[: facts.digest_size]
        )  # fmt: skip


def blake2(name: str) -> Loader:
    """The designers' keyed vectors of the largest digest: fields in:, key: and hash:."""
    return partial(_blake2, name)


def _blake2(name: str, path: Path) -> Iterator[Item]:
    for entry in entries(path, start="in", mark=":"):
        # the last line of the file for blake2b ends with the word ok
        digest = bytes.fromhex(entry.text("hash").split()[0].removesuffix("ok"))
        yield make(entry.file, entry.number, name, entry.hex("key"), entry.hex("in"), digest)


# Chains


def monte_carlo(name: str, window: int) -> Loader:
    """Checkpoints that are 1000 digests apart, each of the last `window` ones joined (3 for SHA-1 and SHA-2, 1 for
    SHA-3)."""
    return partial(_monte_carlo, name, window)


def _monte_carlo(name: str, window: int, path: Path) -> Iterator[Item]:
    found = list(entries(path))
    checkpoints = tuple(entry.hex("md") for entry in found)
    yield Chain(
        Type.HASH, name, short(path), checkpoints, _digest_links, seed=found[0].hex("seed"), window=window
    )  # fmt: skip


def _digest_links(chain: Chain, opener: Opener) -> Iterator[bytes]:
    seed = chain.seed
    while True:
        window = [seed] * chain.window
        for _ in range(1000):
            window = [*window[1:], opener.digest(b"".join(window))]
        seed = window[-1]
        yield seed


_STEP = re.compile(r"\bM = ([0-9a-f]+)\s+MDi = ([0-9a-f]+)")


def monte_carlo_steps(name: str) -> Loader:
    """The first steps of such chains, written out: messages and their digests."""
    return partial(_monte_carlo_steps, name)


def _monte_carlo_steps(name: str, path: Path) -> Iterator[Item]:
    for number, (message, digest) in enumerate(_STEP.findall(path.read_text())):
        yield make(short(path), number, name, None, bytes.fromhex(message), bytes.fromhex(digest))


_GROWING = re.compile(r"^digest(?:\((\d+)\))?: ([0-9a-f]+)$", re.MULTILINE)


def growing(family: str) -> Loader:
    """The hundredth digest, each of all those before it, the last one first; with keys of A in the keyed file."""
    return partial(_growing, family)


def _growing(family: str, path: Path) -> Iterator[Item]:
    for length, digest in _GROWING.findall(path.read_text()):
        size = len(digest) // 2
        if look_up(Type.HASH, f"{family}-{size * 8}") is None:
            yield Skip(OTHER_SIZES[family])
            continue
        key = b"A" * int(length) if length else None
        yield Chain(Type.HASH, f"{family}-{size * 8}", short(path), (bytes.fromhex(digest),), _growing_links, key)


def _growing_links(chain: Chain, opener: Opener) -> Iterator[bytes]:
    if chain.key is not None:
        opener.set_key(chain.key)
    digests: list[bytes] = []
    for _ in range(100):
        digests.insert(0, opener.digest(b"".join(digests)))
    yield digests[0]
