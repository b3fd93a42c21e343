"""Vectors of authenticated encryption."""

import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cryptofs.algorithms import Type, look_up
from cryptofs.records import Operation

from .case import Case, Item, Loader, Skip
from .rsp import Entry, entries

_NAMES = {"gcm(aes)": "gcm", "gcm(sm4)": "gcm", "rfc7539(chacha20,poly1305)": "rfc7539"}
_OWN = ("gcm-siv(aes)", "rfc5297(siv(aes))", "rfc7539(xchacha20,poly1305)")
"""Names that no kernel has."""


def beyond(name: str, iv: bytes, tag: bytes) -> str:
    """Why the kernel does not take what the standard allows; empty where it takes it."""
    facts = look_up(Type.AEAD, name)
    short = _NAMES.get(name, name)
    if facts is None:
        return ""
    if len(iv) != facts.iv_size and name in _OWN:
        return f"{name} takes IVs of {facts.iv_size} bytes alone: refused with EINVAL"
    if len(iv) != facts.iv_size:
        return f"the kernel's {short} takes IVs of {facts.iv_size} bytes alone: refused with EINVAL"
    if len(tag) not in facts.authsizes:
        return f"the kernel's {short} takes no tag of {len(tag)} bytes: refused with EINVAL"
    return ""


def make(
    file: str, number: int, name: str, key: bytes, iv: bytes, assoc: bytes, plain: bytes | None, cipher: bytes,
    tag: bytes, decrypts: bool = False, failure: int = errno.EBADMSG,
) -> Case:  # fmt: skip
    """plain: None where the message must be refused with `failure`."""
    sealed = cipher + tag
    decrypts = decrypts or plain is None
    reason = beyond(name, iv, tag)
    return Case(
        type=Type.AEAD,
        name=name,
        operation=Operation.DECRYPT if decrypts else Operation.ENCRYPT,
        key=key,
        iv=iv or None,
        assoc=assoc,
        data=sealed if decrypts else plain or b"",
        expected=(plain or b"") if decrypts else sealed,
        authsize=len(tag),
        file=file,
        number=number,
        errno=errno.EINVAL if reason else failure if plain is None else 0,
        # what the file itself wants refused so is no exception
        beyond=reason if plain is not None or failure == errno.EBADMSG else "",
    )


def _of(entry: Entry, name: str, plain: bytes | None, decrypts: bool, fields: tuple[str, str, str]) -> Case:
    iv, assoc, cipher = fields
    return make(
        entry.file,
        entry.number,
        name,
        entry.hex("key"),
        entry.hex(iv),
        entry.hex(assoc) if assoc in entry else b"",
        plain,
        entry.hex(cipher),
        entry.hex("tag"),
        decrypts,
    )


def gcm(path: Path) -> Iterator[Item]:
    """NIST's GCM files; a failing entry has no plaintext."""
    for entry in entries(path):
        plain = None if "fail" in entry else entry.hex("pt")
        yield _of(entry, "gcm(aes)", plain, "Decrypt" in path.name, ("iv", "aad", "ct"))


def of(name: str) -> Loader:
    """The loader of valid messages of one algorithm (RFC 8998's example, OpenSSL's files)."""
    return partial(_valid, name)


def _valid(name: str, path: Path) -> Iterator[Item]:
    for entry in entries(path):
        yield _of(entry, name, entry.hex("plaintext"), False, ("iv", "aad", "ciphertext"))


def siv(path: Path) -> Iterator[Item]:
    """RFC 5297's examples, as OpenSSL has them: the tag is in a field of its own, and comes first here."""
    for entry in entries(path):
        if "aad2" in entry or "aad" not in entry:
            yield Skip("siv(aes) takes associated data as one string")
            continue
        sealed = entry.hex("tag") + entry.hex("ciphertext")
        key, assoc, plain = (entry.hex(field) for field in ("key", "aad", "plaintext"))
        yield make(entry.file, entry.number, "siv(aes)", key, b"", assoc, plain, sealed[:-16], sealed[-16:])


def ccm_iv(nonce: bytes) -> bytes:
    """The kernel's IV for a nonce: the first counter block, 16 bytes, for a nonce of up to 14."""
    return bytes([14 - len(nonce)]) + nonce + bytes(15 - len(nonce))


def ccm(path: Path) -> Iterator[Item]:
    """NIST's CCM files, where an empty string is written 00, so that the lengths count."""
    for entry in entries(path):
        assoc = entry.hex("adata")[: entry.integer("alen")]
        sealed = entry.hex("ct")
        cut = entry.integer("plen")
        failed = entry.fields.get("result", "Pass").startswith("Fail")
        plain = None if failed else entry.hex("payload")[:cut]
        assert len(sealed) == cut + entry.integer("tlen"), entry
        decrypts = path.name.startswith("DVPT")
        iv = ccm_iv(entry.hex("nonce"))
        key = entry.hex("key")
        yield make(
            entry.file, entry.number, "ccm(aes)", key, iv, assoc, plain, sealed[:cut], sealed[cut:], decrypts
        )  # fmt: skip


def chacha20_poly1305(nonce: str, assoc: str, plain: str, cipher: str) -> Loader:
    """The loader for files that call the fields so."""
    return partial(_chacha20_poly1305, (nonce, assoc, cipher), plain)


def _chacha20_poly1305(fields: tuple[str, str, str], text: str, path: Path) -> Iterator[Item]:
    for entry in entries(path):
        plain = None if "result" in entry else entry.hex(text)
        yield _of(entry, "rfc7539(chacha20,poly1305)", plain, False, fields)
