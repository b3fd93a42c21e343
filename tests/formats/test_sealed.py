"""The formats of sealed files, fixed as bytes: files of every version of the format open for ever."""

import pytest
from helpers.stream_devices import context_of, device_of

from cryptofs.algorithms import Type
from cryptofs.errors import BadTag
from cryptofs.formats.sealed import Head, head_size, parse_head
from cryptofs.records import Operation

KEY = bytes(range(32))
TEXT = b"sealed before the rotation"
FILE_1 = bytes.fromhex(
    "63727970746f66732066696c6520310aa0a1a2a3a4a5a6a7a8a9aaabacadaeaf101112131415161718191a1b0e9bf97a2cad1ad1af13676f"
    "6a591d3bb2703c616fa323d8889742f1fc90ffaf0ecfdc4d084c8d10218c"
)
FILE_2 = bytes.fromhex(
    "63727970746f66732066696c6520320a00000007a0a1a2a3a4a5a6a7a8a9aaabacadaeaf101112131415161718191a1b0e9bf97a2cad1ad1"
    "af13676f6a591d3bb2703c616fa323d888976687ccd90ca2fbc113990e3b57384693"
)
"""Version 7 of the key."""


@pytest.mark.parametrize(("file", "version"), [(FILE_1, None), (FILE_2, 7)])
def test_heads(file: bytes, version: int | None) -> None:
    """The head that the bytes have, and the bytes that the head has."""
    head = parse_head(file)
    assert head == Head(bytes(range(0xA0, 0xB0)), version)
    assert file.startswith(bytes(head))
    assert head_size(file) == len(bytes(head))
    assert head.assoclen == len(head.associated(0, True))


@pytest.mark.parametrize("data", [b"", FILE_1[:15], FILE_1[:31], FILE_2[:35], b"cryptofs file 3\n" + bytes(40)])
def test_what_is_no_head(data: bytes) -> None:
    """Too short, or of a format that is not known."""
    with pytest.raises(BadTag):
        parse_head(data)


def test_version_0_is_none() -> None:
    """No key has it."""
    with pytest.raises(BadTag, match="version 0"):
        parse_head(b"cryptofs file 2\n" + bytes(20))


def test_a_file_of_the_first_format_opens() -> None:
    """With the key that made it, whatever its version is today."""
    device = device_of(Type.AEAD, "gcm(aes)", KEY, {Operation.ENCRYPT, Operation.DECRYPT})
    stream = context_of(device).stream
    stream.set_parameters(Operation.DECRYPT, None, None)
    user = stream.attach(True, True)
    stream.feed_nowait(user, FILE_1)
    assert bytes(stream.drain_nowait(user, 1000)) == TEXT
