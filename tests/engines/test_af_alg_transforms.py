"""Transforms of the AF_ALG engine: keys, clones, drivers, names without a reference, random numbers, refused names."""

import hmac
import os
from collections.abc import Callable
from contextlib import closing

import pytest
from helpers import af_alg_bench
from helpers.af_alg_bench import (
    BIG,
    CATALOGUE,
    DECRYPT,
    DIGEST,
    ENCRYPT,
    GENERATE,
    REFERENCED,
    authenc_key,
    cut,
    describe,
    in_parts,
    kernel,
    once,
    open_,
    part,
    reference_aead,
    reference_cipher,
    reference_hash,
)

from cryptofs.algorithms import ANY_KEY, NO_KEY, KeySizes, Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.errors import InvalidValue, NotSupported

kernel_engine, engine = af_alg_bench.kernel_engine, af_alg_bench.engine

### Keys, clones, drivers


@kernel
def test_clone(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.HASH, "hmac(sha256)", b"key") as transform,
        closing(transform.start(DIGEST, None, 0)) as first,
        closing(first.clone()) as untouched,
    ):
        part(first, b"abc", False)
        with closing(first.clone()) as second:
            part(first, b"def", False)
            assert part(second, b"xyz", True) == hmac.digest(b"key", b"abcxyz", "sha256")
        assert part(first, b"", True) == hmac.digest(b"key", b"abcdef", "sha256")
        assert part(untouched, b"later", True) == hmac.digest(b"key", b"later", "sha256")


@kernel
def test_only_hashes_are_cloned(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.SKCIPHER, "cbc(aes)", bytes(16)) as transform,
        closing(transform.start(ENCRYPT, bytes(16), 0)) as message,
        pytest.raises(NotSupported),
    ):
        message.clone()


@kernel
@pytest.mark.parametrize("wrong", [b"", bytes(15), bytes(17), bytes(33)])
def test_rekey(engine: AfAlgEngine, wrong: bytes) -> None:
    data, iv = bytes(range(48)), bytes(16)
    with open_(engine, Type.SKCIPHER, "cbc(aes)") as transform:
        for key in (b"0" * 16, b"1" * 32):
            transform.set_key(key)
            assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)
        with pytest.raises(InvalidValue, match=f"key of {len(wrong)} bytes: cbc.aes. takes 16 24 32 bytes"):
            transform.set_key(wrong)
        # as with every engine a refused key leaves the old one
        assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)


@kernel
def test_rekey_refused_by_the_kernel_alone(engine: AfAlgEngine) -> None:
    name, iv = "authenc(hmac(sha256),cbc(aes))", bytes(16)
    key = authenc_key(b"a" * 32, b"e" * 16)
    with open_(engine, Type.AEAD, name, key, 12) as transform:
        expected = reference_aead(name, key, iv, b"", bytes(32), 12)
        assert once(transform, ENCRYPT, bytes(32), iv) == expected
        with pytest.raises(InvalidValue, match="key of 60 bytes") as caught:
            transform.set_key(b"secret" * 10)
        assert "secret" not in str(caught.value)
        assert once(transform, ENCRYPT, bytes(32), iv) == expected
        transform.set_key(authenc_key(b"b" * 32, b"f" * 16))
        assert len(once(transform, ENCRYPT, bytes(32), iv)) == 44


@kernel
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda key: memoryview(bytearray(key))])
def test_kinds_of_buffers(engine: AfAlgEngine, kind: Callable[[bytes], bytes]) -> None:
    key, iv, data = os.urandom(16), os.urandom(16), os.urandom(64)
    with open_(engine, Type.SKCIPHER, "cbc(aes)", kind(key)) as transform:
        out = bytearray(64)
        assert transform.once(ENCRYPT, kind(iv), 0, kind(data), memoryview(out)) == 64
        assert out == reference_cipher("cbc(aes)", key, iv, data)


@kernel
def test_optional_key(engine: AfAlgEngine) -> None:
    with open_(engine, Type.HASH, "crc32c") as transform:
        assert once(transform, DIGEST, b"abc") == reference_hash("crc32c", b"", b"abc")
        transform.set_key(b"seed")
        assert once(transform, DIGEST, b"abc") == reference_hash("crc32c", b"seed", b"abc")


@kernel
def test_driver_on_demand(engine: AfAlgEngine) -> None:
    generic = describe(engine, Type.SKCIPHER, "cbc(aes)")
    by_driver = engine.describe(Type.SKCIPHER, generic.driver)
    assert by_driver is not None
    assert (by_driver.name, by_driver.driver, by_driver.chunk_size) == ("cbc(aes)", generic.driver, 16)
    key, iv, data = os.urandom(16), os.urandom(16), os.urandom(64)
    with open_(engine, Type.SKCIPHER, generic.driver, key) as transform:
        assert in_parts(transform, ENCRYPT, cut(data, [5]), iv) == reference_cipher("cbc(aes)", key, iv, data)
        transform.set_key(key)
        assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)
    sha256 = describe(engine, Type.HASH, "sha256")
    assert describe(engine, Type.HASH, sha256.driver).name == "sha256"


