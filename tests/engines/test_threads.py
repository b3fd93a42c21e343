"""Engines in several threads: what describes, opens, keys and closes in one does not disturb another."""

import os
import threading
from collections.abc import Callable

import pytest
from helpers.public_keys import der_of, rsa_key

from cryptofs.algorithms import Description, Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.engines.base import Engine
from cryptofs.engines.codecs import LibraryEngine
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation

THREADS = 6
NAMES = (
    *((Type.HASH, name) for name in ("sha256", "hmac(sha256)", "cmac(aes)", "nothing")),
    *((Type.SKCIPHER, name) for name in ("cbc(aes)", "ctr(aes)", "xts(aes)")),
    *((Type.AEAD, name) for name in ("gcm(aes)", "rfc4106(gcm(aes))")),
    *((Type.SIG, name) for name in ("pkcs1(rsa,sha256)", "ed25519", "mldsa44")),
    *((Type.KPP, name) for name in ("curve25519", "ecdh-nist-p256", "ffdhe2048(dh)")),
    *((Type.COMPRESSION, name) for name in ("zstd", "deflate")),
)


def in_threads(work: Callable[[int], None]) -> None:
    """Run it THREADS times at once; an error in one of them is the caller's."""
    errors: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def run(index: int) -> None:
        try:
            together.wait(10)
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("make", [OpensslEngine, LibraryEngine, AfAlgEngine])
def test_descriptions_in_several_threads(make: type[Engine]) -> None:
    """An engine that was asked nothing before says the same to all of them, and each gets a transform of its own."""
    expected = {each: make().describe(*each) for each in NAMES}
    engine = make()
    found: list[dict[tuple[Type, str], Description | None]] = [{} for _ in range(THREADS)]

    def work(index: int) -> None:
        for each in NAMES:
            description = found[index][each] = engine.describe(*each)
            if description is not None:
                transform = engine.open(description, None)
                for size in (16, 32, 64):
                    if description.key_sizes.takes_key:
                        try:
                            transform.set_key(os.urandom(size))
                        except CryptofsError:
                            continue
                transform.close()

    in_threads(work)
    assert found == [expected] * THREADS


def test_a_key_that_was_set_in_another_thread() -> None:
    """Nothing counts on the thread that opened the transform: a worker keys and closes it, others compute."""
    engine = OpensslEngine()
    description = engine.describe(Type.SIG, "pkcs1(rsa,sha256)")
    assert description is not None
    transforms = [engine.open(description, None) for _ in range(THREADS)]
    key = der_of(rsa_key(2048))
    in_threads(lambda index: transforms[index].set_key(key))
    signatures = [b""] * THREADS

    def sign(index: int) -> None:
        for _ in range(20):
            signatures[index], _operands = transforms[0].operate(Operation.SIGN, {}, bytes(32))

    in_threads(sign)
    assert len(set(signatures)) == 1
    in_threads(lambda index: transforms[index].close())
    assert not any(transform.keyed for transform in transforms)
