"""Vectors of the ciphers without authentication."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.records import Operation

from .case import Case, Chain, Item, Loader, Opener, Skip
from .packages import short
from .rsp import Entry, entries

BITWISE = "not a whole number of bytes"


def _case(entry: Entry, name: str, key: bytes, iv: bytes | None, plain: bytes, cipher: bytes) -> Case:
    encrypts = entry.encrypts
    return Case(
        type=Type.SKCIPHER,
        name=name,
        operation=Operation.ENCRYPT if encrypts else Operation.DECRYPT,
        key=key,
        iv=iv,
        assoc=b"",
        data=plain if encrypts else cipher,
        expected=cipher if encrypts else plain,
        authsize=0,
        file=entry.file,
        number=entry.number,
    )


def key_of(entry: Entry) -> bytes:
    """The key of an entry, which for triple DES is in three fields, or in one that counts three times."""
    if "keys" in entry:
        return entry.hex("keys") * 3
    if "key1" in entry:
        return b"".join(entry.hex(f"key{number}") for number in (1, 2, 3))
    return entry.hex("key")


def block(name: str, path: Path) -> Iterator[Item]:
    """NIST's files of single messages."""
    for entry in entries(path):
        iv = entry.hex("iv") if "iv" in entry else None
        yield _case(entry, name, key_of(entry), iv, entry.hex("plaintext"), entry.hex("ciphertext"))


def of(name: str) -> Loader:
    """The loader of single messages of one algorithm."""
    return partial(block, name)


def xts(path: Path) -> Iterator[Item]:
    """Messages of any number of bits, of which whole bytes are taken."""
    for entry in entries(path):
        if entry.integer("dataunitlen") % 8:
            yield Skip(BITWISE)
            continue
        yield _case(entry, "xts(aes)", entry.hex("key"), _tweak(entry), entry.hex("pt"), entry.hex("ct"))


def _tweak(entry: Entry) -> bytes:
    if "i" in entry:
        return entry.hex("i")
    return entry.integer("dataunitseqnumber").to_bytes(16, "little")


def camellia_ecb(path: Path) -> Iterator[Item]:
    """NTT's own form: `K No.001 : 00 …`, where a key serves the P and C lines after it."""
    key, plain, number = b"", b"", 0
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if line.startswith("#") or not value:
            continue
        octets = bytes.fromhex(value)
        match name.split()[0]:
            case "K":
                key = octets
            case "P":
                plain = octets
            case "C":
                number += 1
                entry = Entry({}, short(path), number)
                yield _case(entry, "ecb(camellia)", key, None, plain, octets)


def chacha20(path: Path) -> Iterator[Item]:
    """The IV is the block counter, 4 bytes, and the nonce."""
    for entry in entries(path):
        iv = entry.integer("initial_block_counter").to_bytes(4, "little") + entry.hex("nonce")
        plain, cipher = entry.hex("plaintext"), entry.hex("ciphertext")
        yield _case(entry, "chacha20", entry.hex("key"), iv, plain, cipher)


def arc4(path: Path) -> Iterator[Item]:
    """Parts of the key stream: as much is encrypted as is before them, too."""
    for entry in entries(path):
        offset = entry.integer("offset")
        data = bytes(offset) + entry.hex("plaintext")
        yield Case(
            Type.SKCIPHER,
            "ecb(arc4)",
            Operation.ENCRYPT,
            entry.hex("key"),
            None,
            b"",
            data,
            entry.hex("ciphertext"),
            0,
            entry.file,
            entry.number,
            offset=offset,
        )


def key_wrap(path: Path) -> Iterator[Item]:
    """Each case of AES-KW twice: as the kernel's cipher and as the AEAD."""
    return _wraps((kernel_wrapped, partial(wrapped, "rfc3394(kw(aes))")), ("k", "p", "c"), path)


def padded_wrap(key: str, plain: str, sealed: str) -> Loader:
    """The loader for files of AES-KWP that call the fields so."""
    return partial(_wraps, (partial(wrapped, "kwp(aes)"),), (key, plain, sealed))


def _wraps(makers: tuple[Callable[..., Case], ...], fields: tuple[str, str, str], path: Path) -> Iterator[Item]:
    key, plain, sealed = fields
    for entry in entries(path):
        expected = entry.hex(plain) if plain in entry else None
        for make in makers:
            case = make(entry.file, entry.number, entry.hex(key), entry.hex(sealed), expected)
            inverse = case.inverse()
            yield inverse if inverse is not None and "_AE_" in path.name else case


def wrapped(
    name: str, file: str, number: int, key: bytes, sealed: bytes, plain: bytes | None, failure: int = errno.EBADMSG
) -> Case:
    """A case of unwrapping; plain None: it must be refused with `failure`."""
    refused = failure if plain is None else 0
    return Case(
        Type.AEAD, name, Operation.DECRYPT, key, None, b"", sealed, plain or b"", 8, file, number, errno=refused
    )  # fmt: skip


def kernel_wrapped(
    file: str, number: int, key: bytes, sealed: bytes, plain: bytes | None, failure: int = errno.EBADMSG
) -> Case:
    """The same for the kernel's kw(aes): the first 8 bytes are the IV, which decides whether the key is whole.

    To wrap takes an IV too and does not look at it; the one that it makes is left in the kernel.
    """
    case = wrapped("kw(aes)", file, number, key, sealed, plain, failure)
    return replace(case, type=Type.SKCIPHER, iv=sealed[:8], data=sealed[8:], authsize=0)


# Monte Carlo

_INNER = 1000
"""Computations between two checkpoints."""


def monte_carlo(name: str) -> Loader:
    """The chains of a file, one for each direction."""
    return partial(_monte_carlo, name)


def _monte_carlo(name: str, path: Path) -> Iterator[Item]:
    for encrypts, group in groupby(entries(path), lambda entry: entry.encrypts):
        found = list(group)
        given, wanted = ("plaintext", "ciphertext") if encrypts else ("ciphertext", "plaintext")
        yield Chain(
            Type.SKCIPHER,
            name,
            short(path),
            tuple(entry.hex("key") + entry.hex(wanted) for entry in found),
            _cipher_links,
            found[0].hex("key"),
            found[0].hex(given),
            found[0].hex("iv"),
            operation=Operation.ENCRYPT if encrypts else Operation.DECRYPT,
        )


def _cipher_links(chain: Chain, opener: Opener) -> Iterator[bytes]:
    """Each key with what comes out under it after 1000 blocks, without end.

    A block is what came out before the last one; the chaining of the mode itself is left to one message in parts.
    """
    key, iv, block = chain.key or b"", chain.iv, chain.seed
    while True:
        opener.set_key(key)
        before, last, given = b"", iv, block
        stream = opener.stream(chain.operation, iv)
        for _ in range(_INNER):
            before, last = last, stream.part(given)
            given = before
        stream.close()
        yield key + last
        change = (before + last)[-len(key) :]
        key = bytes(a ^ b for a, b in zip(key, change, strict=True))
        iv, block = last, before
