"""RSA keys that are made to take long, or whose parts do not belong together: refused before anything computes."""

import random
from collections.abc import Callable
from math import gcd

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from helpers.public_keys import ENCRYPT, VERIFY, der_of, does, opened, rsa_key

from cryptofs.engines import der, keyctl
from cryptofs.engines import rsa_key as rsa_keys
from cryptofs.engines.base import Transform
from cryptofs.errors import InvalidValue, SignatureMalformed

NAMES = [("akcipher", "rsa"), ("akcipher", "pkcs1pad(rsa)"), ("sig", "pkcs1(rsa,sha256)")]
PARTS = ("n", "e", "d", "p", "q", "dp", "dq", "inverse")
Parts = dict[str, int]


def encoded(parts: Parts) -> bytes:
    """An RSAPrivateKey of these parts."""
    numbers = [number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (0, *parts.values())]
    return bytes(der.enclose(der.SEQUENCE, *map(der.integer, numbers)))


def good(bits: int = 1024) -> Parts:
    """The parts of a key that is one."""
    numbers = rsa_key(bits).private_numbers()
    public = numbers.public_numbers
    values = (public.n, public.e, numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return dict(zip(PARTS, values, strict=True))


def large(bits: int) -> int:
    """An odd number of so many bits."""
    return random.Random(bits).getrandbits(bits) | 1 | 1 << (bits - 1)


LARGE = {
    "a modulus of another size": (
        {"n": large(1025)},
        "its modulus has 1025 bits: 1024, 1536, 2048, 3072, 4096 bits would",
    ),
    "an even modulus": ({"n": large(1024) - 1}, "its modulus of 1024 bits is even"),
    "a large exponent": ({"e": large(1000)}, "its public exponent has 1000 bits: 2 to 64"),
    "an exponent of 65 bits": ({"e": large(65)}, "its public exponent has 65 bits: 2 to 64"),
    "an even exponent": ({"e": 65538}, "its public exponent of 17 bits is even"),
    "an exponent of 1": ({"e": 1}, "its public exponent has 1 bits: 2 to 64"),
    "a large private exponent": (
        {"d": large(57_000)},
        "its private exponent has 57000 bits: above 0 and below",
    ),
    "a private exponent that is the modulus": ({"d": None}, "its private exponent has 1024 bits: above 0 and below"),
    "no private exponent": ({"d": 0}, "its private exponent has 0 bits"),
    "a large second prime": ({"q": large(31_000), "dq": large(31_000)}, "its second prime has 31000 bits: 256 to 1023"),
    "a small first prime": ({"p": 3}, "its first prime has 2 bits: 256 to 1023"),
    "an even prime": ({"q": large(512) - 1}, "its second prime of 512 bits is even"),
    "primes that are too short": ({"p": large(500)}, "its primes have 500 and 512 bits, which do not give a modulus"),
    "a large first remainder": ({"dp": large(30_000)}, "its first prime's exponent has 30000 bits: above 0 and below"),
    "a large second remainder": ({"dq": large(513)}, "its second prime's exponent has 513 bits: above 0 and below the"),
    "a large coefficient": ({"inverse": large(20_000)}, "its coefficient has 20000 bits: above 0 and below the first"),
}


@pytest.mark.parametrize("what", LARGE)
@pytest.mark.parametrize(("type_", "name"), NAMES)
def test_parts_out_of_bounds(type_: str, name: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused for what it is, with its size and the bound, and no library has seen the key."""
    changes, message = LARGE[what]
    parts = good()
    parts |= {part: parts["n"] if number is None else number for part, number in changes.items()}
    transform = opened(type_, name)
    for module in ("serialization", "libcrypto"):
        monkeypatch.delattr(f"cryptofs.engines.openssl.rsa.{module}")
    with pytest.raises(InvalidValue) as caught:
        transform.set_key(encoded(parts))
    assert message in caught.value.message
    assert caught.value.message.startswith("key of ")
    for number in parts.values():
        assert number < 1 << 64 or f"{number:x}"[:20] not in caught.value.message


CHANGES: dict[str, Callable[[Parts], Parts]] = {
    "another modulus": lambda parts: {"n": parts["n"] + 2},
    "another exponent": lambda parts: {"e": 257},
    "another private exponent": lambda parts: {"d": parts["d"] - 2},
    "another first prime": lambda parts: {"p": parts["p"] - 2},
    "another second prime": lambda parts: {"q": parts["q"] - 2},
    "another first remainder": lambda parts: {"dp": parts["dp"] - 2},
    "another second remainder": lambda parts: {"dq": parts["dq"] - 2},
    "another coefficient": lambda parts: {"inverse": parts["inverse"] - 1},
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize(("type_", "name"), NAMES)
def test_parts_that_do_not_belong_together(type_: str, name: str, what: str) -> None:
    """Whichever part is another's, the key is refused, and the transform keeps the one that it had."""
    parts = good()
    opened(type_, name, encoded(parts))
    transform = opened(type_, name, encoded(parts))
    with pytest.raises(InvalidValue, match="do not belong to its modulus of 1024 bits"):
        transform.set_key(encoded(parts | CHANGES[what](parts)))
    assert transform.keyed


def test_primes_that_are_none() -> None:
    """Everything between the parts holds, and still it is no key: a signature shows that."""
    numbers = random.Random(7)
    while True:
        p, q = (numbers.getrandbits(512) | 1 | 3 << 510 for _ in range(2))
        if gcd(65537, (p - 1) * (q - 1)) == gcd(p, q) == 1:
            break
    d = pow(65537, -1, (p - 1) * (q - 1) // gcd(p - 1, q - 1))
    values = (p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    for type_, name in NAMES:
        with pytest.raises(InvalidValue, match="makes no signatures under its modulus of 1024 bits"):
            opened(type_, name, encoded(dict(zip(PARTS, values, strict=True))))


def nested(depth: int, inner: bytes) -> bytes:
    """PKCS#8 in PKCS#8, as far as a key attribute holds."""
    for _ in range(depth):
        algorithm = der.enclose(der.SEQUENCE, der.enclose(der.OID, bytes.fromhex("2a864886f70d010101")))
        inner = bytes(der.enclose(der.SEQUENCE, b"\2\1\0", algorithm, der.enclose(der.OCTET_STRING, inner)))
    return inner


@pytest.mark.parametrize("depth", [2, 300])
def test_a_key_in_a_key(depth: int) -> None:
    """One wrapping is what PKCS#8 is; more of them are no key, whatever is inside."""
    key = nested(depth, encoded(good()))
    opened("sig", "pkcs1(rsa,sha256)", nested(1, encoded(good())))
    with pytest.raises(InvalidValue, match="takes an RSAPrivateKey"):
        opened("sig", "pkcs1(rsa,sha256)", key[:8192])


def test_public_keys_are_bounded_too() -> None:
    """The exponent of a public key tells what a verification costs."""
    for exponent, refused in (((1 << 64) - 1, False), (large(65), True), (large(1000), True)):
        public = rsa.RSAPublicNumbers(exponent, good()["n"]).public_key()
        for form in (PublicFormat.PKCS1, PublicFormat.SubjectPublicKeyInfo):
            key = public.public_bytes(Encoding.DER, form)
            if refused:
                with pytest.raises(InvalidValue, match=f"public exponent has {exponent.bit_length()} bits: 2 to 64"):
                    opened("sig", "pkcs1(rsa,sha256)", key)
            else:
                opened("sig", "pkcs1(rsa,sha256)", key)


def test_whose_keys_take_long() -> None:
    """Whoever plans work asks the transform before it hands over a key."""
    slow: dict[str, Transform] = {name: opened(type_, name) for type_, name in NAMES}
    quick = {name: opened(type_, name) for type_, name in (("sig", "ed25519"), ("kpp", "dh"), ("kpp", "mlkem768"))}
    assert all(transform.slow_keys for transform in slow.values())
    assert not any(transform.slow_keys for transform in quick.values())
    assert keyctl.KernelRsa.slow_keys


def certificate(exponent: int) -> bytes:
    """What surrounds the public key in a certificate, as far as the bounds are looked for."""
    spki = rsa.RSAPublicNumbers(exponent, good()["n"]).public_key()
    parts = [der.enclose(0xA0, b"\2\1\2"), b"\2\1\1", *[b"\x30\0"] * 4]
    inner = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return bytes(der.enclose(der.SEQUENCE, der.enclose(der.SEQUENCE, *parts, inner), b"\x30\0", b"\3\1\0"))


def test_what_the_kernel_is_given_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of the kernel's keys looks at the same bounds, in keys and certificates."""
    given: list[bytes] = []

    def take(description: bytes, key: bytearray) -> int:
        given.append(bytes(key))
        return 1

    monkeypatch.setattr("cryptofs.engines.keyctl.calls.add_asymmetric", take)
    monkeypatch.setattr("cryptofs.engines.keyctl.calls.query", lambda serial, how: keyctl.calls.Information())
    monkeypatch.setattr("cryptofs.engines.keyctl.calls.invalidate", lambda serial: None)
    engine = keyctl.KeyctlEngine()
    engine.available = True
    description = engine.describe(opened("akcipher", "rsa").description.type, "rsa")
    assert description is not None
    transform = engine.open(description, None)
    fine = [der_of(rsa_key(1024)), certificate(65537)]
    for key in fine:
        transform.set_key(key)
    assert given == fine
    huge = encoded(good() | {"q": large(31_000), "dq": large(31_000)})
    for key, message in (
        (nested(1, huge), "its second prime has 31000 bits"),
        (certificate(large(1000)), "its public exponent has 1000 bits"),
        (b"\x30\3\2\1\0", "PKCS#8"),
        (b"x", "PKCS#8"),
    ):
        with pytest.raises(InvalidValue, match=message):
            transform.set_key(key)
    assert given == fine


def test_numbers_are_compared_by_value() -> None:
    """What bounds keys: the number of bits, and less or not."""
    for value, bound in ((0, 1), (255, 256), (1 << 70, (1 << 70) + 1), (5, 5), (7, 6), (1 << 71, 1 << 70)):
        views = [der.magnitude(memoryview(number.to_bytes(20, "big"))) for number in (value, bound)]
        assert [der.bits(view) for view in views] == [value.bit_length(), bound.bit_length()]
        assert der.below(*views) == (value < bound)
    assert der.bits(memoryview(b"")) == 0
    assert rsa_keys.EXPONENT_BITS == 64


def test_a_large_public_key_verifies_and_encrypts() -> None:
    """8,192 bits, of which nobody knows the factors, which a power of 3 does not need."""
    public = rsa.RSAPublicNumbers(3, large(8192)).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert does(opened("akcipher", "rsa", public), ENCRYPT, b"\x09") == (729).to_bytes(1024, "big")
    assert len(does(opened("akcipher", "pkcs1pad(rsa)", public), ENCRYPT, bytes(1013))) == 1024
    verifier = opened("sig", "pkcs1(rsa,sha256)", public)
    with pytest.raises(SignatureMalformed):
        does(verifier, VERIFY, bytes(32), signature=bytes(1023) + b"\2")
    with pytest.raises(InvalidValue, match=r"with this key .* has 1024"):
        does(verifier, VERIFY, bytes(32), signature=bytes(1023))


def test_a_large_private_key_is_refused() -> None:
    """Its operations would take everybody's time."""
    parts = {part: large(4096) for part in PARTS} | {"n": large(8192), "e": 65_537}
    with pytest.raises(InvalidValue, match=r"its modulus has 8192 bits: .* 4096 bits would do in a private key"):
        opened("sig", "pkcs1(rsa,sha256)", encoded(parts))
