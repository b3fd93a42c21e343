"""Public key types on the OpenSSL engine: published vectors, the openssl command both ways, and what is refused."""

import contextlib
import hashlib
import os
import subprocess
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from helpers.public_keys import (
    AGREE,
    DECRYPT,
    ENCRYPT,
    GENERATE_KEY,
    PUBLIC_KEY,
    SIGN,
    VERIFY,
    der_of,
    does,
    opened,
    rsa_key,
    wycheproof,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import Type
from cryptofs.algorithms.public import PUBLIC_NAMES
from cryptofs.engines.openssl import OpensslEngine, groups, libcrypto
from cryptofs.engines.public import PublicKeyTransform
from cryptofs.errors import Busy, InvalidValue, KeyMissing, KeyRejected, NotSupported, SignatureMalformed
from cryptofs.records import Attr, Operation

NAMES = [(type_, name) for type_, listed in PUBLIC_NAMES.items() for name in listed]
ENCAPSULATE, DECAPSULATE = Operation.ENCAPSULATE, Operation.DECAPSULATE


def verdict(transform: PublicKeyTransform, data: bytes, signature: bytes, context: bytes = b"") -> bool:
    """Whether a signature is accepted. There are three ways to refuse one."""
    operands = {"signature": signature} | ({"signature_context": context} if context else {})
    try:
        assert does(transform, VERIFY, data, **operands) == b""
    except (KeyRejected, SignatureMalformed, InvalidValue):
        return False
    return True


def modulus(transform: PublicKeyTransform) -> int:
    """The modulus of an RSA transform's key."""
    public = serialization.load_der_public_key(does(transform, PUBLIC_KEY))
    assert isinstance(public, rsa.RSAPublicKey)
    return public.public_numbers().n


# Vectors


def nist(name: str) -> str:
    """A file of cryptography_vectors."""
    return (files("cryptography_vectors") / "asymmetric" / name).read_text()


def agrees_with(case: dict[str, Any], accepted: bool) -> bool:
    """Whether a verdict is the file's; `acceptable` leaves the choice."""
    return case["result"] == "acceptable" or accepted == (case["result"] == "valid")


def digest_of(sha: str, message: str) -> bytes:
    """The digest of a message in hexadecimal by Wycheproof's name of the hash."""
    return hashlib.new(sha.lower().replace("sha-", "sha").replace("sha3-", "sha3_"), bytes.fromhex(message)).digest()


_RSA_FILES = [
    (size, sha)
    for size, shas in {
        2048: ("sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512"),
        3072: ("sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512"),
        4096: ("sha256", "sha384", "sha512"),
    }.items()
    for sha in shas
]


@pytest.mark.parametrize(("size", "sha"), _RSA_FILES)
def test_wycheproof_pkcs1(size: int, sha: str) -> None:
    """Signatures of PKCS#1 v1.5 under both of the kernel's names."""
    count = 0
    digest = sha.replace("_", "-")
    for group, case in wycheproof("Signature", f"rsa_signature_{size}_{sha}"):
        key = bytes.fromhex(group["publicKeyAsn"])
        data, signature = digest_of(group["sha"], case["msg"]), bytes.fromhex(case["sig"])
        for type_, name in (("sig", f"pkcs1(rsa,{digest})"), ("akcipher", f"pkcs1pad(rsa,{digest})")):
            assert agrees_with(case, verdict(opened(type_, name, key), data, signature)), case["tcId"]
        count += 1
    assert count > 200


@pytest.mark.parametrize("size", [1024, 1536, 2048, 3072, 4096])
def test_wycheproof_pkcs1_signing(size: int) -> None:
    """Signatures that must come out so to the bit."""
    count = 0
    for group, case in wycheproof("Signature", f"rsa_pkcs1_{size}_sig_gen"):
        sha = group["sha"].lower().replace("sha-", "sha")
        if f"pkcs1(rsa,{sha})" not in PUBLIC_NAMES[Type.SIG] or case["result"] == "invalid":
            continue
        transform = opened("sig", f"pkcs1(rsa,{sha})", bytes.fromhex(group["privateKeyPkcs8"]))
        assert does(transform, SIGN, digest_of(group["sha"], case["msg"])) == bytes.fromhex(case["sig"])
        count += 1
    assert count > 10


@pytest.mark.parametrize("size", [2048, 3072, 4096])
def test_wycheproof_pkcs1_decryption(size: int) -> None:
    """Right ciphertexts are decrypted; wrong ones give random bytes and not a word of why."""
    count = 0
    for group, case in wycheproof("Cipher", f"rsa_pkcs1_{size}"):
        transform = opened("akcipher", "pkcs1pad(rsa)", bytes.fromhex(group["privateKeyPkcs8"]))
        message, ciphertext = bytes.fromhex(case["msg"]), bytes.fromhex(case["ct"])
        if case["result"] == "valid":
            assert does(transform, DECRYPT, ciphertext) == message
            count += 1
            continue
        try:
            assert does(transform, DECRYPT, ciphertext) != (message or None) or case["result"] == "acceptable"
        except InvalidValue:
            # this much the ciphertext itself tells everybody
            assert len(ciphertext) != size // 8 or int.from_bytes(ciphertext, "big") >= modulus(transform)
        count += 1
    assert count > 50


@pytest.mark.parametrize(
    ("curve", "sha"),
    [
        *((256, sha) for sha in ("sha256", "sha512", "sha3_256", "sha3_512")),
        *((384, sha) for sha in ("sha384", "sha512")),
        *((521, sha) for sha in ("sha512", "sha3_512")),
    ],
)
def test_wycheproof_ecdsa(curve: int, sha: str) -> None:
    """DER signatures, under x962 and the bare name."""
    count = 0
    for group, case in wycheproof("Signature", f"ecdsa_secp{curve}r1_{sha}"):
        key = bytes.fromhex(group["publicKey"]["uncompressed"])
        data, signature = digest_of(group["sha"], case["msg"]), bytes.fromhex(case["sig"])
        for name in (f"x962(ecdsa-nist-p{curve})", f"ecdsa-nist-p{curve}"):
            assert agrees_with(case, verdict(opened("sig", name, key), data, signature)), case["tcId"]
        count += 1
    assert count > 300


@pytest.mark.parametrize(
    ("curve", "sha"), [(256, "sha256"), (256, "sha512"), (384, "sha384"), (384, "sha512"), (521, "sha512")]
)
def test_wycheproof_ecdsa_p1363(curve: int, sha: str) -> None:
    """Signatures that are r and s."""
    count = 0
    for group, case in wycheproof("Signature", f"ecdsa_secp{curve}r1_{sha}_p1363"):
        transform = opened("sig", f"p1363(ecdsa-nist-p{curve})", bytes.fromhex(group["publicKeyDer"]))
        data, signature = digest_of(group["sha"], case["msg"]), bytes.fromhex(case["sig"])
        assert agrees_with(case, verdict(transform, data, signature)), case["tcId"]
        count += 1
    assert count > 200


@pytest.mark.parametrize("name", ["ed25519", "ed448"])
def test_wycheproof_eddsa(name: str) -> None:
    """Messages of every kind, and signatures that are nearly right."""
    count = 0
    for group, case in wycheproof("Signature", name):
        transform = opened("sig", name, bytes.fromhex(group["publicKey"]["pk"]))
        assert agrees_with(case, verdict(transform, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])))
        count += 1
    assert count > 80


