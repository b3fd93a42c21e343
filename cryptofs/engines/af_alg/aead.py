"""Authenticated encryption."""

from ...algorithms import Description
from ...errors import EngineFault, Overflow
from ...records import Buffer, Operation
from ..kinds import AeadTransform
from .skcipher import number
from .sockets import Bound
from .transform import KernelTransform


class AfAlgAead(KernelTransform, AeadTransform):
    """An AEAD of the kernel. Every message goes to it as a whole."""

    def __init__(self, description: Description, bound: Bound, authsize: int) -> None:
        super().__init__(description, bound, authsize)
        self._counts_length = description.counts_text

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        size = len(data) - assoclen
        if self._counts_length:
            self._check_count(iv, size)
        return self._exchange(Operation.ENCRYPT, iv, assoclen, data, out[: size + self.authsize])

    def _check_count(self, iv: Buffer, size: int) -> None:
        """Refuse the one length that CCM's nonce cannot count but the kernel accepts."""
        if iv[0] == 1 and size == 1 << 16:
            raise Overflow(f"text of {size} bytes: a nonce of 13 bytes leaves a count of at most {size - 1}")

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        text = out[: len(data) - assoclen - self.authsize]
        if self._counts_length:
            self._check_count(iv, len(text))
        try:
            return self._exchange(Operation.DECRYPT, iv, assoclen, data, text)
        except BaseException:
            # The kernel writes the text before it compares the tag.
            text[:] = bytes(len(text))
            raise

    def _exchange(self, operation: Operation, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        parameters = {"op": number(operation), "iv": iv, "assoclen": assoclen}
        expected = len(out)
        into: tuple[bytearray | memoryview, ...]
        if assoclen:
            # The output repeats the associated data.
            into = (bytearray(assoclen), out)
        elif expected:
            into = (out,)
        else:
            # Receiving into an empty buffer would not compare the tag.
            into = (bytearray(1),)
        received = self._bound.exchange(data, parameters, into, self._subject)
        if received != assoclen + expected:
            message = self._subject(len(data), assoclen)
            raise EngineFault(f"{message}: {received} bytes came out instead of {assoclen + expected}")
        return expected

    def _subject(self, size: int, assoclen: int) -> str:
        return f"message of {size} bytes with assoclen {assoclen} and tag {self.authsize}"
