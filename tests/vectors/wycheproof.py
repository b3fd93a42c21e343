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
    """kw(aes), which unwraps; see ciphers.key_wrap."""
    for _, test in tests(path):
        key, plain, sealed = (bytes.fromhex(test[field]) for field in ("key", "msg", "ct"))
        if len(sealed) < 8:
            yield Skip("shorter than the IV of kw(aes)")
            continue
        failure = _errno(test)
        case = ciphers.wrapped(short(path), test["tcId"], key, sealed, None if failure else plain, failure)
        yield replace(case, acceptable=test["result"] == "acceptable")


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
