"""Wycheproof's cases: what is valid, what must be refused and how, and what may be either."""

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptofs.algorithms import Type
from cryptofs.records import Operation

from . import aeads, ciphers, digests
from .case import Case, Item, Loader, Skip
from .packages import short

CARRY = "the counter passes 2^32, where the kernel's ChaCha wraps to 0 and does not carry"
WRAP = "a counter that passes 2^32 is to be refused, where the kernel's ChaCha wraps to 0"
NO_IV = "a nonce of more than 14 bytes has no place in the kernel's IV for ccm"

# how the cases with a flag are refused; one that is not here fails the run, so that no new kind goes unnoticed
_ERRNOS = {
    "ModifiedTag": errno.EBADMSG,
    "InvalidNonceSize": errno.EINVAL,
    "ZeroLengthIv": errno.EINVAL,
    "InvalidTagSize": errno.EINVAL,
    "InsecureTagSize": errno.EINVAL,
    "InvalidKeySize": errno.EINVAL,
    "ModifiedIv": errno.EBADMSG,
    "ModifiedPadding": errno.EBADMSG,
    "WrongDataSize": errno.EINVAL,
    "InvalidWrappingSize": errno.EINVAL,
    "EmptyKey": errno.EINVAL,
    "ShortKey": errno.EINVAL,
}
_OTHER_FLAGS = {"CVE-2017-18330"}


def tests(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each case of a file with its group."""
    content = json.loads(path.read_text())
    found = [(group, test) for group in content["testGroups"] for test in group["tests"]]
    assert len(found) == content["numberOfTests"], path
    return iter(found)


def _errno(test: dict[str, Any]) -> int:
    """What a case must be refused with; 0 if it is valid."""
    if test["result"] != "invalid":
        return 0
    (flag,) = set(test["flags"]) - _OTHER_FLAGS
    return _ERRNOS[flag]


def aead(name: str) -> Loader:
    """AEAD files of one algorithm."""

    def load(path: Path) -> Iterator[Item]:
        for _, test in tests(path):
            key, iv, assoc, plain, cipher, tag = (
                bytes.fromhex(test[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            if name.startswith("ccm("):
                if len(iv) > 14:
                    yield Skip(NO_IV)
                    continue
                iv = aeads.ccm_iv(iv)
            if name == "rfc5297(siv(aes))":
                # the standard's order: the tag is in front
                sealed = tag + cipher
                cipher, tag = sealed[: len(cipher)], sealed[len(cipher) :]
            failure = _errno(test)
            text = None if failure else plain
            yield aeads.make(
                short(path), test["tcId"], name, key, iv, assoc, text, cipher, tag, failure=failure
            )  # fmt: skip

    return load


def mac(name: str) -> Loader:
    """MAC files: a wrong tag is one that does not come out, and a wrong key is refused."""

    def load(path: Path) -> Iterator[Item]:
        for _, test in tests(path):
            key, message, tag = (bytes.fromhex(test[field]) for field in ("key", "msg", "tag"))
            case = digests.make(short(path), test["tcId"], name, key, message, tag)
            failure = _errno(test)
            if failure == errno.EBADMSG:
                case = replace(case, differs=True)
            elif failure:
                case = replace(case, errno=failure)
            yield case

    return load


def key_wrap(path: Path) -> Iterator[Item]:
    """AES-KW, which unwraps; see ciphers.key_wrap."""
    for file, number, key, sealed, plain, failure, acceptable in _wraps(path):
        case = ciphers.wrapped("rfc3394(kw(aes))", file, number, key, sealed, plain, failure)
        yield replace(case, acceptable=acceptable)
        if len(sealed) < 8:
            yield Skip("shorter than the IV of kw(aes)")
            continue
        case = ciphers.kernel_wrapped(file, number, key, sealed, plain, failure)
        yield replace(case, acceptable=acceptable)


def padded_wrap(path: Path) -> Iterator[Item]:
    """AES-KWP, which unwraps. The file says of a single half of a block that its padding is wrong."""
    for file, number, key, sealed, plain, failure, acceptable in _wraps(path):
        refused = errno.EINVAL if len(sealed) < 16 else failure
        case = ciphers.wrapped("kwp(aes)", file, number, key, sealed, plain, refused)
        yield replace(case, acceptable=acceptable)


def _wraps(path: Path) -> Iterator[tuple[str, int, bytes, bytes, bytes | None, int, bool]]:
    for _, test in tests(path):
        key, plain, sealed = (bytes.fromhex(test[field]) for field in ("key", "msg", "ct"))
        failure = _errno(test)
        yield (
            *(short(path), test["tcId"], key, sealed),
            *(None if failure else plain, failure, test["result"] == "acceptable"),
        )


def siv(path: Path) -> Iterator[Item]:
    """AES-SIV without a nonce, with the tag in front; these files have no flags, and nothing is wrong but the tag."""
    for _, test in tests(path):
        key, assoc, plain, sealed = (bytes.fromhex(test[field]) for field in ("key", "aad", "msg", "ct"))
        text = plain if test["result"] == "valid" else None
        yield aeads.make(
            short(path), test["tcId"], "siv(aes)", key, b"", assoc, text, sealed[:-16], sealed[-16:]
        )  # fmt: skip


def chacha20_counter(path: Path) -> Iterator[Item]:
    """ChaCha20 and XChaCha20 near the end of their counters."""
    for group, test in tests(path):
        key, nonce, counter, plain = (bytes.fromhex(test[field]) for field in ("key", "iv", "initialCounter", "msg"))
        blocks = -(-len(plain) // 64)
        over = int.from_bytes(counter[:4], "little") + blocks > 1 << 32
        if over:
            yield Skip(CARRY if test["result"] == "valid" else WRAP)
            continue
        assert test["result"] == "valid", test
        extended = group["algorithm"] == "XChaCha20"
        yield Case(
            Type.SKCIPHER,
            "xchacha20" if extended else "chacha20",
            Operation.ENCRYPT,
            key,
            nonce + counter if extended else counter + nonce,
            b"",
            plain,
            bytes.fromhex(test["ct"]),
            0,
            short(path),
            test["tcId"],
        )
