"""The Python client: contexts on a cryptofs mount, with nothing but open, write and read.

from cryptofs.client import Context

with Context("skcipher", "cbc(aes)", key=key) as context:
    sealed = context.encrypt(plain, iv=iv)
"""

from .context import Context, PartedMessage
from .errors import ClientError, MountNotFound, Refused, RequestError
from .mounts import find_mount
from .pipeline import Pending, Pipeline

__all__ = [
    "ClientError",
    "Context",
    "MountNotFound",
    "PartedMessage",
    "Pending",
    "Pipeline",
    "Refused",
    "RequestError",
    "find_mount",
]
