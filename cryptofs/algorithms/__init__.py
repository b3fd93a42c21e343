"""Algorithm types and names (`names`), what is known of them (`facts`), and the standards' sizes (`catalogue`)."""

from .catalogue import look_up, names, standard_names
from .facts import Description, Facts, IvAfter, NonceLayout, Rows, complete, format_rows
from .names import (
    ANY_KEY,
    NAME_MAX,
    NO_KEY,
    KeySizes,
    Levels,
    Name,
    Type,
    check_name,
    driver_name,
    parse_name,
    parse_type,
)

__all__ = [
    "ANY_KEY",
    "NAME_MAX",
    "NO_KEY",
    "Description",
    "Facts",
    "IvAfter",
    "KeySizes",
    "Levels",
    "Name",
    "NonceLayout",
    "Rows",
    "Type",
    "check_name",
    "complete",
    "driver_name",
    "format_rows",
    "look_up",
    "names",
    "parse_name",
    "parse_type",
    "standard_names",
]
