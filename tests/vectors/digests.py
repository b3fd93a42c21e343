"""Vectors of digests and MACs."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.records import Operation

from .case import Case, MonteCarlo, Skips
from .ciphers import Loader
from .rsp import Entry, entries, files, short

TRUNCATED = "SHA-512/224 and SHA-512/256: the kernel has none"


def _case(entry: Entry, name: str, message: bytes, expected: bytes) -> Case:
    return Case(
        type=Type.HASH,
        name=name,
        operation=Operation.DIGEST,
        key=entry.hex("key") if "key" in entry else None,
        iv=None,
        assoc=b"",
        data=message,
        expected=expected,
        authsize=0,
        file=entry.file,
        number=entry.number,
    )


def _messages(name: str, path: Path) -> Iterator[Case]:
    """A file of lengths in bits, messages and digests; an empty message is written 00."""
    for entry in entries(path, start="len"):
        yield _case(entry, name, entry.hex("msg")[: entry.integer("len") // 8], entry.hex("md"))


# family: names with the prefix of their files
_SHA = {
    "sha1": {"sha1": "SHA1/SHA1"},
    "sha2": {f"sha{bits}": f"SHA2/SHA{bits}" for bits in (224, 256, 384, 512)},
    "sha3": {f"sha3-{bits}": f"SHA3/SHA3_{bits}" for bits in (224, 256, 384, 512)},
}


def _sha(family: str, skips: Skips) -> Iterator[Case]:
    for name, prefix in _SHA[family].items():
        directory, _, stem = prefix.partition("/")
        for path in files(f"hashes/{directory}", f"{stem}[LS]*Msg.rsp"):
            yield from _messages(name, path)
    if family == "sha2":
        for path in files("hashes/SHA2", "SHA512_*Msg.rsp"):
            skips.add(short(path), TRUNCATED, sum(1 for _ in entries(path, start="len")))


def monte_carlo() -> Iterator[MonteCarlo]:
    """The Monte Carlo tests of the SHA family."""
    for family, members in _SHA.items():
        for name, prefix in members.items():
            (path,) = files("hashes", f"{prefix}Monte.rsp")
            found = list(entries(path))
            checkpoints = tuple(entry.hex("md") for entry in found)
            window = 1 if family == "sha3" else 3
            yield MonteCarlo(name, found[0].hex("seed"), window, checkpoints, short(path))


_SINGLE = {"md5": "MD5/rfc-1321.txt", "sm3": "SM3/oscca.txt", "blake2b-512": "blake2/blake2b.txt"}


def _single(name: str, skips: Skips) -> Iterator[Case]:
    directory, _, file = _SINGLE[name].partition("/")
    yield from _messages(name, files(f"hashes/{directory}", file)[0])


_HMACS = {
    "hmac(md5)": "rfc-2202-md5.txt",
    "hmac(sha1)": "rfc-2202-sha1.txt",
    "hmac(sha224)": "rfc-4231-sha224.txt",
    "hmac(sha256)": "rfc-4231-sha256.txt",
    "hmac(sha384)": "rfc-4231-sha384.txt",
    "hmac(sha512)": "rfc-4231-sha512.txt",
}


def _hmac(skips: Skips) -> Iterator[Case]:
    for path in files("HMAC", "*ripemd160.txt"):
        skips.add(short(path), "ripemd160 is not in the catalogue", sum(1 for _ in entries(path, start="len")))
    for name, file in _HMACS.items():
        yield from _messages(name, files("HMAC", file)[0])


def _cmac(skips: Skips) -> Iterator[Case]:
    for path in files("CMAC", "*3des.txt"):
        skips.add(short(path), "cmac(des3_ede) is not in the catalogue", sum(1 for _ in entries(path)))
    for path in files("CMAC", "*aes*.txt"):
        for entry in entries(path):
            yield _case(entry, "cmac(aes)", entry.hex("message"), entry.hex("output"))


LOADERS: dict[str, Loader] = {
    "sha1": partial(_sha, "sha1"),
    "sha2": partial(_sha, "sha2"),
    "sha3": partial(_sha, "sha3"),
    "md5": partial(_single, "md5"),
    "sm3": partial(_single, "sm3"),
    "blake2b": partial(_single, "blake2b-512"),
    "hmac": _hmac,
    "cmac-aes": _cmac,
}
