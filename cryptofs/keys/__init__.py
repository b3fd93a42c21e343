"""The sources of devices' keys: files, systemd's credentials, the kernel's keyrings, PKCS#11 tokens."""

from .base import ByteSource, KeyForbidden, KeyRefused, KeySource
from .files import CredentialKey, FileKey, versions_in
from .keyring import KeyringKey, add_to_keyring
from .secret import KEY_MAX
from .sets import KeySet
from .token import TokenKey

__all__ = [
    "KEY_MAX",
    "ByteSource",
    "CredentialKey",
    "FileKey",
    "KeyForbidden",
    "KeyRefused",
    "KeySet",
    "KeySource",
    "KeyringKey",
    "TokenKey",
    "add_to_keyring",
    "versions_in",
]
