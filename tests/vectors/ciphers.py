"""Vectors of the ciphers without authentication."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.records import Operation

from .case import Case, Skips
from .rsp import Entry, entries, files, short

BITWISE = "not a whole number of bytes"
FEEDBACK = "the kernel's cfb feeds whole blocks back"
INTERLEAVED = "interleaved and pipelined modes: the kernel has none"


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


def _key(entry: Entry) -> bytes:
    if "keys" in entry:
        return entry.hex("keys") * 3
    if "key1" in entry:
        return b"".join(entry.hex(f"key{number}") for number in (1, 2, 3))
    return entry.hex("key")


def _block(name: str, paths: list[Path]) -> Iterator[Case]:
    for path in paths:
        for entry in entries(path):
            iv = entry.hex("iv") if "iv" in entry else None
            yield _case(entry, name, _key(entry), iv, entry.hex("plaintext"), entry.hex("ciphertext"))


def _aes(mode: str, pattern: str, skips: Skips) -> Iterator[Case]:
    yield from _block(f"{mode}(aes)", files(f"ciphers/AES/{mode.upper()}", pattern))


def _aes_cfb(skips: Skips) -> Iterator[Case]:
    for width in ("1", "8"):
        _skip(skips, files("ciphers/AES/CFB", f"CFB{width}[GKMV]*"), FEEDBACK)
    yield from _aes("cfb", "CFB128*", skips)


def _skip(skips: Skips, paths: list[Path], reason: str) -> None:
    for path in paths:
        skips.add(short(path), reason, sum(1 for _ in entries(path)))


_DES3_LEFT_OUT = {
    "cbc": [("TCBCI*", INTERLEAVED)],
    "ofb": [("TOFBI*", INTERLEAVED)],
    "cfb": [("TCFBP*", INTERLEAVED), ("TCFB1*", FEEDBACK), ("TCFB8*", FEEDBACK)],
}
_DES3_TAKEN = {"ecb": "TECB*", "cbc": "TCBC[!I]*", "ofb": "TOFB[!I]*", "cfb": "TCFB64*"}


def _des3(mode: str, skips: Skips) -> Iterator[Case]:
    directory = f"ciphers/3DES/{mode.upper()}"
    for pattern, reason in _DES3_LEFT_OUT.get(mode, []):
        _skip(skips, files(directory, pattern), reason)
    yield from _block(f"{mode}(des3_ede)", files(directory, _DES3_TAKEN[mode]))


def _xts(skips: Skips) -> Iterator[Case]:
    for directory in ("tweak-128hexstr", "tweak-dataunitseqno"):
        for path in files(f"ciphers/AES/XTS/{directory}", "*.rsp"):
            for entry in entries(path):
                if entry.integer("dataunitlen") % 8:
                    skips.add(entry.file, BITWISE)
                    continue
                yield _case(entry, "xts(aes)", entry.hex("key"), _tweak(entry), entry.hex("pt"), entry.hex("ct"))


def _tweak(entry: Entry) -> bytes:
    if "i" in entry:
        return entry.hex("i")
    return entry.integer("dataunitseqnumber").to_bytes(16, "little")


def _camellia(skips: Skips) -> Iterator[Case]:
    for path in files("ciphers/Camellia", "*-ecb.txt"):
        yield from _ntt(path)
    for mode in ("cbc", "cfb", "ofb"):
        yield from _block(f"{mode}(camellia)", files("ciphers/Camellia", f"camellia-{mode}.txt"))


def _ntt(path: Path) -> Iterator[Case]:
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


def _sm4(skips: Skips) -> Iterator[Case]:
    _skip(skips, files("ciphers/SM4", "rfc8998.txt"), "gcm(sm4) and ccm(sm4) are not in the catalogue")
    for mode in ("ecb", "cbc", "ctr", "ofb", "cfb"):
        yield from _block(f"{mode}(sm4)", files("ciphers/SM4", f"draft*-{mode}.txt"))


def _chacha20(skips: Skips) -> Iterator[Case]:
    for entry in entries(files("ciphers/ChaCha20", "rfc7539.txt")[0]):
        iv = entry.integer("initial_block_counter").to_bytes(4, "little") + entry.hex("nonce")
        plain, cipher = entry.hex("plaintext"), entry.hex("ciphertext")
        yield _case(entry, "chacha20", entry.hex("key"), iv, plain, cipher)


Loader = Callable[[Skips], Iterator[Case]]

LOADERS: dict[str, Loader] = {
    "aes-ecb": partial(_aes, "ecb", "*.rsp"),
    "aes-cbc": partial(_aes, "cbc", "*.rsp"),
    "aes-ctr": partial(_aes, "ctr", "*.txt"),
    "aes-ofb": partial(_aes, "ofb", "*.rsp"),
    "aes-cfb": _aes_cfb,
    "aes-xts": _xts,
    "des3-ecb": partial(_des3, "ecb"),
    "des3-cbc": partial(_des3, "cbc"),
    "des3-ofb": partial(_des3, "ofb"),
    "des3-cfb": partial(_des3, "cfb"),
    "camellia": _camellia,
    "sm4": _sm4,
    "chacha20": _chacha20,
}
