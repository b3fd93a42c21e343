"""The command line: `mount` and `umount` (the daemon), the rest as clients of a mount."""

from .main import main

__all__ = ["main"]
