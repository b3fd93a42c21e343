"""The AF_ALG engine with several threads, without privileges, and with small buffers."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers import af_alg_bench
from helpers.af_alg_bench import (
    BIG,
    DIGEST,
    ENCRYPT,
    cut,
    in_parts,
    kernel,
    largest_whole,
    once,
    open_,
    reference_cipher,
)

from cryptofs.algorithms import Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.errors import CryptofsError, OutOfResources, TooLarge
from cryptofs.records import PAYLOAD_MAX

kernel_engine, engine = af_alg_bench.kernel_engine, af_alg_bench.engine


@kernel
def test_two_threads_on_one_transform(engine: AfAlgEngine) -> None:
    key = os.urandom(16)
    failures: list[BaseException] = []
    with (
        open_(engine, Type.SKCIPHER, "ctr(aes)", key) as cipher,
        open_(engine, Type.HASH, "sha256") as digest,
    ):

        def work(seed: int) -> None:
            try:
                for round_ in range(60):
                    data = BIG[seed * 1000 : seed * 1000 + 3000 * (round_ % 5) + 5]
                    iv = bytes([seed, round_]) + bytes(14)
                    expected = reference_cipher("ctr(aes)", key, iv, data)
                    assert once(cipher, ENCRYPT, data, iv) == expected
                    assert in_parts(cipher, ENCRYPT, cut(data, [9, 2000]), iv) == expected
                    assert in_parts(digest, DIGEST, cut(data, [9])) == hashlib.sha256(data).digest()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


UNPRIVILEGED = """
import json, os, sys
from cryptofs.algorithms import Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation
os.setgroups([]); os.setgid(65534); os.setuid(65534)
engine = AfAlgEngine()
result = {}
for type_, name, key, iv in (
    (Type.SKCIPHER, "xts(aes)", bytes(range(32)), bytes(16)),
    (Type.AEAD, "gcm(aes)", bytes(range(16)), bytes(12)),
    (Type.SKCIPHER, "cbc(aes)", bytes(range(16)), bytes(16)),
):
    description = engine.describe(type_, name)
    if description is None:
        continue
    transform = engine.open(description, None)
    transform.set_key(key)
    answers = []
    for size in map(int, sys.argv[1:]):
        out = bytearray(size + 16)
        try:
            done = transform.once(Operation.ENCRYPT, iv, 0, bytes(size), memoryview(out))
            answers.append([done, out[:done].hex()])
        except CryptofsError as error:
            answers.append([error.symbol, error.message])
    result[name] = answers
    transform.close()
print(json.dumps(result))
"""


def unprivileged(*sizes: int) -> dict[str, list[list[object]]]:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *map(str, sizes)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@kernel
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_privileges(engine: AfAlgEngine) -> None:
    answers = unprivileged(16, 212_992, PAYLOAD_MAX)
    assert answers, "nothing is offered to an unprivileged process"
    for name, given_ in answers.items():
        print(f"\nunprivileged {name}:", *(answer[0] for answer in given_))
        with open_(engine, Type.AEAD if name == "gcm(aes)" else Type.SKCIPHER, name) as transform:
            transform.set_key(bytes(range(32 if name == "xts(aes)" else 16)))
            for size, (done, text) in zip((16, 212_992, PAYLOAD_MAX), given_, strict=True):
                if done == "EMSGSIZE":
                    assert str(size) in str(text)
                    assert name != "cbc(aes)"
                else:
                    iv = bytes(transform.description.iv_size)
                    assert str(text) == once(transform, ENCRYPT, bytes(size), iv).hex()


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Sets a kernel parameter until the test ends; in a guest only, for it is everybody's."""
    if not os.environ.get("CRYPTOFS_GUEST"):
        pytest.skip("changes kernel parameters: only in a guest")
    before: dict[Path, str] = {}

    def change(name: str, value: int) -> None:
        path = Path("/proc/sys", name)
        before.setdefault(path, path.read_text())
        path.write_text(str(value))

    yield change
    for path, value in before.items():
        path.write_text(value)


@kernel
def test_small_buffers(engine: AfAlgEngine, sysctl: Callable[[str, int], None]) -> None:
    for name in ("wmem_max", "rmem_max"):
        sysctl(f"net/core/{name}", 212_992)
    sizes = (212_992, 421_888, 421_889, PAYLOAD_MAX)
    for name, answers in unprivileged(*sizes).items():
        print(f"\nwmem_max 212992, {name}:", *(answer[0] for answer in answers))
        tag = 16 if name == "gcm(aes)" else 0
        assert answers[0][0] == sizes[0] + tag
        assert answers[1][0] == sizes[1] + tag
        for size, (done, text) in zip(sizes[2:], answers[2:], strict=True):
            if name == "cbc(aes)":
                assert done == ("EINVAL" if size % 16 else size)
            else:
                assert done == "EMSGSIZE"
                assert f"message of {size} bytes" in str(text)
                assert "at most 421888" in str(text)
    # root may pass over the limit
    with open_(engine, Type.AEAD, "gcm(aes)", bytes(16)) as transform:
        size = largest_whole()
        assert len(once(transform, ENCRYPT, BIG[:size], bytes(12))) == size + 16


@kernel
def test_small_defaults(engine: AfAlgEngine, sysctl: Callable[[str, int], None]) -> None:
    """Buffers of less than a piece: the pieces become smaller."""
    for name in ("wmem_max", "rmem_max", "wmem_default", "rmem_default"):
        sysctl(f"net/core/{name}", 20_000)
    for name, answers in unprivileged(PAYLOAD_MAX).items():
        assert answers[0][0] == (PAYLOAD_MAX if name == "cbc(aes)" else "EMSGSIZE"), answers[0]


@kernel
@pytest.mark.parametrize(("allowed", "fits"), [(20_480, 262_144), (10_240, 131_072), (4_096, 0)])
def test_small_optmem(engine: AfAlgEngine, sysctl: Callable[[str, int], None], allowed: int, fits: int) -> None:
    """Never a short or a wrong result: the right one, or EMSGSIZE (ENFILE where not even small ones fit).

    fits: what every kernel does with it, bytes; from some larger size on there are refusals only.
    """
    key, iv = bytes(range(16)), bytes(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        sysctl("net/core/optmem_max", allowed)
        refusal: CryptofsError | None = None
        for size in (16, 65_536, 131_072, 262_144, 524_288, PAYLOAD_MAX):
            expected = AESGCM(key).encrypt(iv, BIG[:size], None)
            before, refusal = refusal, None
            try:
                assert once(transform, ENCRYPT, BIG[:size], iv) == expected
            except (TooLarge, OutOfResources) as error:
                refusal = error
            print(f"\noptmem_max {allowed}, {size}: {refusal or 'done'}")
            if refusal is None:
                assert before is None, "a larger one passes than was refused"
                continue
            assert size > fits
            assert isinstance(refusal, TooLarge) == (size > 131_072)
            assert size <= 131_072 or f"optmem_max ({allowed})" in refusal.message
        assert refusal is not None
