"""A kernel whose AF_ALG allows some names only, as Linux 7.3 with its sysctl af_alg_restrict: real sockets where there
are any, and toys that bind and take keys where not.

Run as a program it is `cryptofs` on such a kernel; the file named by CRYPTOFS_TEST_RESTRICT has the mode, and may
change at any time.
"""

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any, Self

from cryptofs.algorithms import look_up, parse_type
from cryptofs.engines.af_alg import sockets

EVERYBODY = {
    *("hash sha1", "skcipher xts(aes)", "skcipher hctr2(aes)"),
    *("skcipher adiantum(xchacha12,aes)", "skcipher adiantum(xchacha20,aes)"),
}
CAPABLE = EVERYBODY | {
    *("hash md4", "hash md5", "hash sha224", "hash sha256", "hash sha384", "hash sha512", "hash cmac(aes)"),
    *(f"hash hmac({digest})" for digest in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")),
    *(f"skcipher {name}" for name in ("ecb(aes)", "cbc(aes)", "ctr(aes)", "cbc(des3_ede)", "cbc(des)", "ecb(des)")),
    "aead ccm(aes)",
}
MODES = ("0", "1", "1 capable", "2", "container")
"""Values of the sysctl; `container`: a filter of system calls that forbids the socket."""


class Restriction:
    """The mode, and what was asked for."""

    def __init__(self, mode: str = "0", path: Path | None = None) -> None:
        self._mode = mode
        self._path = path
        self.asked: list[str] = []

    @property
    def mode(self) -> str:
        return self._path.read_text().strip() if self._path is not None else self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode

    def check_socket(self) -> None:
        """Raise what socket(2) would."""
        number = {"2": errno.EAFNOSUPPORT, "container": errno.EPERM}.get(self.mode)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def check_bind(self, type_: str, name: str) -> None:
        """Raise what bind(2) would: names are compared as they are written."""
        self.asked.append(f"{type_} {name}")
        allowed = {"0": None, "1": EVERYBODY, "1 capable": CAPABLE}[self.mode]
        if allowed is not None and f"{type_} {name}" not in allowed:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def open_real(self) -> socket.socket:
        """For `sockets.open_socket`, on a kernel with AF_ALG."""
        self.check_socket()
        restriction = self

        class Restricted(socket.socket):
            def bind(self, address: Any) -> None:
                restriction.check_bind(*address)
                super().bind(address)

        return Restricted(socket.AF_ALG, socket.SOCK_SEQPACKET)

    def open_toy(self) -> Any:
        """For `sockets.open_socket`, where there is no AF_ALG: it offers the catalogue and computes nothing."""
        self.check_socket()
        return ToySocket(self)


class ToySocket:
    """As much of a bound socket as configure needs."""

    def __init__(self, restriction: Restriction) -> None:
        self._restriction = restriction

    def bind(self, address: tuple[str, str]) -> None:
        self._restriction.check_bind(*address)
        if look_up(parse_type(address[0]), address[1]) is None:
            raise OSError(errno.ENOENT, "not in the catalogue")

    def setsockopt(self, *arguments: object) -> None:
        return

    def close(self) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *arguments: object) -> None:
        return


if __name__ == "__main__":
    from cryptofs.cli import main

    sockets.open_socket = Restriction(path=Path(os.environ["CRYPTOFS_TEST_RESTRICT"])).open_real
    sys.exit(main())
