"""The Python client: contexts on a cryptofs mount, through open, write, read and ioctl.

from cryptofs.client import Context

with Context("skcipher", "cbc(aes)", key=key) as context:
    sealed = context.encrypt(plain, iv=iv)

See docs/python.md for the reference.
"""

from .context import Context
from .errors import ClientError, ClosedError, ForkedError, MountNotFound, Refused, RequestError
from .files import decrypt_file, decrypt_pieces, encrypt_file, encrypt_pieces
from .hashing import Hash, new
from .message import PartedMessage
from .mounts import find_mount
from .pipeline import Pending, Pipeline

__all__ = [
    "ClientError",
    "ClosedError",
    "Context",
    "ForkedError",
    "Hash",
    "MountNotFound",
    "PartedMessage",
    "Pending",
    "Pipeline",
    "Refused",
    "RequestError",
    "decrypt_file",
    "decrypt_pieces",
    "encrypt_file",
    "encrypt_pieces",
    "find_mount",
    "new",
]