@pytest.mark.parametrize("size", [44, 65, 87])
def test_wycheproof_mldsa(size: int) -> None:
    """Post-quantum signatures with and without a context, and public keys of wrong sizes."""
    count = contexts = 0
    for group, case in wycheproof("Signature", f"mldsa_{size}_verify"):
        context = bytes.fromhex(case.get("ctx", ""))
        contexts += bool(context)
        try:
            transform = opened("sig", f"mldsa{size}", bytes.fromhex(group["publicKey"]))
        except InvalidValue:
            accepted = False
        else:
            accepted = verdict(transform, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]), context)
        assert agrees_with(case, accepted), case["tcId"]
        count += 1
    assert count > 100
    assert contexts


@pytest.mark.parametrize("size", [44, 65, 87])
def test_wycheproof_mldsa_seeds(size: int) -> None:
    """A seed gives the public key that it must; what it signs is accepted."""
    seen = set()
    for group, _ in wycheproof("Signature", f"mldsa_{size}_sign_seed"):
        seed = group.get("privateSeed")
        if not seed or len(seed) != 64 or not group.get("publicKey") or seed in seen:
            continue
        seen.add(seed)
        transform = opened("sig", f"mldsa{size}", bytes.fromhex(seed))
        assert does(transform, PUBLIC_KEY) == bytes.fromhex(group["publicKey"])
        assert verdict(transform, b"message", does(transform, SIGN, b"message"))
    assert seen


@pytest.mark.parametrize(("curve", "encoding"), [(c, e) for c in (256, 384, 521) for e in ("", "_ecpoint")])
def test_wycheproof_ecdh(curve: int, encoding: str) -> None:
    """Peers' keys in DER and as points, among them ones off the curve and of other curves."""
    count = 0
    size = (curve + 7) // 8
    for _, case in wycheproof("Protocol", f"ecdh_secp{curve}r1{encoding}"):
        scalar = bytes.fromhex(case["private"]).lstrip(b"\0").rjust(size, b"\0")
        transform = opened("kpp", f"ecdh-nist-p{curve}", scalar)
        try:
            secret = does(transform, AGREE, peer_key=bytes.fromhex(case["public"]))
        except InvalidValue:
            assert case["result"] != "valid", case["tcId"]
        else:
            assert case["result"] != "invalid", case["tcId"]
            assert secret == bytes.fromhex(case["shared"])
        count += 1
    assert count > 200


