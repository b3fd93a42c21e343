"""The padding of PKCS #7: as many bytes as are missing to whole blocks, at least one, each with their number."""

from ..errors import InvalidValue


def padding(size: int, block_size: int) -> bytes:
    """What follows a message of `size` bytes."""
    count = block_size - size % block_size
    return bytes([count]) * count


def unpadded(text: bytes, block_size: int) -> bytes:
    """The text without its padding. Errors: InvalidValue."""
    count = text[-1] if text else 0
    if not 1 <= count <= block_size or text[-count:] != bytes([count]) * count:
        raise InvalidValue("padding: not a valid PKCS #7 padding; is the key, iv or name wrong?")
    return text[:-count]
