"""What stands before the digest in a signature of PKCS #1 v1.5: a description that tells algorithm and size."""

_OCTET_STRING, _NULL, _OID, _SEQUENCE = 0x04, 0x05, 0x06, 0x30
_IDENTIFIERS = {
    "md5": ("2a864886f70d0205", 16),
    "sha1": ("2b0e03021a", 20),
    "rmd160": ("2b24030201", 20),
    "sha224": ("608648016503040204", 28),
    "sha256": ("608648016503040201", 32),
    "sha384": ("608648016503040202", 48),
    "sha512": ("608648016503040203", 64),
    "sha512-224": ("608648016503040205", 28),
    "sha512-256": ("608648016503040206", 32),
    "sha3-256": ("608648016503040208", 32),
    "sha3-384": ("608648016503040209", 48),
    "sha3-512": ("60864801650304020a", 64),
}
"""By digest: its object identifier, and its bytes."""


def describe(digest: str) -> tuple[bytes, int]:
    """The description, and the size of the digest behind it, bytes. The kernel's `none` has no description, and data of
    any size, for which the answer is 0. Errors: KeyError for a digest that has none."""
    if digest == "none":
        return b"", 0
    identifier, size = _IDENTIFIERS[digest]
    algorithm = _element(_SEQUENCE, _element(_OID, bytes.fromhex(identifier)) + _element(_NULL, b""))
    return _element(_SEQUENCE, algorithm + _element(_OCTET_STRING, bytes(size)))[:-size], size


def _element(tag: int, content: bytes) -> bytes:
    """DER; all of it here is short."""
    return bytes([tag, len(content)]) + content
