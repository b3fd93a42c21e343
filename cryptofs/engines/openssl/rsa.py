"""RSA keys of this engine: bounded, tried for whether their parts belong together, and loaded."""

import os
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...records import Buffer
from ...wiping import wipe
from .. import rsa_key
from ..rsa_key import RsaNumbers, WrongPart
from . import libcrypto
from .pairs import FAILURES, Keys, Pair


class RsaKeys(Keys):
    """RSA keys, of the sizes that the kernel takes, and public ones of more.

    pyca's own check looks for factors of the primes: 0.16 seconds for 2,048 bits, 1.2 for 4,096, all of it with the
    interpreter locked, so it is left out. What stands here instead takes milliseconds: `rsa_key.read` bounds the parts,
    `_belong_together` computes what must hold between them, and a signature that is verified shows that they work.
    A key that passes and whose primes are none is refused by the last of these.
    """

    sizes = (3072, 2048, 4096)
    slow = True
    spelled = (
        "an RSAPrivateKey, RSAPublicKey, PKCS#8 or SubjectPublicKeyInfo in DER with a modulus of "
        f"{', '.join(map(str, rsa_key.MODULUS_BITS))} bits, or in a public key up to {rsa_key.PUBLIC_BITS[-1]}"
    )

    def load(self, key: bytearray) -> Pair:
        numbers = rsa_key.read(key, rsa_key.PUBLIC_BITS)
        if numbers.private is not None and not _belong_together(numbers):
            raise WrongPart(f"its parts do not belong to its modulus of {8 * len(numbers.n)} bits")
        strict = numbers.encode()
        try:
            return self.load_strict(strict, numbers.private is not None)
        except FAILURES:
            raise WrongPart(f"it makes no signatures under its modulus of {8 * len(numbers.n)} bits") from None
        finally:
            wipe(strict)

    def load_strict(self, key: bytearray, private: bool) -> Pair:
        """A checked key as `RsaNumbers.encode` gives it. Errors: those of FAILURES."""
        if not private:
            return Pair(None, serialization.load_der_public_key(bytes(key)))
        loaded: Any = serialization.load_der_private_key(key, None, unsafe_skip_rsa_key_validation=True)
        public = loaded.public_key()
        trial = os.urandom(32)
        signature = loaded.sign(trial, padding.PKCS1v15(), utils.NoDigestInfo())
        public.verify(signature, trial, padding.PKCS1v15(), utils.NoDigestInfo())
        return Pair(loaded, public)

    def load_public(self, key: Buffer) -> Any:
        numbers = rsa_key.read(key, rsa_key.PUBLIC_BITS)
        return serialization.load_der_public_key(bytes(RsaNumbers(numbers.n, numbers.e, None).encode()))

    def generate(self, bits: int) -> Pair:
        return Pair.of(rsa.generate_private_key(65537, bits))

    def export_raw(self, public: Any) -> bytes:
        return bytes(public.public_bytes(Encoding.DER, PublicFormat.PKCS1))


def _belong_together(numbers: RsaNumbers) -> bool:
    """Whether n = p q, e is inverse to the private exponents, and the coefficient to q.

    The library computes, as a Python integer could not be zeroed. Where it is missing, the signature alone decides.
    """
    if libcrypto.library() is None or numbers.private is None:
        return True
    with libcrypto.Arithmetic() as has:
        n, e, d, p, q, dp, dq, inverse = map(has.number, (numbers.n, numbers.e, *numbers.private))
        p_less, q_less = has.less_one(p), has.less_one(q)
        return (
            has.equal(has.product(p, q), n)
            and has.is_one(has.product_modulo(e, dp, p_less))
            and has.is_one(has.product_modulo(e, dq, q_less))
            and has.equal(has.remainder(d, p_less), dp)
            and has.equal(has.remainder(d, q_less), dq)
            and has.is_one(has.product_modulo(q, inverse, p))
        )
