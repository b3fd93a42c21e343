"""The AF_ALG engine's results against hashlib and pyca, and the catalogue against the kernel."""

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers import af_alg_bench
from helpers.af_alg_bench import (
    BIG,
    CATALOGUE,
    DECRYPT,
    DIGEST,
    ENCRYPT,
    REFERENCED,
    SIZES,
    cut,
    describe,
    few,
    in_parts,
    kernel,
    largest_whole,
    once,
    open_,
    reference_aead,
    reference_cipher,
    reference_hash,
    some_aad,
    some_iv,
    some_key,
    wrong,
)
from hypothesis import given
from hypothesis import strategies as st

from cryptofs.algorithms import Type, look_up
from cryptofs.engines.af_alg import AfAlgEngine, proc_crypto, sockets
from cryptofs.errors import BadTag

kernel_engine, engine = af_alg_bench.kernel_engine, af_alg_bench.engine

### What is offered, and the catalogue against the kernel


@kernel
def test_offered(engine: AfAlgEngine) -> None:
    offered = {name for type_, name in CATALOGUE if engine.describe(type_, name)}
    missing = {name for _, name in CATALOGUE} - offered
    print(f"\n{os.uname().release} offers {len(offered)}; not: {' '.join(sorted(missing))}")
    assert {"sha256", "hmac(sha256)", "cbc(aes)", "xts(aes)", "gcm(aes)", "stdrng"} <= offered


@kernel
@pytest.mark.parametrize(("type_", "name"), CATALOGUE)
def test_catalogue_is_right(engine: AfAlgEngine, type_: Type, name: str) -> None:
    description = describe(engine, type_, name)
    facts = look_up(type_, name)
    assert facts is not None
    assert (description.type, description.name, description.engine) == (type_, name, "af_alg")
    with sockets.bind(type_, name) as bound:  # type: ignore[union-attr]
        entry = proc_crypto.find(proc_crypto.read(), type_, name)
        assert entry is not None
        assert description.driver == entry.driver
        # what kernels say of the block of cbcmac differs
        if type_ is not Type.RNG and not name.startswith("cbcmac("):
            assert facts.block_size == entry.block_size
        assert facts.iv_size == entry.iv_size
        assert facts.digest_size == entry.digest_size
        assert facts.max_authsize == entry.max_authsize
        if type_ is Type.SKCIPHER:
            assert facts.chunk_size == description.chunk_size
            assert (facts.key_sizes.listed or (facts.key_sizes.smallest,))[0] == entry.min_key
            assert (facts.key_sizes.listed or (facts.key_sizes.largest,))[-1] == entry.max_key
        accepted = [size for size in range(65) if sockets.set_key(bound, bytes(range(size)), name)]
        expected = [size for size in range(65) if facts.key_sizes.takes_key and facts.key_sizes.admits(size)]
        if "authenc(" in name:
            assert not accepted  # only a blob does
        elif name.startswith("blake2b-"):
            assert accepted in (expected, [0, *expected])  # to newer kernels an empty key is none
        elif name == "xcbc(aes)":
            assert accepted in ([16], [16, 24, 32])  # RFC 3566 has AES-128 alone, and so have newer kernels
        elif name == "ecb(cipher_null)":
            assert accepted == [0]  # which is none
        elif name == "xts(aes)":
            assert accepted == [32, 48, 64]  # no standard has XTS with AES-192
        else:
            assert accepted == expected
        if type_ is Type.AEAD:
            sizes = [size for size in range(65) if sockets.set_authsize(bound, size, name)]
            assert sizes == list(facts.authsizes)


