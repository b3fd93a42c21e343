"""The library engine: the kernel's compressions, by zlib, lz4, lzo and zstandard, in the kernel's formats.

The kernel's compressors are not reachable from user space, so only this engine serves the type. Not offered:
- lzo-rle: the kernel's own variant of lzo; no library reads or writes its run lengths.
- 842: no library has it, and Python code would hold the interpreter, and so delay every other client, for about a
  second a megabyte.
"""

from collections.abc import Callable, Iterable

from ...algorithms import Description, Type, look_up, names
from ..base import Engine, Transform
from . import lzo
from .deflate import DeflateTransform
from .lz4 import Lz4Transform
from .lzo import LzoTransform
from .zstd import ZstdTransform

# By name: the library, and the function that opens it.
_FAMILIES: dict[str, tuple[str, Callable[[Description], Transform]]] = {
    "deflate": ("zlib", DeflateTransform),
    "zlib-deflate": ("zlib", DeflateTransform),
    "lz4": ("lz4", Lz4Transform),
    "lz4hc": ("lz4", Lz4Transform),
    "zstd": ("zstandard", ZstdTransform),
}
if lzo.AVAILABLE:
    _FAMILIES["lzo"] = ("lzo", LzoTransform)


def _driver_of(name: str) -> str:
    """`lz4hc-lz4`: the name, and the library."""
    return f"{name}-{_FAMILIES[name][0]}"


_DRIVERS = {_driver_of(name): name for name in _FAMILIES}


class LibraryEngine(Engine):
    """Offers the catalogue's compressions for which a library exists."""

    name = "library"

    def describe(self, type_: Type, name: str) -> Description | None:
        if type_ is not Type.COMPRESSION:
            return None
        name = _DRIVERS.get(name, name)
        facts = look_up(type_, name)
        if facts is None or name not in _FAMILIES:
            return None
        return Description.of(type_, name, self.name, _driver_of(name), facts)

    def open(self, description: Description, authsize: int | None) -> Transform:
        description.choose_authsize(authsize)
        return _FAMILIES[description.name][1](description)

    def names(self) -> Iterable[tuple[Type, str]]:
        return [(type_, name) for type_, name in names() if type_ is Type.COMPRESSION and name in _FAMILIES]
