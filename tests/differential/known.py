"""The differences between the engines that remain, each with its reason; docs/engines.md lists them."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.engines.af_alg.sockets import OPTMEM_ENOUGH
from cryptofs.records import Attr, Operation

from .duel import Difference


@dataclass(frozen=True)
class Known:
    """name: of the algorithm. condition, reason: as docs/engines.md has them. af_alg, openssl: what each answers."""

    name: str
    condition: str
    af_alg: str
    openssl: str
    reason: str
    test: Callable[[Difference], bool]

    def holds(self, difference: Difference) -> bool:
        """Whether a difference, af_alg's answer first, is this one."""
        return self.test(difference)


def _statuses(difference: Difference) -> tuple[int, int]:
    ours, theirs = difference.answers
    return (-1 if ours is None else ours.status, -1 if theirs is None else theirs.status)


def _equal_halves(difference: Difference) -> bool:
    request, half = difference.request, len(difference.key) // 2
    if difference.name != "xts(aes)" or request is None or _statuses(difference) != (0, errno.EINVAL):
        return False
    brings_key = request.operation in (Operation.CONFIGURE, Operation.SET_KEY) and Attr.KEY in request.attributes
    return brings_key and difference.key[:half] == difference.key[half:]


def _small_optmem(difference: Difference) -> bool:
    ours, theirs = _statuses(difference)
    if difference.type not in (Type.SKCIPHER, Type.AEAD) or ours != errno.EMSGSIZE or theirs == errno.EMSGSIZE:
        return False
    return int(Path("/proc/sys/net/core/optmem_max").read_text()) < OPTMEM_ENOUGH


def _long_wrap(difference: Difference) -> bool:
    # in parts, the last one alone says nothing of the size
    return difference.name == "kw(aes)" and _statuses(difference)[1] == errno.EMSGSIZE


def _poly1305_clone(difference: Difference) -> bool:
    request = difference.request
    cloned = request is not None and request.operation is Operation.CLONE
    return difference.name == "poly1305" and cloned and _statuses(difference) == (0, errno.EOPNOTSUPP)


def _random(difference: Difference) -> bool:
    # `Duel` compares the length alone, so nothing of it is ever seen as a difference
    return False


KNOWN = (
    Known(
        "xts(aes)",
        "a key whose halves are equal",
        "accepted",
        "EINVAL",
        "The kernel refuses such keys in FIPS mode only, OpenSSL always. They make XTS weak: do not use one.",
        _equal_halves,
    ),
    Known(
        "AEADs, xts, cts and other whole messages",
        "more than the kernel's socket buffers hold",
        "EMSGSIZE",
        "done",
        "AF_ALG needs the whole message in a socket's buffer: net.core.wmem_max, rmem_max and optmem_max bound it.",
        _small_optmem,
    ),
    Known(
        "kw(aes)",
        "more than 16,384 bytes",
        "done",
        "EMSGSIZE",
        "Wrapping is slow and meant for keys: a megabyte would take the interpreter 0.1 s. Only Linux 6.1 has it.",
        _long_wrap,
    ),
    Known(
        "poly1305",
        "clone",
        "done",
        "EOPNOTSUPP",
        "OpenSSL cannot copy its state, and our own code would leak through timing. Only Linux 6.1 has it.",
        _poly1305_clone,
    ),
    Known(
        "stdrng",
        "every message",
        "the kernel's random bytes",
        "other random bytes",
        "Random bytes differ; their number is the same. A seed goes to the kernel's generator; OpenSSL ignores it.",
        _random,
    ),
)