@kernel
def test_names_without_a_reference(engine: AfAlgEngine) -> None:
    """Whatever the kernel offers must work by what is found out of it: decrypting gives the text back."""
    more = [
        (Type.SKCIPHER, name)
        for name in ("adiantum(xchacha12,aes)", "lrw(aes)", "essiv(cbc(aes),sha256)", "hctr2(aes)", "arc4", "ecb(arc4)")
    ] + [(Type.AEAD, "authencesn(hmac(sha256),cbc(aes))"), (Type.HASH, "xcbc(aes)"), (Type.HASH, "rmd160")]
    tried = []
    for type_, name in [*engine.names(), *more]:
        description = engine.describe(type_, name)
        if description is None or (type_, name) in REFERENCED or type_ is Type.RNG or name in ("poly1305", "kw(aes)"):
            continue
        if name.startswith(("seqiv(", "echainiv(")):
            continue  # they make the IV themselves, into the output, and want it in the input to decrypt
        sizes = description.key_sizes
        if sizes == ANY_KEY and not name.startswith("hmac("):
            continue  # its keys are nothing that can be guessed: structures, or 1,072 bytes
        key = os.urandom(sizes.listed[-1] if sizes.listed else min(sizes.largest, 64)) if sizes.takes_key else None
        iv = b"\3" + os.urandom(description.iv_size - 1) if description.iv_size else None
        if "authenc(" in name:
            sizes_of = {"des3_ede": 24, "cbc(des)": 8, "rfc3686": 20, "cipher_null": 0}
            size = next((size for part, size in sizes_of.items() if part in name), 16)
            key = authenc_key(os.urandom(20), os.urandom(size))
        assoclen = 16 if name.startswith(("rfc", "essiv")) and type_ is Type.AEAD else 0
        assoc = BIG[:assoclen]
        with open_(engine, type_, name, key) as transform:
            tried.append(name)
            if type_ is Type.HASH:
                assert in_parts(transform, DIGEST, [b"abc", b"d" * 500]) == once(transform, DIGEST, b"abc" + b"d" * 500)
                continue
            sealed = once(transform, ENCRYPT, assoc + BIG[:4096], iv, assoclen)
            assert once(transform, DECRYPT, assoc + sealed, iv, assoclen) == BIG[:4096], name
            given_ = in_parts(transform, ENCRYPT, cut(assoc + BIG[:4096], [64, 100, 1000]), iv, assoclen)
            assert given_ == sealed, name
    print("\ntried:", *tried)
    assert tried


@kernel
def test_probed_key_sizes(engine: AfAlgEngine) -> None:
    expected = {
        (Type.HASH, "rmd160"): NO_KEY,
        (Type.HASH, "hmac(rmd160)"): ANY_KEY,
        (Type.HASH, "cmac(twofish)"): KeySizes((16, 24, 32)),
        (Type.SKCIPHER, "ecb(cipher_null)"): NO_KEY,
        (Type.SKCIPHER, "adiantum(xchacha12,serpent)"): KeySizes((32,)),
        (Type.SKCIPHER, "lrw(camellia)"): KeySizes((32, 40, 48)),
        (Type.SKCIPHER, "cbc(twofish)"): KeySizes((16, 24, 32)),
        (Type.SKCIPHER, "ofb(cast6)"): KeySizes((16, 20, 24, 28, 32)),
        (Type.AEAD, "gcm(twofish)"): KeySizes((16, 24, 32)),
    }
    offered = {key: engine.describe(*key) for key in expected}
    found = {key: found.key_sizes for key, found in offered.items() if found is not None}
    assert found == {key: expected[key] for key in found}
    # the others are in every kernel of docs/kernels.md
    assert expected.keys() - found.keys() <= {(Type.HASH, "cmac(twofish)"), (Type.SKCIPHER, "ofb(cast6)")}


@kernel
def test_names(engine: AfAlgEngine) -> None:
    listed = list(engine.names())
    assert len(listed) == len(set(listed))
    assert set(CATALOGUE) <= set(listed)
    assert not any(name.startswith("__") for _, name in listed)


### Random numbers


@kernel
def test_random(engine: AfAlgEngine) -> None:
    with open_(engine, Type.RNG, "stdrng") as transform:
        for size in (0, 1, 127, 128, 129, 10_000):
            out = bytearray(size)
            assert transform.once(GENERATE, None, 0, b"", memoryview(out)) == size
            assert size < 32 or len(set(out)) > 16
        transform.set_key(b"a seed" * 10)
        out = bytearray(64)
        with closing(transform.start(GENERATE, None, 0)) as message:
            assert message.update(b"", True, memoryview(out)) == 64
        assert any(out)


### Names that the kernel refuses: at the end, as a cryptd(…) that was asked for stays, and serves cbc(aes) from then on


@kernel
@pytest.mark.parametrize(
    "name", ["sha256", "cbc(cbc(aes))", "cbc(aes", "cbc()", "xts(ecb(aes))", "cryptd(cbc(aes))", "aes", "x" * 63]
)
def test_names_that_the_kernel_refuses(engine: AfAlgEngine, name: str) -> None:
    assert engine.describe(Type.SKCIPHER, name) is None