### Equality


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.HASH])
@few
@given(
    data=st.binary(max_size=500),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    keyed=st.booleans(),
    ended=st.booleans(),
)
def test_hashes(engine: AfAlgEngine, name: str, data: bytes, cuts: list[int], keyed: bool, ended: bool) -> None:
    sizes = describe(engine, Type.HASH, name).key_sizes
    key = some_key(Type.HASH, name, sizes) if sizes.takes_key and (sizes.required or keyed) else b""
    with open_(engine, Type.HASH, name, key or None) as transform:
        expected = reference_hash(name, key, data)
        assert once(transform, DIGEST, data) == expected
        assert in_parts(transform, DIGEST, cut(data, cuts), ended=ended) == expected
        assert once(transform, DIGEST, data) == expected


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.SKCIPHER])
@few
@given(
    data=st.binary(min_size=16, max_size=500),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    pick=st.integers(0, 2),
    ended=st.booleans(),
)
def test_ciphers(engine: AfAlgEngine, name: str, data: bytes, cuts: list[int], pick: int, ended: bool) -> None:
    description = describe(engine, Type.SKCIPHER, name)
    listed = description.key_sizes.listed
    key = some_key(Type.SKCIPHER, name, description.key_sizes, listed[pick % len(listed)])
    if description.chunk_size:
        data = data[: len(data) - len(data) % description.block_size]
    iv = some_iv(name, description.iv_size)
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv or b"", data)
        assert once(transform, ENCRYPT, data, iv) == expected
        assert in_parts(transform, ENCRYPT, cut(data, cuts), iv, ended=ended) == expected
        assert in_parts(transform, DECRYPT, cut(expected, cuts), iv, ended=ended) == data
        assert once(transform, DECRYPT, expected, iv) == data


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.AEAD])
@few
@given(
    text=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 500), max_size=3),
    pick=st.integers(0, 20),
    ended=st.booleans(),
)
def test_aeads(engine: AfAlgEngine, name: str, text: bytes, cuts: list[int], pick: int, ended: bool) -> None:
    description = describe(engine, Type.AEAD, name)
    facts = look_up(Type.AEAD, name)
    assert facts is not None
    authsize = facts.authsizes[pick % len(facts.authsizes)]
    listed = description.key_sizes.listed
    key = some_key(Type.AEAD, name, description.key_sizes, listed[pick % len(listed)] if listed else None)
    text = text[: len(text) - len(text) % description.block_size]
    iv = some_iv(name, description.iv_size)
    assert iv is not None
    aad = some_aad(name, iv)
    with open_(engine, Type.AEAD, name, key, authsize) as transform:
        sealed = reference_aead(name, key, iv, aad, text, authsize)
        assert once(transform, ENCRYPT, aad + text, iv, len(aad)) == sealed
        assert in_parts(transform, ENCRYPT, cut(aad + text, cuts), iv, len(aad), ended) == sealed
        assert in_parts(transform, DECRYPT, cut(aad + sealed, cuts), iv, len(aad), ended) == text
        spoilt = bytearray(aad + sealed)
        spoilt[-1] ^= 1
        out = bytearray(b"\xff" * len(text))
        with pytest.raises(BadTag):
            transform.once(DECRYPT, iv, len(aad), bytes(spoilt), memoryview(out))
        assert out == bytes(len(text)), "the text is given out although its tag is wrong"
        assert once(transform, DECRYPT, aad + sealed, iv, len(aad)) == text


@kernel
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["cbc(aes)", "ctr(aes)", "xts(aes)", "chacha20"])
def test_cipher_sizes(engine: AfAlgEngine, name: str, size: int) -> None:
    if name == "cbc(aes)":
        size = max(size - size % 16, 16)
    if name == "xts(aes)":
        size = min(max(size, 16), largest_whole())
    key, iv, data = os.urandom(32), bytes(4) + os.urandom(12), BIG[:size]
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv, data)
        assert once(transform, ENCRYPT, data, iv) == expected
        assert in_parts(transform, DECRYPT, cut(expected, [7, 70_000, 300_001]), iv) == data
        # where the pages of the output begin decides how the kernel cuts it
        out = bytearray(size + 8192)
        at = -id(out) % 7 + 1001
        assert transform.once(ENCRYPT, iv, 0, memoryview(data), memoryview(out)[at : at + size]) == size
        assert out[at : at + size] == expected


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.SKCIPHER])
def test_ciphers_chain(engine: AfAlgEngine, name: str) -> None:
    """Parts at every kind of border: of blocks, chunks, pages and pieces."""
    description = describe(engine, Type.SKCIPHER, name)
    key = os.urandom(description.key_sizes.listed[0])
    # the counter of a counting mode runs over within the message
    iv = (b"\xff" * description.iv_size)[:-1] + b"\xf0" if description.iv_size else None
    if name == "chacha20":
        iv = b"\0\xf8\xff\xff" + os.urandom(12)
    data = BIG[:300_000] if name != "chacha20" else BIG[: 2048 * 64]
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv or b"", data)
        assert once(transform, ENCRYPT, data, iv) == expected
        for cuts in ([64, 128], [16, 48, 4096], [63, 65, 70_000, 70_001], [131_072], [131_071, 262_145]):
            assert in_parts(transform, ENCRYPT, cut(data, cuts), iv) == expected
            assert in_parts(transform, DECRYPT, cut(expected, cuts), iv, ended=False) == data


