"""A program that uses AF_ALG, or one call that `cryptofs run` leaves to the kernel, in turns.

Run as `python -m cryptofs.benchmark.legacy_client KIND SIZE`. For each line with seconds that it reads, it measures a
turn and prints how many seconds one operation took.
"""

import os
import socket
import sys
from collections.abc import Callable

from .turns import Call, timed

_KEY, _IV = bytes(range(16)), bytes(16)


def _operation(kind: str, name: str, key: bytes = b"") -> socket.socket:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
        bound.bind((kind, name))
        if key:
            bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
        return bound.accept()[0]


def _sha256(size: int) -> Call:
    data, operation = bytes(size), _operation("hash", "sha256")

    def call() -> None:
        operation.send(data)
        operation.recv(32)

    return call


def _cbc(size: int) -> Call:
    data, operation = bytes(size), _operation("skcipher", "cbc(aes)", _KEY)

    def call() -> None:
        operation.sendmsg_afalg([data], op=socket.ALG_OP_ENCRYPT, iv=_IV)
        operation.recv(size)

    return call


def _gcm(size: int) -> Call:
    data, operation = bytes(size), _operation("aead", "gcm(aes)", _KEY)

    def call() -> None:
        operation.sendmsg_afalg([data], op=socket.ALG_OP_ENCRYPT, iv=_IV[:12], assoclen=0)
        operation.recv(size + 16)

    return call


def _untrapped(_: int) -> Call:
    return lambda: os.stat("/")


KINDS: dict[str, Callable[[int], Call]] = {"sha256": _sha256, "cbc(aes)": _cbc, "gcm(aes)": _gcm, "stat": _untrapped}


def main() -> None:
    """Measure turns until the input ends."""
    turn = timed(KINDS[sys.argv[1]](int(sys.argv[2])))
    for line in sys.stdin:
        print(turn(float(line)), flush=True)


if __name__ == "__main__":
    main()
