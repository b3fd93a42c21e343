"""How a record is written so that it arrives in one piece."""

import os

from ..records import Buffer

SEGMENT_MAX = 253 * 4096
"""Bytes of a payload that is written beside its header. Wherever the two lie, they touch at most the 256 pages that
the kernel takes as one write: 254 for the payload, and 2 for the header."""


def write_record(descriptor: int, head: bytes, payload: Buffer) -> None:
    """Write a head and its payload as one record; a payload that is small enough is not copied for it."""
    if not len(payload):
        os.pwrite(descriptor, head, 0)
    elif len(payload) <= SEGMENT_MAX:
        os.pwritev(descriptor, [head, payload], 0)
    else:
        os.pwrite(descriptor, b"".join((head, payload)), 0)
