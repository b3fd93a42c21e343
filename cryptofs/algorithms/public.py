"""The public key algorithms by their kernel names.

The kernel has no names for ML-KEM, Ed25519, Ed448, X448 and for ECDH on P-521: those here are this project's.
"""

from .names import KeySizes, Type, parse_name

KEY_SIZES = KeySizes(smallest=1, largest=8192)
"""Keys come in encodings of many sizes. The error for a wrong key says what an algorithm takes."""

_PKCS1_DIGESTS = (
    *("md5", "sha1", "rmd160", "sha224", "sha256", "sha384", "sha512", "sha512-224", "sha512-256"),
    *("sha3-256", "sha3-384", "sha3-512"),
)
_ECDSA = ("ecdsa-nist-p256", "ecdsa-nist-p384", "ecdsa-nist-p521")

PUBLIC_NAMES: dict[Type, tuple[str, ...]] = {
    Type.AKCIPHER: ("rsa", "pkcs1pad(rsa)", *(f"pkcs1pad(rsa,{digest})" for digest in _PKCS1_DIGESTS)),
    Type.SIG: (
        *(f"pkcs1(rsa,{digest})" for digest in ("none", *_PKCS1_DIGESTS)),
        *(form.format(name) for name in _ECDSA for form in ("{}", "x962({})", "p1363({})")),
        *("ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"),
    ),
    Type.KPP: (
        *("ecdh-nist-p256", "ecdh-nist-p384", "ecdh-nist-p521", "curve25519", "x448", "dh"),
        *(f"ffdhe{bits}(dh)" for bits in (2048, 3072, 4096, 6144, 8192)),
        *("mlkem768", "mlkem1024"),
    ),
}

_USUAL_DIGESTS = {"ecdsa-nist-p256": "sha256", "ecdsa-nist-p384": "sha384", "ecdsa-nist-p521": "sha512"}


def signs_digest_of(name: str) -> tuple[str | None, bool]:
    """The hash whose digest a key of this algorithm signs (None: it signs the message itself), and whether it can sign
    no other hash's digest. ECDSA takes any digest; the hash given for it is the usual one."""
    parsed = parse_name(name)
    inner = [each.template for each in parsed.arguments]
    if parsed.template in ("pkcs1", "pkcs1pad"):
        return (None if inner[1:] in ([], ["none"]) else inner[1]), True
    usual = _USUAL_DIGESTS.get(inner[0] if inner else parsed.template)
    return usual, usual is None
