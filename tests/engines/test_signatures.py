"""Signatures: what is wrong with one that is refused, by the kernel's errnos; how much can be signed and verified."""

import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from helpers.public_keys import DECRYPT, ENCRYPT, PUBLIC_KEY, SIGN, VERIFY, der_of, does, opened, rsa_key, wycheproof
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.client import Context, RequestError
from cryptofs.engines import der
from cryptofs.engines.openssl import malformed
from cryptofs.engines.public import PublicKeyTransform
from cryptofs.errors import CryptofsError, InvalidValue, TooLarge
from cryptofs.records import PAYLOAD_MAX, RECORD_MAX, Attr, Flag, Operation, Record, build

DIGEST = hashlib.sha256(b"message").digest()


def answer(transform: PublicKeyTransform, signature: bytes, data: bytes = DIGEST) -> str:
    """The errno of a verify, `ok` for none."""
    try:
        does(transform, VERIFY, data, signature=signature)
    except CryptofsError as error:
        return error.symbol
    return "ok"


# PKCS #1 v1.5

INFO = bytes.fromhex("3031300d060960864801650304020105000420")
INFO_512 = bytes.fromhex("3051300d060960864801650304020305000440")
NO_NULL = bytes.fromhex("302f300b0609608648016503040201") + bytes.fromhex("0420")


def encrypted(block: bytes) -> bytes:
    """The signature that has this block inside."""
    numbers = rsa_key().private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, n).to_bytes(256, "big")


def padded(inside: bytes, begin: bytes = b"\0\1") -> bytes:
    """A block as PKCS #1 has it, with `inside` at its end."""
    return begin + b"\xff" * (256 - len(begin) - 1 - len(inside)) + b"\0" + inside


@pytest.mark.parametrize("name", ["pkcs1(rsa,sha256)", "pkcs1pad(rsa,sha256)"])
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (padded(INFO + DIGEST), "ok"),
        (padded(INFO + bytes(32)), "EKEYREJECTED"),
        (padded(INFO + DIGEST[:-1]), "EKEYREJECTED"),
        (padded(INFO + DIGEST + b"\0"), "EKEYREJECTED"),
        (padded(INFO), "EKEYREJECTED"),
        (padded(INFO[:-1]), "EBADMSG"),
        (padded(INFO_512 + DIGEST), "EBADMSG"),
        (padded(NO_NULL + DIGEST), "EBADMSG"),
        (padded(DIGEST), "EBADMSG"),
        (padded(INFO + DIGEST, b"\0\2"), "EBADMSG"),
        (padded(INFO + DIGEST, b"\1\1"), "EBADMSG"),
        (b"\0\1" + b"\xff" * 7 + b"\0" + INFO + DIGEST + b"\xff" * (256 - 10 - 51), "EBADMSG"),
        (b"\0\1" + b"\xff" * 254, "EBADMSG"),
        (b"\0\1" + b"\xff" * 100 + b"\xfe" + b"\xff" * 101 + b"\0" + INFO + DIGEST, "EBADMSG"),
    ],
)
def test_pkcs1(name: str, block: bytes, expected: str) -> None:
    """EBADMSG where padding or the digest's description are wrong, EKEYREJECTED where only the digest is."""
    assert len(block) == 256
    type_ = "sig" if name.startswith("pkcs1(") else "akcipher"
    transform = opened(type_, name, rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1))
    assert answer(transform, encrypted(block)) == expected


_OF_HASHLIB = {"rmd160": "ripemd160", "sha512-224": "sha512_224", "sha512-256": "sha512_256"}


