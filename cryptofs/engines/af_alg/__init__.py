"""The kernel's own cryptography, through AF_ALG sockets."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from ... import algorithms
from ...algorithms import Description, Facts, Type, look_up
from ...errors import InvalidValue, NotOffered
from ..base import Engine, Transform
from . import probe, proc_crypto, sockets
from .aead import AfAlgAead
from .hash import AfAlgHash
from .rng import AfAlgRng
from .skcipher import AfAlgStreamCipher, AfAlgWholeCipher
from .sockets import Bound

T = TypeVar("T")

__all__ = ["AfAlgEngine", "KernelDescription"]

CACHE_MAX = 1024
"""Descriptions that are remembered, and the same number of refusals. They are separate, so that refusals of random
names do not displace descriptions."""
NAMES_MAX = 8
"""Most templates and algorithms in a name for which the kernel is asked: it may run modprobe for each of them, 5 to 200
ms. `essiv(authenc(hmac(sha256),cbc(aes)),sha256)` has 7, and the kernel itself stops at some depth."""
MISS_SECONDS = 10.0
"""How long a refused name is not asked for again: each unknown one makes the kernel run modprobe."""

_SERVED = frozenset({Type.HASH, Type.SKCIPHER, Type.AEAD, Type.RNG})
WARM_UP: tuple[tuple[Type, str], ...] = (
    (Type.AEAD, "gcm(aes)"),
    (Type.AEAD, "rfc4106(gcm(aes))"),
    (Type.SKCIPHER, "xts(aes)"),
    (Type.SKCIPHER, "ctr(aes)"),
    (Type.SKCIPHER, "cbc(aes)"),
    (Type.SKCIPHER, "ecb(aes)"),
    (Type.SKCIPHER, "cts(cbc(aes))"),
    (Type.SKCIPHER, "chacha20"),
    (Type.HASH, "sha1"),
    (Type.HASH, "sha256"),
    (Type.HASH, "sha512"),
    (Type.HASH, "crc32c"),
    (Type.AEAD, "ccm(aes)"),
)
"""Names with their own accelerated implementations, before those that are built from templates."""


@dataclass(frozen=True)
class KernelDescription(Description):
    """A description with the name to bind, which is the requested one: it may be a driver's."""

    bind_name: str = ""


