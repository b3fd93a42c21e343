"""The library engine by itself."""

from cryptofs.algorithms import Type
from cryptofs.engines.base import OUT_SLACK, Transform
from cryptofs.engines.opening import open_engines
from cryptofs.records import Operation

COMPRESS, DECOMPRESS = Operation.COMPRESS, Operation.DECOMPRESS


(LIBRARY,) = open_engines(("library",))


def transform_of(name: str, level: int | None = None) -> Transform:
    """A transform of the library engine."""
    description = LIBRARY.describe(Type.COMPRESSION, name)
    assert description is not None
    transform = LIBRARY.open(description, None)
    if level is not None:
        transform.set_level(level)
    return transform


def whole(name: str, operation: Operation, data: bytes, room: int | None = None, level: int | None = None) -> bytes:
    """A message in one record."""
    transform = transform_of(name, level)
    out = memoryview(bytearray((transform.room(operation, len(data)) if room is None else room) + OUT_SLACK))
    return bytes(out[: transform.once(operation, None, 0, data, out)])


def in_parts(name: str, operation: Operation, parts: list[bytes], room: int | None = None) -> bytes:
    """A message in parts, each answer with at most `room` bytes; what is pending is fetched by empty parts."""
    message = transform_of(name).start(operation, None, 0)
    output = bytearray()

    def update(data: bytes, last: bool) -> None:
        out = memoryview(bytearray((message.room(len(data), last) if room is None else room) + OUT_SLACK))
        output.extend(out[: message.update(data, last, out)])

    for part in parts:
        update(part, False)
        while message.pending:
            update(b"", False)
    update(b"", True)
    while message.pending:
        update(b"", True)
    message.close()
    return bytes(output)
