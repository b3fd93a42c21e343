"""The names that the shipped profiles allow.

Weak names are those that no new program should use. ecb shows equal blocks as equal; 64-bit blocks collide after 32
GiB; md4, md5 and sha1 have collisions; a checksum with a key does not authenticate. What is called null
does nothing. Some MACs are parts of other
algorithms: by themselves they are forged after one use of their key (ghash, poly1305) or by longer messages (cbcmac).
"""

from .names import Name

_WEAK_TEMPLATES = frozenset({"ecb"})
_WEAK_CIPHERS = frozenset(
    {"cipher_null", "des", "des3_ede", "arc4", "blowfish", "cast5", "tea", "xtea", "anubis", "khazad", "seed"}
)
_WEAK_DIGESTS = frozenset(
    {"digest_null", "md4", "md5", "crc32", "crc32c", "xxhash64", "crct10dif", "crc64-rocksoft", "michael_mic"}
)
# HMAC does not depend on the collision resistance of its digest; pcbc hides exchanged blocks.
_WEAK_ALONE = frozenset({"sha1", "ghash", "poly1305", "cbcmac", "pcbc"})
# Textbook RSA has no padding, and a signature over SHA-1 is also one over its collisions. Data that are signed without
# a description may themselves contain one, of any digest.
_WEAK_PUBLIC = frozenset({"rsa", "pkcs1(rsa,sha1)", "pkcs1pad(rsa,sha1)", "pkcs1(rsa,none)"})


def is_weak(name: Name) -> bool:
    """Whether the profile `standard` leaves this name out."""
    return str(name) in _WEAK_PUBLIC or name.template in _WEAK_ALONE or _has_weak_part(name)


def _has_weak_part(name: Name) -> bool:
    if name.template in _WEAK_TEMPLATES | _WEAK_CIPHERS | _WEAK_DIGESTS:
        return True
    return any(_has_weak_part(argument) for argument in name.arguments)
