"""Algorithm types and names (`names`), and the sizes that the standards fix (`catalogue`)."""

from .catalogue import Facts, look_up, names
from .names import (
    ANY_KEY,
    NAME_MAX,
    NO_KEY,
    Description,
    KeySizes,
    Levels,
    Name,
    Type,
    check_name,
    chunk_size,
    parse_name,
    parse_type,
)

__all__ = [
    "ANY_KEY",
    "NAME_MAX",
    "NO_KEY",
    "Description",
    "Facts",
    "KeySizes",
    "Levels",
    "Name",
    "Type",
    "check_name",
    "chunk_size",
    "look_up",
    "names",
    "parse_name",
    "parse_type",
]