@pytest.mark.parametrize(
    "digest",
    [*("md5", "sha1", "sha224", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"), *_OF_HASHLIB],
)
def test_every_digest_is_known_by_its_description(digest: str) -> None:
    """Another digest is EKEYREJECTED with each of them: the description that is looked for is the one that is made."""
    transform = opened("sig", f"pkcs1(rsa,{digest})", der_of(rsa_key()))
    size = hashlib.new(_OF_HASHLIB.get(digest, digest.replace("-", "_"))).digest_size
    signature = does(transform, SIGN, bytes(size))
    assert answer(transform, signature, bytes(size)) == "ok"
    assert answer(transform, signature, b"\1" * size) == "EKEYREJECTED"
    other = opened("sig", "pkcs1(rsa,sha256)", der_of(rsa_key()))
    assert answer(other, signature) == "EBADMSG"


def test_pkcs1_without_a_description() -> None:
    """The kernel's digest `none`: data of any size as they are, up to what the padding leaves."""
    transform = opened("sig", "pkcs1(rsa,none)", der_of(rsa_key()))
    for data in (b"x", DIGEST, INFO + DIGEST, os.urandom(245)):
        signature = does(transform, SIGN, data)
        assert signature == encrypted(padded(data))
        assert answer(transform, signature, data) == "ok"
        assert answer(transform, signature, data + b"x") == "EKEYREJECTED"
    assert answer(transform, encrypted(padded(DIGEST, b"\0\2")), DIGEST) == "EBADMSG"
    assert answer(opened("sig", "pkcs1(rsa,sha256)", der_of(rsa_key())), does(transform, SIGN, INFO + DIGEST)) == "ok"
    with pytest.raises(InvalidValue, match="message of 246 bytes: with this key at most 245"):
        does(transform, SIGN, bytes(246))
    assert answer(transform, bytes(255) + b"\2", bytes(246)) == "EBADMSG"
    with pytest.raises(InvalidValue, match="takes at least 1 byte"):
        does(transform, SIGN, b"")


def test_numbers_that_no_signature_has() -> None:
    """0, 1, the modulus and more; another key's signature; sizes that cannot be are EINVAL."""
    transform = opened("sig", "pkcs1(rsa,sha256)", der_of(rsa_key()))
    n = rsa_key().public_key().public_numbers().n
    for number in (0, 1, 2, n - 1, n, n + 1, (1 << 2048) - 1):
        assert answer(transform, number.to_bytes(256, "big")) == "EBADMSG"
    other = opened("sig", "pkcs1(rsa,sha256)", der_of(rsa.generate_private_key(65537, 2048)))
    assert answer(transform, does(other, SIGN, DIGEST)) == "EBADMSG"
    for size in (0, 255, 257, 512):
        assert answer(transform, bytes(size)) == "EINVAL"


# ECDSA

CURVES = {
    "nist-p256": (ec.SECP256R1(), 32),
    "nist-p384": (ec.SECP384R1(), 48),
    "nist-p521": (ec.SECP521R1(), 66),
}


@pytest.mark.parametrize("curve", CURVES)
def test_the_orders_are_those_of_the_curves(curve: str) -> None:
    """The order less 1 times the base point is its negative, and the order itself is no private key."""
    group, _ = CURVES[curve]
    order = malformed._ORDERS[group.name]
    one = ec.derive_private_key(1, group).public_key().public_numbers()
    last = ec.derive_private_key(order - 1, group).public_key().public_numbers()
    assert (last.x, last.y != one.y) == (one.x, True)
    with pytest.raises(ValueError, match=r"."):
        ec.derive_private_key(order, group)


@pytest.mark.parametrize("curve", CURVES)
def test_ecdsa(curve: str) -> None:
    """r and s out of range and what is not DER are EBADMSG; a good form of another message is EKEYREJECTED."""
    group, size = CURVES[curve]
    order = malformed._ORDERS[group.name]
    key = der_of(ec.generate_private_key(group))
    x962, p1363 = opened("sig", f"x962(ecdsa-{curve})", key), opened("sig", f"p1363(ecdsa-{curve})", key)
    good = does(x962, SIGN, DIGEST)
    r, s = decode_dss_signature(good)
    assert answer(x962, good) == "ok"
    assert answer(x962, good, bytes(32)) == "EKEYREJECTED"
    # the negative of s verifies, too: that is ECDSA
    assert answer(x962, encode_dss_signature(r, order - s)) == "ok"
    for first, second, expected in (
        (1, 1, "EKEYREJECTED"),
        (order - 1, order - 1, "EKEYREJECTED"),
        (0, s, "EBADMSG"),
        (r, 0, "EBADMSG"),
        (order, s, "EBADMSG"),
        (r, order, "EBADMSG"),
        (r, order + s if order + s < 1 << 8 * size else order + 1, "EBADMSG"),
        ((1 << 8 * size) - 1, s, "EBADMSG"),
    ):
        assert answer(x962, encode_dss_signature(first, second)) == expected
        raw = first.to_bytes(size, "big") + second.to_bytes(size, "big")
        assert answer(p1363, raw) == expected
    for wrong in (
        *(b"x", good[:-1], good + b"\0", b"\x31" + good[1:], bytes(64)),
        bytes(der.enclose(der.SEQUENCE, der.integer(r.to_bytes(size, "big")))),
        bytes(der.enclose(der.SEQUENCE, good[2:], good[2:])),
        bytes(der.enclose(der.SEQUENCE, b"\2\1\xff", b"\2\1\1")),
        bytes(der.enclose(der.SEQUENCE, b"\2\2\0\1", b"\2\1\1")),
        encode_dss_signature(1 << 600, s),
    ):
        assert answer(x962, wrong) == "EBADMSG", wrong.hex()
    for wrong_size in (0, 2 * size - 1, 2 * size + 1):
        assert answer(p1363, bytes(wrong_size)) == "EINVAL"


# ML-DSA


@pytest.mark.parametrize("size", [44, 65, 87])
def test_mldsa(size: int) -> None:
    """Wycheproof's wrong lengths and hints are EBADMSG, and so is a z out of range; no valid signature is malformed."""
    signature_size = {44: 2420, 65: 3309, 87: 4627}[size]
    seen = {"EBADMSG": 0, "EKEYREJECTED": 0, "ok": 0}
    for group, case in wycheproof("Signature", f"mldsa_{size}_verify"):
        signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
        if case["result"] == "valid":
            assert malformed.mldsa(signature, signature_size) is None, case["comment"]
            seen["ok"] += 1
            continue
        if len(group["publicKey"]) != 2 * {44: 1312, 65: 1952, 87: 2592}[size] or case.get("ctx"):
            continue
        found = answer(opened("sig", f"mldsa{size}", bytes.fromhex(group["publicKey"])), signature, message)
        if {"InvalidHintsEncoding", "IncorrectSignatureLength"} & set(case["flags"]):
            assert found == "EBADMSG", case["comment"]
        elif "c_tilde" in case["comment"]:
            assert found == "EKEYREJECTED", case["comment"]
        seen[found] += 1
    assert min(seen.values()) > 0
    transform = opened("sig", f"mldsa{size}", bytes(32))
    good = does(transform, SIGN, b"message")
    # the first and the last coefficient, each as large as it can be: 0 bits stand for gamma1
    challenge, count, width, *_ = malformed._MLDSA[signature_size]
    end = challenge + count * width // 8
    for at in (challenge, end - 3):
        wrong = good[:at] + bytes(3) + good[at + 3 :]
        assert answer(transform, wrong, b"message") == "EBADMSG"
    assert answer(transform, good, b"massage") == "EKEYREJECTED"


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(["mldsa44", "x962(ecdsa-nist-p256)", "pkcs1(rsa,sha256)"]), data=st.data())
def test_any_bytes_as_a_signature(name: str, data: st.DataObject) -> None:
    """No bytes raise anything else than one of the three refusals."""
    if name not in _SIGNERS:
        _SIGNERS[name] = opened("sig", name, der_of(rsa_key()) if "rsa" in name else None)
        if not _SIGNERS[name].keyed:
            does(_SIGNERS[name], Operation.GENERATE_KEY)
    size = {"mldsa44": 2420, "pkcs1(rsa,sha256)": 256}.get(name, 70)
    signature = data.draw(st.binary(min_size=0, max_size=80) | st.binary(min_size=size, max_size=size))
    assert answer(_SIGNERS[name], signature) in ("EBADMSG", "EKEYREJECTED", "EINVAL")


_SIGNERS: dict[str, PublicKeyTransform] = {}


def test_contexts_of_mldsa() -> None:
    """A signature is for one context; a verify record has room for it beside the message; others take none."""
    transform = opened("sig", "mldsa87", bytes(32))
    for context in (b"c", bytes(255)):
        signature = does(transform, SIGN, b"message", signature_context=context)
        assert does(transform, VERIFY, b"message", signature=signature, signature_context=context) == b""
        assert answer(transform, signature, b"message") == "EKEYREJECTED"
        around = len(build(Record(VERIFY, 0, 1, 0, {Attr.SIGNATURE: signature, Attr.SIGNATURE_CONTEXT: context})))
        with pytest.raises(TooLarge, match=f"at most {RECORD_MAX - around}"):
            does(transform, SIGN, bytes(RECORD_MAX - around + 1), signature_context=context)
    for name in ("ed25519", "ed448", "x962(ecdsa-nist-p256)"):
        other = opened("sig", name)
        does(other, Operation.GENERATE_KEY)
        with pytest.raises(InvalidValue, match=r"signature-context: .* takes none"):
            does(other, SIGN, DIGEST, signature_context=b"c")


# What can be signed can be verified


@pytest.mark.parametrize("name", ["ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"])
def test_the_largest_message(name: str) -> None:
    """The most bytes that are signed fit into one record with their signature; one more is EMSGSIZE both ways."""
    transform = opened("sig", name)
    does(transform, Operation.GENERATE_KEY)
    signature = does(transform, SIGN, b"")
    around = len(build(Record(VERIFY, 0, 1, 0, {Attr.SIGNATURE: signature})))
    largest = min(PAYLOAD_MAX, RECORD_MAX - around)
    data = bytes(largest)
    signature = does(transform, SIGN, data)
    assert len(build(Record(VERIFY, 0, 1, 0, {Attr.SIGNATURE: signature}, data))) <= RECORD_MAX
    assert answer(transform, signature, data) == "ok"
    for operation, operands in ((SIGN, {}), (VERIFY, {"signature": signature})):
        with pytest.raises(
            TooLarge, match=f"message of {largest + 1} bytes: {name} signs and verifies at most {largest}"
        ):
            does(transform, operation, bytes(largest + 1), **operands)


@pytest.mark.mount
def test_through_the_mount(mount: Path) -> None:
    """The largest message is signed in one record and in parts, and verified; the client says of each refusal: no."""
    with Context("sig", "mldsa87", bytes(32), mount=mount) as context:
        signature = context.sign(b"")
        largest = RECORD_MAX - len(build(Record(VERIFY, 0, 1, 0, {Attr.SIGNATURE: signature})))
        data = os.urandom(largest)
        signature = context.sign(data)
        assert context.verify(signature, data)
        message = context.message(SIGN)
        assert message.update(data[:300_000]) + message.update(data[300_000:900_000]) == b""
        parts = message.finish(data[900_000:])
        assert context.verify(parts, data)
        bound = context.sign(b"text", signature_context=b"login")
        assert context.verify(bound, b"text", signature_context=b"login")
        assert context.verify(bound, b"text") is False
        record = Record(SIGN, Flag.MORE, context.new_id(), 0, {Attr.SIGNATURE_CONTEXT: b"login"}, b"te")
        with pytest.raises(RequestError, match="signature-context: of a message in one record only"):
            context.request(record)
        with pytest.raises(RequestError, match=f"at most {largest}"):
            context.sign(data + b"x")
        assert context.verify(signature, data[:-1]) is False
        assert context.verify(signature[:-1], data) is False
        assert context.verify(bytes(4627), b"") is False


# RSA keys as the kernel reads them: integers are unsigned


def bare(key: bytes) -> bytes:
    """A key in DER without the 00 before a first bit in any of its integers."""
    body, rest = der.read(memoryview(key), key[0])
    assert not rest
    tag = key[0]
    if tag == der.INTEGER:
        return bytes(der.enclose(tag, bytes(body).lstrip(b"\0") or b"\0"))
    if tag == der.SEQUENCE:
        parts = []
        while len(body):
            _, following = der.read(body, body[0])
            parts.append(bare(bytes(body[: len(body) - len(following)])))
            body = following
        return bytes(der.enclose(tag, *parts))
    inner = bytes(body)
    if tag == der.OCTET_STRING:
        return bytes(der.enclose(tag, bare(inner)))
    if tag == der.BIT_STRING:
        return bytes(der.enclose(tag, b"\0", bare(inner[1:])))
    return key


_PRIVATE = [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8]
_PUBLIC = [PublicFormat.PKCS1, PublicFormat.SubjectPublicKeyInfo]


@pytest.mark.parametrize("bits", [1024, 2048])
@pytest.mark.parametrize("form", [*_PRIVATE, *_PUBLIC])
def test_numbers_without_a_leading_zero(bits: int, form: PrivateFormat | PublicFormat) -> None:
    """Each form of a key, for each name that takes RSA keys: the same key as with it."""
    private = rsa_key(bits)
    if isinstance(form, PrivateFormat):
        whole = der_of(private, form)
    else:
        whole = private.public_key().public_bytes(Encoding.DER, form)
    short = bare(whole)
    assert len(short) < len(whole)
    expected = private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    for type_, name in (("akcipher", "rsa"), ("akcipher", "pkcs1pad(rsa)"), ("sig", "pkcs1(rsa,sha256)")):
        transform = opened(type_, name, short)
        assert does(transform, PUBLIC_KEY) == expected
        if isinstance(form, PublicFormat):
            continue
        if type_ == "sig":
            assert answer(opened("sig", name, whole), does(transform, SIGN, DIGEST)) == "ok"
        else:
            assert does(transform, DECRYPT, does(transform, ENCRYPT, b"\2x")).endswith(b"\2x")


def test_numbers_with_too_many_zeros() -> None:
    """Zeros in front are no part of a number, either; what is no integer is no key."""
    numbers = rsa_key().public_key().public_numbers()
    long = [der.enclose(der.INTEGER, bytes(5), value.to_bytes(256, "big")) for value in (numbers.n, numbers.e)]
    transform = opened("sig", "pkcs1(rsa,sha256)", bytes(der.enclose(der.SEQUENCE, *map(bytes, long))))
    assert answer(transform, does(opened("sig", "pkcs1(rsa,sha256)", der_of(rsa_key())), SIGN, DIGEST)) == "ok"
    for wrong in (b"", b"\x30", b"\x30\0", b"\x30\2\2\0", b"\x30\3\2\1\0", b"\x30\6\2\1\3\4\1\3", b"\x30\4\2\0\2\0"):
        with pytest.raises(InvalidValue, match="1024, 1536"):
            opened("sig", "pkcs1(rsa,sha256)", wrong)