@pytest.mark.parametrize(("file", "name"), [("x25519", "curve25519"), ("x448", "x448")])
def test_wycheproof_montgomery(file: str, name: str) -> None:
    """Where the secret would be zeros for everybody, there is none, as in the kernel; all others come out."""
    zeros = others = 0
    for _, case in wycheproof("Protocol", file):
        transform = opened("kpp", name, bytes.fromhex(case["private"]))
        shared = bytes.fromhex(case["shared"])
        if case["result"] == "invalid":
            # a peer's key of another size
            with pytest.raises(InvalidValue, match="peer-key"):
                does(transform, AGREE, peer_key=bytes.fromhex(case["public"]))
        elif not any(shared):
            with pytest.raises(InvalidValue, match="gives no secret"):
                does(transform, AGREE, peer_key=bytes.fromhex(case["public"]))
            zeros += 1
        else:
            assert does(transform, AGREE, peer_key=bytes.fromhex(case["public"])) == shared
            others += 1
    assert zeros > 10
    assert others > 400


@pytest.mark.parametrize("size", [768, 1024])
def test_wycheproof_mlkem(size: int) -> None:
    """Seeds give the public keys that they must; ciphertexts the secrets, wrong ones another or none."""
    count = 0
    for _, case in wycheproof("Protocol", f"mlkem_{size}"):
        seed, ciphertext = bytes.fromhex(case["seed"]), bytes.fromhex(case["c"])
        try:
            transform = opened("kpp", f"mlkem{size}", seed)
            secret = does(transform, DECAPSULATE, ciphertext=ciphertext)
        except InvalidValue:
            assert case["result"] == "invalid", case["tcId"]
        else:
            assert (secret == bytes.fromhex(case["K"])) == (case["result"] == "valid"), case["tcId"]
            if case.get("ek"):
                assert does(transform, PUBLIC_KEY) == bytes.fromhex(case["ek"])
        count += 1
    assert count > 100
    for _, case in wycheproof("Protocol", f"mlkem_{size}_encaps"):
        if case["result"] == "invalid":
            with pytest.raises(InvalidValue):
                does(opened("kpp", f"mlkem{size}"), ENCAPSULATE, peer_key=bytes.fromhex(case["ek"]))


def test_rfc8032() -> None:
    """Ed25519's own vectors: the signature to the bit, from the private key."""
    lines = nist("Ed25519/sign.input").splitlines()
    for line in lines:
        secret, public, message, signed = map(bytes.fromhex, line.split(":")[:4])
        transform = opened("sig", "ed25519", secret)
        assert does(transform, PUBLIC_KEY) == public
        assert does(transform, SIGN, message) == signed[:64]
        assert verdict(opened("sig", "ed25519", public), message, signed[:64])
    assert len(lines) == 1024


