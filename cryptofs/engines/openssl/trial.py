"""Whether this build of OpenSSL has a public key algorithm: the cheapest operation that shows it."""

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from ...errors import CryptofsError, KeyRejected, SignatureMalformed
from ...records import Attr, Operation
from .rsa import RsaKeys
from .sig import Signing
from .transform import PairTransform


def pair_works(build: Callable[[], PairTransform]) -> bool:
    """Whether a transform completes its first operation."""
    try:
        transform = build()
        if isinstance(transform.keys, RsaKeys):
            _try_rsa(transform)
        elif transform.operations & {Operation.AGREE} and not transform.streamed:
            # A finite field: its keys take long, and the library exists.
            return True
        else:
            _try_new_key(transform)
        transform.close()
    except (KeyError, ValueError, UnsupportedAlgorithm, CryptofsError):
        return False
    return True


def _try_rsa(transform: PairTransform) -> None:
    # A new key would take a tenth of a second. Nobody knows the factors of this modulus, and no operation needs them.
    public = rsa.RSAPublicNumbers(65537, (1 << 2047) + 1).public_key()
    transform.set_key(RsaKeys().export(public, False))
    if not isinstance(transform, Signing):
        transform.operate(Operation.ENCRYPT, {}, b"\2")
        return
    try:
        transform.operate(Operation.VERIFY, {Attr.SIGNATURE: bytes(255) + b"\2"}, transform.scheme.trial)
    except (KeyRejected, SignatureMalformed):
        return


def _try_new_key(transform: PairTransform) -> None:
    public, _ = transform.operate(Operation.GENERATE_KEY, {}, b"")
    if Operation.SIGN in transform.operations:
        transform.operate(Operation.SIGN, {}, bytes(32))
    elif Operation.AGREE in transform.operations:
        transform.operate(Operation.AGREE, {Attr.PEER_KEY: public}, b"")
    else:
        transform.operate(Operation.ENCAPSULATE, {}, b"")
