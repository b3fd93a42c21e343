"""Authenticated encryption."""

from ...errors import EngineFault
from ...records import Buffer, Operation
from ..kinds import AeadTransform
from .skcipher import OPERATIONS
from .transform import KernelTransform


class AfAlgAead(KernelTransform, AeadTransform):
    """An AEAD of the kernel; every message goes whole."""

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        return self._exchange(Operation.ENCRYPT, iv, assoclen, data, out[: len(data) - assoclen + self.authsize])

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        text = out[: len(data) - assoclen - self.authsize]
        try:
            return self._exchange(Operation.DECRYPT, iv, assoclen, data, text)
        except BaseException:
            # the kernel writes the text before it has compared the tag
            text[:] = bytes(len(text))
            raise

    def _exchange(self, operation: Operation, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        parameters = {"op": OPERATIONS[operation], "iv": iv, "assoclen": assoclen}
        expected = len(out)
        into: tuple[bytearray | memoryview, ...]
        if assoclen:
            # the output repeats the associated data
            into = (bytearray(assoclen), out)
        elif expected:
            into = (out,)
        else:
            # receiving into nothing would not compare the tag
            into = (bytearray(1),)
        subject = f"message of {len(data)} bytes with assoclen {assoclen} and tag {self.authsize}"
        received = self._bound.exchange(data, parameters, into, subject)
        if received != assoclen + expected:
            raise EngineFault(f"{subject}: {received} bytes came out instead of {assoclen + expected}")
        return expected
