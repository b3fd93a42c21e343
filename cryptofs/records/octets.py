"""The bytes of a bytes-like object.

`len` of an array, of a typed memoryview or of a matrix counts items or rows. A record with such a size would be shorter
than its payload, and the rest of the payload would be read as records. So every value of a record passes through
`octets` before its size is counted.
"""

Octets = bytes | memoryview
"""Bytes whose `len` is their number."""


def octets(value: object, word: str = "data") -> Octets:
    """The bytes of any object with the buffer protocol, in C order: array, mmap, numpy, matrices, slices with a step.

    Contiguous memory is not copied. A view of a bytearray keeps it from changing its size. word: the value's name in
    errors. Errors: TypeError for any other object, which never becomes bytes by itself (`bytes(5)` would be five
    zeros).
    """
    if type(value) is bytes:
        return value
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"{word}: a bytes-like object whose memory can be read, not {type(value).__name__}") from None
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    if "O" in view.format:
        raise TypeError(f"{word}: a bytes-like object, not an array of Python objects")
    if not view.nbytes:
        return b""
    if view.c_contiguous:
        try:
            return view.cast("B")
        except (TypeError, ValueError):
            # A format that Python cannot cast, such as another byte order: the bytes are copied in their order.
            pass
    return view.tobytes()


def holds_more(value: object) -> bool:
    """Whether a view keeps memory that is much larger than itself."""
    return isinstance(value, memoryview) and 2 * value.nbytes < memoryview(value.obj).nbytes


def detached(value: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """The same bytes, to keep for a while: in their own memory, if the memory behind them is much larger."""
    return bytes(value) if holds_more(value) else value


def frozen(value: Octets) -> Octets:
    """The same bytes in immutable memory: a copy, unless the object is already immutable."""
    if type(value) is bytes or (isinstance(value, memoryview) and type(value.obj) is bytes):
        return value
    return bytes(value)
