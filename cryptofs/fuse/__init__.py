"""The mount: the kernel's protocol, the loop that serves it, and pyfuse3's operations for names and attributes."""

from .mount import FuseMountError, OwnMount
from .operations import Operations
from .transport import Transport

__all__ = ["FuseMountError", "Operations", "OwnMount", "Transport"]
