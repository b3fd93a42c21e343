"""What all transforms in a token share."""

from ...algorithms import Description
from ...errors import NotPermitted, NotSupported
from ...records import Buffer, Operation
from ..base import Transform
from .token import TokenKey

PACE = 1e6
"""Nanoseconds a byte, for the planning of work: a token may take any time, so everything goes to the workers."""


class TokenTransform(Transform):
    """A transform whose key is in a token and stays there. It is keyed from the beginning."""

    def __init__(self, description: Description, key: TokenKey, authsize: int = 0) -> None:
        super().__init__(description, authsize)
        self._key = key
        self._closed = False
        self._allowed = {
            Operation.ENCRYPT: key.may_encrypt,
            Operation.DECRYPT: key.may_decrypt,
            Operation.DIGEST: key.may_sign,
        }
        self.keyed = self.key_set = True
        self.pace = PACE
        self.costs = dict.fromkeys(self._allowed, PACE)

    def note_pace(self, size: int, nanoseconds: int) -> None:
        return

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        super().check(operation, iv, assoclen)
        if not self._allowed[operation]:
            raise NotPermitted(f"{operation.word}: the key's attributes in its token do not allow it")

    def set_key(self, key: Buffer) -> None:
        raise NotSupported("set-key: the key is in a token and stays there")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.keyed = False
            self._key.close()
