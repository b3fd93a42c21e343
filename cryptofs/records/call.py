"""CRYPTOFS_CALL: one record in and its whole response out by ioctl(2), in one system call.

The command's layout is the kernel's (include/uapi/asm-generic/ioctl.h): number, type, the buffer's size in 14 bits, and
the direction.
"""

CALL_TYPE, CALL_NUMBER = ord("c"), 0xC0
CALL_MAX = (1 << 14) - 1
"""The largest buffer of an ioctl, bytes."""

_TYPE_SHIFT, _SIZE_SHIFT, _DIRECTION_SHIFT = 8, 16, 30
_READ_AND_WRITE = 3
_WORD = CALL_TYPE << _TYPE_SHIFT | CALL_NUMBER
_WORD_MASK = 0xFFFF


def call_command(size: int) -> int:
    """CRYPTOFS_CALL for a buffer of `size` bytes, at most CALL_MAX: `_IOWR('c', 0xC0, char[size])`."""
    return _READ_AND_WRITE << _DIRECTION_SHIFT | size << _SIZE_SHIFT | _WORD


def is_call(command: int) -> bool:
    """Whether an ioctl command is CRYPTOFS_CALL, for a buffer of any size."""
    return command >> _DIRECTION_SHIFT == _READ_AND_WRITE and command & _WORD_MASK == _WORD
