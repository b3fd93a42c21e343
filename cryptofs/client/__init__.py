"""The Python client: contexts on a cryptofs mount, with nothing but open, write and read.

from cryptofs.client import Context

with Context("skcipher", "cbc(aes)", key=key) as context:
    sealed = context.encrypt(plain, iv=iv)

docs/python.md is its reference.
"""

from .context import Context
from .errors import ClientError, ClosedError, ForkedError, MountNotFound, Refused, RequestError
from .message import PartedMessage
from .mounts import find_mount
from .pipeline import Pending, Pipeline

__all__ = [
    "ClientError",
    "ClosedError",
    "Context",
    "ForkedError",
    "MountNotFound",
    "PartedMessage",
    "Pending",
    "Pipeline",
    "Refused",
    "RequestError",
    "find_mount",
]
