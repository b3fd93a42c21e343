"""Vectors of authenticated encryption."""

from collections.abc import Iterator
from pathlib import Path

from cryptofs.algorithms import Type, look_up
from cryptofs.records import Operation

from .case import Case, Skips
from .ciphers import Loader
from .rsp import Entry, entries, files

IV_SIZE = "the kernel's gcm takes 12-byte IVs"
NONCE_SIZE = "the kernel's rfc7539 takes 12-byte nonces"
SAME = "the same vectors as in the .rsp file, with the reasons for failures"


def _case(
    entry: Entry, name: str, iv: bytes, assoc: bytes, plain: bytes | None, cipher: bytes, tag: bytes, decrypts: bool
) -> Case:
    """plain: None where the tag is wrong."""
    sealed = cipher + tag
    valid = plain is not None
    decrypts = decrypts or not valid
    return Case(
        type=Type.AEAD,
        name=name,
        operation=Operation.DECRYPT if decrypts else Operation.ENCRYPT,
        key=entry.hex("key"),
        iv=iv,
        assoc=assoc,
        data=sealed if decrypts else plain or b"",
        expected=(plain or b"") if decrypts else sealed,
        authsize=len(tag),
        file=entry.file,
        number=entry.number,
        valid=valid,
    )


def _gcm(skips: Skips) -> Iterator[Case]:
    facts = look_up(Type.AEAD, "gcm(aes)")
    assert facts is not None
    for path in files("ciphers/AES/GCM", "*.rsp"):
        for entry in entries(path):
            iv, tag = entry.hex("iv"), entry.hex("tag")
            if len(iv) != facts.iv_size:
                skips.add(entry.file, IV_SIZE)
                continue
            if len(tag) not in facts.authsizes:
                skips.add(entry.file, f"the kernel's gcm takes no tag of {len(tag)} bytes")
                continue
            plain = None if "fail" in entry else entry.hex("pt")
            decrypts = "Decrypt" in path.name
            yield _case(entry, "gcm(aes)", iv, entry.hex("aad"), plain, entry.hex("ct"), tag, decrypts)


def _ccm(skips: Skips) -> Iterator[Case]:
    for path in files("ciphers/AES/CCM", "DVPT*.txt"):
        skips.add(f"ciphers/AES/CCM/{path.name}", SAME, sum(1 for _ in entries(path)))
    for path in files("ciphers/AES/CCM", "*.rsp"):
        for entry in entries(path):
            yield _ccm_case(path, entry)


def _ccm_case(path: Path, entry: Entry) -> Case:
    # an empty string is written 00, so the lengths count
    assoc = entry.hex("adata")[: entry.integer("alen")]
    nonce = entry.hex("nonce")
    iv = bytes([15 - len(nonce) - 1]) + nonce + bytes(15 - len(nonce))
    sealed = entry.hex("ct")
    cut = entry.integer("plen")
    failed = entry.fields.get("result", "Pass").startswith("Fail")
    plain = None if failed else entry.hex("payload")[:cut]
    assert len(sealed) == cut + entry.integer("tlen"), entry
    return _case(entry, "ccm(aes)", iv, assoc, plain, sealed[:cut], sealed[cut:], path.name.startswith("DVPT"))


def _chacha20_poly1305(skips: Skips) -> Iterator[Case]:
    for file, nonce, assoc, plain, cipher in (
        ("openssl.txt", "iv", "aad", "plaintext", "ciphertext"),
        ("boringssl.txt", "nonce", "ad", "in", "ct"),
    ):
        for entry in entries(files("ciphers/ChaCha20Poly1305", file)[0]):
            iv = entry.hex(nonce)
            if len(iv) != 12:
                skips.add(entry.file, NONCE_SIZE)
                continue
            yield _case(
                entry,
                "rfc7539(chacha20,poly1305)",
                iv,
                entry.hex(assoc) if assoc in entry else b"",
                None if "result" in entry else entry.hex(plain),
                entry.hex(cipher),
                entry.hex("tag"),
                False,
            )


LOADERS: dict[str, Loader] = {
    "aes-gcm": _gcm,
    "aes-ccm": _ccm,
    "chacha20-poly1305": _chacha20_poly1305,
}
