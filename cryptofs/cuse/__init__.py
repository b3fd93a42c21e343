"""`cryptofs cuse`: /dev/crypto as a real device node, in kernels that have CUSE."""

from .node import Access, NodeError, open_device
from .server import Server

__all__ = ["Access", "NodeError", "Server", "open_device"]
