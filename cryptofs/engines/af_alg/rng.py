"""Random number generators."""

from ...algorithms import Description
from ...errors import EngineFault
from ..kinds import RngTransform
from .sockets import Bound, data_fault
from .transform import KernelTransform

PIECE = 128
"""Most bytes that one receive gives."""


class AfAlgRng(KernelTransform, RngTransform):
    """A generator of the kernel. Its key is a seed. If it accepts an empty one, the kernel uses its own seed."""

    def __init__(self, description: Description, bound: Bound) -> None:
        super().__init__(description, bound)
        if not description.key_sizes.required and description.key_sizes.takes_key:
            self.set_key(b"")

    def fill(self, out: memoryview) -> None:
        bound = self._bound
        operation = bound.take()
        position = 0
        try:
            while position < len(out):
                received = operation.recv_into(out[position : position + PIECE])
                if not received:
                    raise EngineFault(f"{bound.name}: no bytes came out")
                position += received
        except OSError as error:
            operation.close()
            raise data_fault(error, f"{len(out)} random bytes", bound.name) from None
        except BaseException:
            operation.close()
            raise
        bound.keep(operation)