@pytest.mark.parametrize("curve", [256, 384, 521])
def test_cavp_ecdsa(curve: int) -> None:
    """NIST's right and wrong signatures."""
    count = 0
    text = nist("ECDSA/FIPS_186-3/SigVer.rsp")
    for section in text.split("\n[")[1:]:
        head, _, body = section.partition("]")
        if not head.startswith(f"P-{curve},"):
            continue
        sha = head.partition(",")[2].lower().replace("-", "")
        for paragraph in body.strip().split("\n\n"):
            tags = dict(line.split(" = ", 1) for line in paragraph.splitlines() if " = " in line)
            x, y, r, s = (bytes.fromhex(tags[tag].zfill((curve + 7) // 8 * 2)) for tag in ("Qx", "Qy", "R", "S"))
            try:
                transform = opened("sig", f"p1363(ecdsa-nist-p{curve})", b"\4" + x + y)
            except InvalidValue:
                accepted = False
            else:
                data = hashlib.new(sha, bytes.fromhex(tags["Msg"])).digest()
                accepted = verdict(transform, data, r + s)
            assert accepted == tags["Result"].startswith("P"), paragraph
            count += 1
    assert count == 75


@pytest.mark.parametrize("size", [44, 65, 87])
def test_kat_mldsa(size: int) -> None:
    """Seeds and public keys of the submission's vectors."""
    lines = nist(f"MLDSA/kat_MLDSA_{size}_det_pure.rsp").splitlines()
    found = [bytes.fromhex(line.removeprefix("xi = ")) for line in lines if line.startswith("xi = ")]
    publics = [line.removeprefix("pk = ") for line in lines if line.startswith("pk = ")]
    assert len(found) == len(publics) > 10
    for seed, public in zip(found, publics, strict=True):
        assert does(opened("sig", f"mldsa{size}", seed), PUBLIC_KEY) == bytes.fromhex(public)


@pytest.mark.parametrize("size", [768, 1024])
def test_kat_mlkem(size: int) -> None:
    """The submission's vectors, with ciphertexts that are right and that are not."""
    count = 0
    for paragraph in nist(f"MLKEM/kat_MLKEM_{size}.rsp").split("count = "):
        tags = {
            tag: bytes.fromhex(value)
            for tag, _, value in (row.partition(" = ") for row in paragraph.splitlines())
            if value
        }
        if not tags:
            continue
        transform = opened("kpp", f"mlkem{size}", tags["d"] + tags["z"])
        assert does(transform, PUBLIC_KEY) == tags["pk"]
        assert does(transform, DECAPSULATE, ciphertext=tags["ct"]) == tags["ss"]
        assert does(transform, DECAPSULATE, tags["ct_n"]) == tags["ss_n"]
        count += 1
    assert count > 10


# Finite fields


def dh_secret(exponent: bytes, p: bytes = b"", g: bytes = b"") -> bytes:
    """The kernel's packed secret: type, total, three sizes, the three."""
    total = 16 + len(exponent) + len(p) + len(g)
    sizes = b"".join(len(part).to_bytes(4, "little") for part in (exponent, p, g))
    return (1).to_bytes(2, "little") + total.to_bytes(2, "little") + sizes + exponent + p + g


@pytest.mark.parametrize("bits", groups.FFDHE_BITS)
def test_ffdhe(bits: int) -> None:
    """Both sides come to one secret, which is what the numbers say."""
    prime = int.from_bytes(groups.ffdhe(bits), "big")
    ours = opened("kpp", f"ffdhe{bits}(dh)")
    public = does(ours, GENERATE_KEY)
    exponent = os.urandom(40)
    theirs = opened("kpp", f"ffdhe{bits}(dh)", dh_secret(exponent))
    secret = does(ours, AGREE, peer_key=does(theirs, PUBLIC_KEY))
    assert secret == does(theirs, AGREE, peer_key=public) == does(theirs, AGREE, public)
    assert secret == pow(int.from_bytes(public, "big"), int.from_bytes(exponent, "big"), prime).to_bytes(
        bits // 8, "big"
    )
    named = opened("kpp", "dh", dh_secret(exponent, groups.ffdhe(bits), b"\2"))
    assert does(named, AGREE, peer_key=public) == secret
    assert does(named, AGREE, peer_key=does(ours, PUBLIC_KEY, key_format="der")) == secret


@pytest.mark.parametrize("group", [*(f"ffdhe{bits}" for bits in groups.FFDHE_BITS), "modp_1536", "modp_4096"])
def test_groups_are_those_of_openssl(group: str, tmp_path: Path) -> None:
    """The computed primes are the published ones: a key that the command made is of the group."""
    path = tmp_path / "key.der"
    run("genpkey", "-algorithm", "DH", "-pkeyopt", f"group:{group}", "-outform", "DER", "-out", path)
    assert any(prime in path.read_bytes() for prime in groups.known_primes())
    opened("kpp", "dh", path.read_bytes())


@pytest.mark.parametrize("value", [b"", b"\0", b"\1", "less 1", "prime", "more 1", bytes(300)])
def test_dh_refuses_what_gives_no_secret(value: bytes | str) -> None:
    """0, 1, p - 1 and above."""
    prime = int.from_bytes(groups.ffdhe(2048), "big")
    named = {"less 1": prime - 1, "prime": prime, "more 1": prime + 1}
    peer = named[value].to_bytes(256, "big") if isinstance(value, str) else value
    transform = opened("kpp", "ffdhe2048(dh)", dh_secret(os.urandom(32)))
    with pytest.raises(InvalidValue, match="peer-key"):
        does(transform, AGREE, peer_key=peer)


def test_dh_takes_known_groups_only() -> None:
    """A prime of one's own, another generator, an exponent outside, sizes that do not add up."""
    prime = groups.ffdhe(2048)
    other = (int.from_bytes(prime, "big") + 2).to_bytes(256, "big")
    wrong = [
        dh_secret(b"\5" * 32, other, b"\2"),
        dh_secret(b"\5" * 32, prime, b"\3"),
        dh_secret(prime, prime, b"\2"),
        dh_secret(b"\1", prime, b"\2"),
        dh_secret(b"", prime, b"\2"),
        dh_secret(b"\5" * 32, prime, b"\2")[:-1],
        dh_secret(b"\5" * 32, prime, b"\2") + b"x",
        dh_secret(b"\5" * 32)[:9],
        dh_secret(b"\5" * 32),
    ]
    for key in wrong:
        with pytest.raises(InvalidValue, match="RFC 7919"):
            opened("kpp", "dh", key)
    with pytest.raises(InvalidValue, match="this group"):
        opened("kpp", "ffdhe3072(dh)", dh_secret(b"\5" * 32, prime, b"\2"))
    with pytest.raises(InvalidValue, match="ffdhe2048"):
        does(opened("kpp", "dh"), GENERATE_KEY)


# Textbook RSA


@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_textbook_rsa(bits: int) -> None:
    """Numbers to the power of e and d, of as many bytes as the modulus."""
    key = rsa_key(bits)
    numbers = key.public_key().public_numbers()
    transform = opened("akcipher", "rsa", der_of(key, PrivateFormat.TraditionalOpenSSL))
    for number in (2, 3, 255, numbers.n - 2, int.from_bytes(os.urandom(bits // 8 - 1), "big")):
        data = number.to_bytes((number.bit_length() + 7) // 8, "big")
        sealed = does(transform, ENCRYPT, data)
        assert sealed == pow(number, numbers.e, numbers.n).to_bytes(bits // 8, "big")
        assert does(transform, DECRYPT, sealed) == number.to_bytes(bits // 8, "big")
        assert does(transform, ENCRYPT, bytes(9) + data) == sealed
    for number in (0, 1, numbers.n - 1, numbers.n, numbers.n + 1, 1 << (bits + 8)):
        data = number.to_bytes(bits // 8 + 2, "big")
        for operation in (ENCRYPT, DECRYPT):
            with pytest.raises(InvalidValue, match="a number above 1"):
                does(transform, operation, data)


def test_without_the_library_its_names_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library has no OpenSSL of version 3, the rest is served."""
    monkeypatch.setattr(libcrypto, "library", lambda: None)
    engine = OpensslEngine()
    for type_, name in NAMES:
        lacking = name == "rsa" or name.endswith("dh)") or name == "dh"
        assert (engine.describe(type_, name) is None) == lacking, name


def test_pkcs1_encryption() -> None:
    """Any length up to 11 bytes below the modulus, there and back."""
    transform = opened("akcipher", "pkcs1pad(rsa)", der_of(rsa_key()))
    for size in (0, 1, 244, 245):
        message = os.urandom(size)
        assert does(transform, DECRYPT, does(transform, ENCRYPT, message)) == message
    with pytest.raises(InvalidValue, match="at most 245"):
        does(transform, ENCRYPT, bytes(246))
    with pytest.raises(InvalidValue, match="with this key 256"):
        does(transform, DECRYPT, bytes(255))
    with pytest.raises(InvalidValue, match="modulus"):
        does(transform, DECRYPT, b"\xff" * 256)


# The openssl command


def run(*arguments: str | Path) -> bytes:
    """The output of an openssl command."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_COMMANDS = {
    "pkcs1(rsa,sha256)": ("RSA", "rsa_keygen_bits:2048", ("digest:sha256",)),
    "pkcs1(rsa,sha512)": ("RSA", "rsa_keygen_bits:3072", ("digest:sha512",)),
    "x962(ecdsa-nist-p256)": ("EC", "ec_paramgen_curve:P-256", ()),
    "ecdsa-nist-p384": ("EC", "ec_paramgen_curve:P-384", ()),
    "x962(ecdsa-nist-p521)": ("EC", "ec_paramgen_curve:P-521", ()),
    "ed25519": ("ED25519", "", ()),
    "ed448": ("ED448", "", ()),
}


@pytest.mark.parametrize("name", _COMMANDS)
def test_signatures_with_the_openssl_command(name: str, tmp_path: Path) -> None:
    """A key that the command made; what one signs, the other accepts."""
    algorithm, option, options = _COMMANDS[name]
    private, public, data, signature = (tmp_path / each for each in ("private", "public", "data", "signature"))
    run(
        "genpkey",
        "-algorithm",
        algorithm,
        *(["-pkeyopt", option] if option else []),
        "-outform",
        "DER",
        "-out",
        private,
    )
    run("pkey", "-in", private, "-inform", "DER", "-pubout", "-outform", "DER", "-out", public)
    data.write_bytes(os.urandom(64 if name.endswith("sha512)") else 32))
    more = [word for each in options for word in ("-pkeyopt", each)] + (["-rawin"] if name.startswith("ed") else [])
    transform = opened("sig", name, private.read_bytes())
    assert does(transform, PUBLIC_KEY, key_format="der") == public.read_bytes()
    signature.write_bytes(does(transform, SIGN, data.read_bytes()))
    run("pkeyutl", "-verify", "-pubin", "-inkey", public, "-keyform", "DER", "-in", data, "-sigfile", signature, *more)
    made = run("pkeyutl", "-sign", "-inkey", private, "-keyform", "DER", "-in", data, *more)
    assert verdict(opened("sig", name, public.read_bytes()), data.read_bytes(), made)
    assert not verdict(opened("sig", name, public.read_bytes()), os.urandom(len(data.read_bytes())), made)


@pytest.mark.parametrize(
    ("name", "algorithm", "option"),
    [
        ("ecdh-nist-p256", "EC", "ec_paramgen_curve:P-256"),
        ("ecdh-nist-p384", "EC", "ec_paramgen_curve:P-384"),
        ("ecdh-nist-p521", "EC", "ec_paramgen_curve:P-521"),
        ("curve25519", "X25519", ""),
        ("x448", "X448", ""),
        ("ffdhe2048(dh)", "DH", "group:ffdhe2048"),
    ],
)
def test_agreement_with_the_openssl_command(name: str, algorithm: str, option: str, tmp_path: Path) -> None:
    """Its private key and our public one, and the other way round."""
    private, public, ours = (tmp_path / each for each in ("private", "public", "ours"))
    run(
        "genpkey",
        "-algorithm",
        algorithm,
        *(["-pkeyopt", option] if option else []),
        "-outform",
        "DER",
        "-out",
        private,
    )
    run("pkey", "-in", private, "-inform", "DER", "-pubout", "-outform", "DER", "-out", public)
    transform = opened("kpp", name)
    does(transform, GENERATE_KEY)
    ours.write_bytes(does(transform, PUBLIC_KEY, key_format="der"))
    derived = run("pkeyutl", "-derive", "-inkey", private, "-keyform", "DER", "-peerkey", ours, "-peerform", "DER")
    # the command drops the zeros in front of a DH secret: one of 256 has some
    theirs = derived.rjust(256, b"\0") if algorithm == "DH" else derived
    assert does(transform, AGREE, peer_key=public.read_bytes()) == theirs
    assert does(opened("kpp", name, private.read_bytes()), AGREE, peer_key=ours.read_bytes()) == theirs


@pytest.mark.parametrize("padding", ["pkcs1", "none"])
def test_ciphers_with_the_openssl_command(padding: str, tmp_path: Path) -> None:
    """Encrypted here, decrypted there, and back."""
    private, data = tmp_path / "private", tmp_path / "data"
    private.write_bytes(der_of(rsa_key()))
    message = b"\1" + os.urandom(255) if padding == "none" else b"message"
    name = "rsa" if padding == "none" else "pkcs1pad(rsa)"
    transform = opened("akcipher", name, private.read_bytes())
    options = ("-inkey", private, "-keyform", "DER", "-pkeyopt", f"rsa_padding_mode:{padding}", "-in", data)
    data.write_bytes(does(transform, ENCRYPT, message))
    assert run("pkeyutl", "-decrypt", *options) == message
    data.write_bytes(message)
    assert does(transform, DECRYPT, run("pkeyutl", "-encrypt", *options)) == message


# Keys


@pytest.mark.parametrize(("type_", "name"), NAMES)
def test_every_name_is_served_and_makes_keys(type_: Type, name: str) -> None:
    """A key is made, once; its public half comes in both forms; nothing prints it."""
    transform = opened(type_, name)
    assert not transform.key_set
    if name == "dh":
        return
    bits = {"key_bits": 2048} if "rsa" in name else {}
    raw = does(transform, GENERATE_KEY, **bits)
    assert transform.key_set
    assert does(transform, PUBLIC_KEY) == does(transform, PUBLIC_KEY, key_format="raw") == raw
    der = does(transform, PUBLIC_KEY, key_format="der")
    serialization.load_der_public_key(der) if not name.endswith("(dh)") else None
    with pytest.raises(Busy):
        does(transform, GENERATE_KEY, **bits)
    with pytest.raises(InvalidValue, match="one of raw, der"):
        does(transform, PUBLIC_KEY, key_format="pem")
    if SIGN in transform.operations:
        size = {"sha1": 20, "rmd160": 20, "md5": 16, "sha224": 28, "sha384": 48, "sha512": 64}.get(
            name.rpartition(",")[2].rstrip(")"), 32
        )
        size = int(name[-4:-1]) // 8 if "sha3-" in name or "sha512-" in name else size
        signature = does(transform, SIGN, bytes(size))
        for key in (raw, der):
            assert verdict(opened(type_, name, key), bytes(size), signature)
            with pytest.raises(KeyMissing, match="no private key"):
                does(opened(type_, name, key), SIGN, bytes(size))
    transform.close()
    with pytest.raises(KeyMissing):
        does(transform, PUBLIC_KEY)


@pytest.mark.parametrize(("type_", "name"), NAMES)
def test_wrong_keys(type_: Type, name: str) -> None:
    """No key is taken for another's, and none shows in the error."""
    good = {
        der_of(rsa_key(2048)): "rsa",
        opened("sig", "ed25519") and b"x" * 31: "",
    }
    others = [os.urandom(size) for size in (1, 16, 31, 33, 63, 100, 1000, 8192)]
    others += [der_of(rsa_key(2048)) + b"x", der_of(rsa_key(2048))[:-1]]
    others += [key for key, kind in good.items() if kind not in name or not kind]
    for key in others:
        with pytest.raises(InvalidValue) as caught:
            opened(type_, name, key)
        assert f"key of {len(key)} bytes: {name} takes " in caught.value.message
        assert caught.value.__cause__ is None
        for at in range(0, len(key) - 8, 97):
            assert key[at : at + 8].hex() not in caught.value.message
    transform = opened(type_, name)
    assert "0x" not in repr(getattr(transform, "_pair", None) or "")


def test_keys_of_another_curve_or_size() -> None:
    """Right in form, wrong in kind."""
    p256, p384 = opened("sig", "x962(ecdsa-nist-p256)"), opened("sig", "x962(ecdsa-nist-p384)")
    raw256, raw384 = does(p256, GENERATE_KEY), does(p384, GENERATE_KEY)
    for name, key in (("ecdsa-nist-p256", raw384), ("ecdsa-nist-p384", raw256)):
        for wrong in (
            key,
            does(
                opened("sig", f"x962({'ecdsa-nist-p384' if key is raw384 else 'ecdsa-nist-p256'})", key),
                PUBLIC_KEY,
                key_format="der",
            ),
        ):
            with pytest.raises(InvalidValue, match="of the curve"):
                opened("sig", name, wrong)
    off = bytearray(raw256)
    off[-1] ^= 1
    with pytest.raises(InvalidValue):
        opened("sig", "x962(ecdsa-nist-p256)", bytes(off))
    for scalar in (bytes(32), b"\xff" * 32):
        with pytest.raises(InvalidValue):
            opened("kpp", "ecdh-nist-p256", scalar)
    for size in (512, 1025, 2047, 8191, 8448):
        public = rsa.RSAPublicNumbers(65537, (1 << (size - 1)) + 1).public_key()
        with pytest.raises(InvalidValue, match="8192 bits would do in a public key"):
            opened("sig", "pkcs1(rsa,sha256)", public.public_bytes(Encoding.DER, PublicFormat.PKCS1))


def test_an_rsa_key_whose_parts_do_not_belong_together() -> None:
    """Flipped bits anywhere in a private key never crash, and never make a key that signs wrong."""
    good = der_of(rsa_key(), PrivateFormat.TraditionalOpenSSL)
    refused = 0
    for at in range(8, len(good), 41):
        bad = bytearray(good)
        bad[at] ^= 0x10
        for name in ("rsa", "pkcs1pad(rsa)"):
            try:
                transform = opened("akcipher", name, bytes(bad))
            except InvalidValue:
                refused += 1
            else:
                assert does(transform, DECRYPT, does(transform, ENCRYPT, b"\2three"))[-6:] == b"\2three"
    # the library repairs a wrong part where the others tell it
    assert refused > 5


@pytest.mark.parametrize("group", ["ffdhe2048", "modp_1536"])
def test_keys_that_take_long_to_load_are_not_loaded(group: str, tmp_path: Path) -> None:
    """A finite field's key is refused elsewhere by its name alone: warnings are errors here, and pyca warns of it."""
    private, public = tmp_path / "private", tmp_path / "public"
    run("genpkey", "-algorithm", "DH", "-pkeyopt", f"group:{group}", "-outform", "DER", "-out", private)
    run("pkey", "-in", private, "-inform", "DER", "-pubout", "-outform", "DER", "-out", public)
    for type_, name in NAMES:
        if "dh" in name and "ecdh" not in name:
            continue
        for path in (private, public):
            with pytest.raises(InvalidValue, match="takes"):
                opened(type_, name, path.read_bytes())
    peer = opened("kpp", "curve25519", os.urandom(32))
    with pytest.raises(InvalidValue, match="peer-key"):
        does(peer, AGREE, peer_key=public.read_bytes())


def test_encodings_of_the_kernel() -> None:
    """Packed ECDH secrets, X and Y without their mark, RSAPublicKey, ECPrivateKey."""
    scalar = os.urandom(32)
    packed = b"\2\0" + (38).to_bytes(2, "little") + (32).to_bytes(2, "little") + scalar
    raw, kernel = opened("kpp", "ecdh-nist-p256", scalar), opened("kpp", "ecdh-nist-p256", packed)
    assert does(raw, PUBLIC_KEY) == does(kernel, PUBLIC_KEY)
    assert len(does(raw, PUBLIC_KEY)) == 64
    public = does(opened("akcipher", "rsa", der_of(rsa_key())), PUBLIC_KEY)
    assert public == rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    loaded = serialization.load_der_public_key(does(raw, PUBLIC_KEY, key_format="der"))
    assert loaded.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == b"\4" + does(raw, PUBLIC_KEY)  # type: ignore[union-attr]


def test_bits_of_new_keys() -> None:
    """RSA has sizes, the others have none."""
    for bits in (2048, 3072, 4096, None):
        words = {} if bits is None else {"key_bits": bits}
        key = does(opened("sig", "pkcs1(rsa,sha256)"), GENERATE_KEY, key_format="der", **words)
        loaded = serialization.load_der_public_key(key)
        assert isinstance(loaded, rsa.RSAPublicKey)
        assert loaded.key_size == (bits or 3072)
    with pytest.raises(InvalidValue, match="3072 2048 4096"):
        does(opened("sig", "pkcs1(rsa,sha256)"), GENERATE_KEY, key_bits=1024)
    with pytest.raises(InvalidValue, match="one size"):
        does(opened("sig", "ed25519"), GENERATE_KEY, key_bits=256)


def test_a_key_is_made_once_whoever_asks() -> None:
    """Of many threads one makes the key."""
    transform = opened("sig", "mldsa44")
    made: list[bytes] = []
    busy: list[Busy] = []

    def make() -> None:
        try:
            made.append(does(transform, GENERATE_KEY))
        except Busy as error:
            busy.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(busy)) == (1, 7)
    assert does(transform, PUBLIC_KEY) == made[0]


def test_a_refused_key_leaves_the_old_one() -> None:
    """As with every other transform."""
    transform = opened("sig", "ed25519")
    public = does(transform, GENERATE_KEY)
    with pytest.raises(InvalidValue):
        transform.set_key(b"x")
    assert does(transform, PUBLIC_KEY) == public
    replaced = does(opened("sig", "ed25519"), GENERATE_KEY)
    transform.set_key(replaced)
    assert does(transform, PUBLIC_KEY) == replaced


# Operands


def test_operations_that_an_algorithm_has_not() -> None:
    """EOPNOTSUPP names those it has."""
    for type_, name, operation in (
        ("sig", "ed25519", ENCRYPT),
        ("sig", "ed25519", AGREE),
        ("kpp", "curve25519", SIGN),
        ("kpp", "curve25519", ENCAPSULATE),
        ("kpp", "mlkem768", AGREE),
        ("akcipher", "rsa", SIGN),
        ("akcipher", "pkcs1pad(rsa,sha256)", DECRYPT),
    ):
        with pytest.raises(NotSupported, match=r"does .*generate-key"):
            does(opened(type_, name), operation, b"x")


def test_operands_are_missing_or_twice() -> None:
    """Each operand stands in one place."""
    curve = opened("kpp", "curve25519", os.urandom(32))
    peer = does(opened("kpp", "curve25519", os.urandom(32)), PUBLIC_KEY)
    assert does(curve, AGREE, peer) == does(curve, AGREE, peer_key=peer)
    with pytest.raises(InvalidValue, match="peer-key is missing"):
        does(curve, AGREE)
    with pytest.raises(InvalidValue, match="one of them"):
        does(curve, AGREE, peer, peer_key=peer)
    kem = opened("kpp", "mlkem768")
    does(kem, GENERATE_KEY)
    with pytest.raises(InvalidValue, match="1088"):
        does(kem, DECAPSULATE, ciphertext=bytes(1087))
    with pytest.raises(InvalidValue, match="takes none"):
        does(kem, ENCAPSULATE, b"x")
    signer = opened("sig", "pkcs1(rsa,sha256)", der_of(rsa_key()))
    for operation in (SIGN, VERIFY):
        with pytest.raises(InvalidValue, match="a digest of 32 bytes"):
            does(signer, operation, bytes(31), **({"signature": bytes(256)} if operation is VERIFY else {}))
    with pytest.raises(InvalidValue, match=r"with this key .* has 256"):
        does(signer, VERIFY, bytes(32), signature=bytes(255))


def test_encapsulation() -> None:
    """With a peer's key and with the context's own; another ciphertext gives another secret."""
    holder = opened("kpp", "mlkem1024")
    public = does(holder, GENERATE_KEY)
    for sender, operands in (
        (opened("kpp", "mlkem1024"), {Attr.PEER_KEY: public}),
        (opened("kpp", "mlkem1024", public), {}),
    ):
        secret, reply = sender.operate(ENCAPSULATE, operands, b"")
        ciphertext = reply[Attr.CIPHERTEXT]
        assert isinstance(ciphertext, bytes)
        assert does(holder, DECAPSULATE, ciphertext=ciphertext) == secret
        wrong = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
        assert does(holder, DECAPSULATE, ciphertext=wrong) != secret


_SIGNERS = ("pkcs1(rsa,sha256)", "x962(ecdsa-nist-p256)", "p1363(ecdsa-nist-p384)", "ed25519", "mldsa44")
_READY: dict[str, PublicKeyTransform] = {}


@pytest.mark.parametrize("name", _SIGNERS)
@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=32, max_size=32), at=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.integers(0, 3)
)
def test_no_other_signature_is_accepted(name: str, data: bytes, at: int, flip: int, cut: int) -> None:
    """A changed byte, a missing or further one, another message."""
    transform = _READY.get(name)
    if transform is None:
        key = der_of(rsa_key()) if "rsa" in name else None
        transform = _READY[name] = opened("sig", name, key)
        if key is None:
            does(transform, GENERATE_KEY)
    signature = does(transform, SIGN, data)
    assert verdict(transform, data, signature)
    changed = bytearray(signature)
    changed[at % len(changed)] ^= flip
    assert not verdict(transform, data, bytes(changed))
    assert not verdict(transform, data, signature[: len(signature) - 1 - cut])
    assert not verdict(transform, data, signature + bytes(cut + 1))
    other = bytearray(data)
    other[at % 32] ^= flip
    assert not verdict(transform, bytes(other), signature)


@settings(max_examples=200, deadline=None)
@given(key=st.binary(max_size=200) | st.builds(lambda tail: b"\x30" + tail, st.binary(max_size=300)))
def test_any_bytes_as_a_key(key: bytes) -> None:
    """Whatever is given as a key is taken or refused with EINVAL."""
    for type_, name in (
        ("sig", "pkcs1(rsa,sha256)"),
        ("kpp", "dh"),
        ("kpp", "ffdhe2048(dh)"),
        ("kpp", "ecdh-nist-p256"),
    ):
        with contextlib.suppress(InvalidValue):
            opened(type_, name, key)