class AfAlgEngine(Engine):
    """Transforms of the kernel. available: whether the kernel has AF_ALG."""

    name = "af_alg"

    def __init__(self) -> None:
        """Errors: OutOfResources, EngineFault if sockets fail for another reason than a missing AF_ALG."""
        self.available = _available()
        self._known: dict[tuple[Type, str], KernelDescription] = {}
        self._refused: dict[tuple[Type, str], float] = {}  # The time until which it is refused.
        self._lock = threading.Lock()

    def describe(self, type_: Type, name: str) -> KernelDescription | None:
        """See Engine. Errors: OutOfResources, EngineFault.

        Descriptions are remembered until `open` finds that the name has gone, refusals for MISS_SECONDS. If a driver of
        higher priority is registered later, it serves new transforms, while the description still names the old one.
        """
        if not self.available or type_ not in _SERVED:
            return None
        key = (type_, name)
        description = self._known.get(key)
        if description is None and not self._is_refused(key):
            description = self._ask(type_, name)
            self._remember(key, description)
        return description

    def is_slow(self, type_: Type, name: str) -> bool:
        """A name that is neither published nor remembered: the kernel may run modprobe and self-tests for it.

        A published one takes as long, but once: programs rely on it that a configure by such a name is done at once.
        """
        key = (type_, name)
        if not self.available or type_ not in _SERVED or key in self._known or self._is_refused(key):
            return False
        return algorithms.look_up(type_, name) is None

    def _is_refused(self, key: tuple[Type, str]) -> bool:
        name = key[1]
        return name.count("(") + name.count(",") >= NAMES_MAX or time.monotonic() < self._refused.get(key, 0.0)

    def _remember(self, key: tuple[Type, str], description: KernelDescription | None) -> None:
        with self._lock:
            self._known.pop(key, None)
            self._refused.pop(key, None)
            if description is None:
                _put(self._refused, key, time.monotonic() + MISS_SECONDS)
            else:
                _put(self._known, key, description)

    def _ask(self, type_: Type, name: str) -> KernelDescription | None:
        bound = sockets.bind(type_, name)
        if bound is None:
            return None
        with bound:
            entry = proc_crypto.find(proc_crypto.read(), type_, name)
            canonical = entry.name if entry is not None else name
            facts = look_up(type_, canonical)
            if facts is None:
                if entry is None:
                    # nothing tells how long its IV, digest or tag is
                    return None
                facts = Facts(
                    max(entry.block_size, 1),
                    key_sizes=probe.key_sizes(bound, type_, name, entry),
                    authsizes=range(1, entry.max_authsize + 1),
                )
        if entry is not None:
            # a digest's block binds nobody, and what kernels say of the one of cbcmac differs
            block_size = facts.block_size if type_ is Type.HASH else max(entry.block_size, 1)
            facts = replace(facts, block_size=block_size, iv_size=entry.iv_size, digest_size=entry.digest_size)
        driver = entry.driver if entry is not None else name
        return KernelDescription.of(type_, canonical, self.name, driver, facts, bind_name=name)

    def open(self, description: Description, authsize: int | None) -> Transform:
        """See Engine. Errors: also NotOffered if the name has gone, which is then remembered; OutOfResources,
        EngineFault."""
        type_ = description.type
        if authsize and type_ is not Type.AEAD:
            raise InvalidValue(f"authsize {authsize}: {description.name} of type {type_} has no tag")
        name = description.bind_name if isinstance(description, KernelDescription) else description.name
        whole = type_ is Type.AEAD or (type_ is Type.SKCIPHER and not description.chunk_size)
        wanted = sockets.WHOLE if whole else sockets.PIECE if type_ is Type.SKCIPHER else 0
        try:
            bound = Bound(type_, name, wanted)
        except NotOffered:
            # Forbidden since it was described: the next engine may serve it.
            self._remember((type_, name), None)
            raise
        try:
            match type_:
                case Type.HASH:
                    return AfAlgHash(description, bound)
                case Type.AEAD:
                    size = description.max_authsize if authsize is None else authsize
                    if not bound.set_authsize(size):
                        raise description.refuse_authsize(size)
                    return AfAlgAead(description, bound, size)
                case Type.RNG:
                    return AfAlgRng(description, bound)
            return (AfAlgWholeCipher if whole else AfAlgStreamCipher)(description, bound)
        except BaseException:
            bound.close()
            raise

    def names(self) -> Iterable[tuple[Type, str]]:
        """The catalogue's names and those that are now registered in the kernel; none without AF_ALG."""
        if not self.available:
            return []
        registered = ((entry.type, entry.name) for entry in proc_crypto.read() if not entry.name.startswith("__"))
        published = (each for each in algorithms.names() if each[0] in _SERVED)
        return dict.fromkeys((*published, *registered))

    def warm_up(self) -> None:
        """Make the kernel load the modules of accelerated implementations, if it has any.

        Call it before anything else is bound: a generic implementation in use prevents the kernel from loading the
        module of the accelerated one. Errors: OutOfResources, EngineFault.
        """
        if not self.available:
            return
        for type_, name in WARM_UP:
            bound = sockets.bind(type_, name)
            if bound is not None:
                bound.close()


def _put(cache: dict[tuple[Type, str], T], key: tuple[Type, str], value: T) -> None:
    """Remember the newest CACHE_MAX."""
    while len(cache) >= CACHE_MAX:
        del cache[next(iter(cache))]
    cache[key] = value


def _available() -> bool:
    try:
        sockets.open_socket().close()
    except OSError as error:
        if error.errno in sockets.NOT_OFFERED:
            return False
        raise sockets.system_fault(error, "socket", AfAlgEngine.name) from None
    return True