@kernel
@pytest.mark.parametrize(("name", "counter_at"), [("chacha20", 0), ("xchacha20", 24), ("xchacha12", 24)])
def test_chacha_counter_runs_over(engine: AfAlgEngine, name: str, counter_at: int) -> None:
    """In parts as in one piece, where the kernel counts itself."""
    iv = bytearray(os.urandom(describe(engine, Type.SKCIPHER, name).iv_size))
    iv[counter_at : counter_at + 4] = (0xFFFF_FFFF - 100).to_bytes(4, "little")
    data = BIG[:100_000]
    with open_(engine, Type.SKCIPHER, name, bytes(range(32))) as transform:
        once(transform, ENCRYPT, b"first", bytes(iv))
        whole = once(transform, ENCRYPT, data, bytes(iv))
        assert (
            in_parts(transform, ENCRYPT, cut(data, [1, 64, 100 * 64, 101 * 64, 102 * 64, 99_999]), bytes(iv)) == whole
        )
        assert in_parts(transform, DECRYPT, [whole], bytes(iv)) == data


@kernel
@pytest.mark.parametrize("size", [0, *SIZES])
def test_gcm_sizes(engine: AfAlgEngine, size: int) -> None:
    key, iv = os.urandom(16), os.urandom(12)
    for assoclen in {0, 13, min(size, 70_001)}:
        total = min(size + assoclen, largest_whole() - 16)
        data = BIG[: max(total, assoclen)]
        with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
            sealed = AESGCM(key).encrypt(iv, data[assoclen:], data[:assoclen])
            assert once(transform, ENCRYPT, data, iv, assoclen) == sealed
            assert once(transform, DECRYPT, data[:assoclen] + sealed, iv, assoclen) == data[assoclen:]


@kernel
def test_gcm_of_the_largest_message(engine: AfAlgEngine) -> None:
    key, iv = os.urandom(16), os.urandom(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        data = BIG[: largest_whole()]
        assert once(transform, ENCRYPT, data, iv) == AESGCM(key).encrypt(iv, data, None)


@kernel
@pytest.mark.parametrize("size", SIZES)
def test_hash_sizes(engine: AfAlgEngine, size: int) -> None:
    data = BIG[:size]
    with open_(engine, Type.HASH, "sha256") as transform:
        expected = hashlib.sha256(data).digest()
        assert once(transform, DIGEST, data) == expected
        assert in_parts(transform, DIGEST, cut(data, [1, 70_000, 200_003])) == expected


### Empty messages


@kernel
def test_empty_messages(engine: AfAlgEngine) -> None:
    with open_(engine, Type.HASH, "sha256") as transform:
        assert once(transform, DIGEST, b"") == hashlib.sha256().digest()
        assert in_parts(transform, DIGEST, []) == hashlib.sha256().digest()
        assert in_parts(transform, DIGEST, [b"", b""]) == hashlib.sha256().digest()
    for name in ("xts(aes)", "cts(cbc(aes))"):
        with open_(engine, Type.SKCIPHER, name, os.urandom(32)) as transform:
            assert (
                "message of 0 bytes in blocks of 16" in wrong(lambda: once(transform, ENCRYPT, b"", bytes(16))).message
            )
            assert len(once(transform, ENCRYPT, bytes(16), bytes(16))) == 16
    for name in ("cbc(aes)", "ctr(aes)", "lrw(aes)"):
        with open_(engine, Type.SKCIPHER, name, os.urandom(32)) as transform:
            assert once(transform, ENCRYPT, b"", bytes(16)) == b""
            assert in_parts(transform, ENCRYPT, [b"", b""], bytes(16)) == b""
    key, iv = os.urandom(16), os.urandom(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        for aad in (b"", b"data"):
            sealed = AESGCM(key).encrypt(iv, b"", aad)
            assert once(transform, ENCRYPT, aad, iv, len(aad)) == sealed
            assert once(transform, DECRYPT, aad + sealed, iv, len(aad)) == b""
            with pytest.raises(BadTag):
                once(transform, DECRYPT, aad + sealed[:-1] + bytes([sealed[-1] ^ 1]), iv, len(aad))
