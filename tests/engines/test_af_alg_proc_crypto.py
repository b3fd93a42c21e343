"""What the AF_ALG engine reads out of /proc/crypto, of any form, and without it."""

import os
from pathlib import Path

import pytest
from helpers import af_alg_bench
from helpers.af_alg_bench import ENCRYPT, kernel, once, open_, reference_cipher

from cryptofs.algorithms import Type
from cryptofs.engines.af_alg import AfAlgEngine, proc_crypto

kernel_engine, engine = af_alg_bench.kernel_engine, af_alg_bench.engine

SAMPLE = """\
name         : cbc(aes)
driver       : cbc-aes-generic
module       : kernel
priority     : 100
refcnt       : 1
selftest     : passed
internal     : no
type         : skcipher
async        : no
blocksize    : 16
min keysize  : 16
max keysize  : 32
ivsize       : 16
chunksize    : 16
walksize     : 16

name         : cbc(aes)
driver       : cbc-aes-fast
module       : aesni_intel
priority     : 400
selftest     : passed
internal     : no
type         : skcipher
blocksize    : 16
min keysize  : 16
max keysize  : 32
ivsize       : 16

name         : cbc(aes)
driver       : __cbc-aes-hidden
priority     : 500
selftest     : passed
internal     : yes
type         : skcipher
blocksize    : 16

name         : cbc(aes)
driver       : cbc-aes-broken
priority     : 900
selftest     : failed
internal     : no
type         : skcipher

name         : gcm(aes)
driver       : generic-gcm-aes
priority     : 400
selftest     : passed
internal     : no
type         : aead
blocksize    : 1
ivsize       : 12
maxauthsize  : 16
geniv        : <none>

name         : sha256
driver       : sha256-lib
priority     : 300
selftest     : passed
internal     : no
type         : shash
blocksize    : 64
digestsize   : 32

name         : sha256
driver       : sha256-async
priority     : 100
type         : ahash
blocksize    : 64
digestsize   : 32

name         : arc4
driver       : arc4-generic
priority     : 100
type         : lskcipher
blocksize    : 1
min keysize  : 1
max keysize  : 256
ivsize       : 0

name         : stdrng
driver       : drbg_nopr_hmac_sha512
priority     : 201
type         : rng
seedsize     : 0

name         : rsa
driver       : rsa-generic
type         : akcipher

name         : aes
driver       : aes-lib
type         : cipher
blocksize    : 16
"""


def test_proc_crypto_sample() -> None:
    entries = proc_crypto.parse(SAMPLE)
    assert [entry.driver for entry in entries] == [
        "cbc-aes-generic",
        "cbc-aes-fast",
        "generic-gcm-aes",
        "sha256-lib",
        "sha256-async",
        "arc4-generic",
        "drbg_nopr_hmac_sha512",
    ]
    assert entries[0] == proc_crypto.Entry(
        Type.SKCIPHER, "cbc(aes)", "cbc-aes-generic", 100, block_size=16, iv_size=16, min_key=16, max_key=32
    )

    def found(type_: Type, name: str) -> str | None:
        entry = proc_crypto.find(entries, type_, name)
        return entry and entry.driver

    assert found(Type.SKCIPHER, "cbc(aes)") == "cbc-aes-fast"
    assert found(Type.SKCIPHER, "cbc-aes-generic") == "cbc-aes-generic"
    assert found(Type.HASH, "sha256") == "sha256-lib"
    assert found(Type.AEAD, "cbc(aes)") is None
    assert found(Type.SKCIPHER, "__cbc-aes-hidden") is None
    assert found(Type.RNG, "stdrng") == "drbg_nopr_hmac_sha512"
    gcm = proc_crypto.find(entries, Type.AEAD, "gcm(aes)")
    assert gcm is not None
    assert (gcm.iv_size, gcm.max_authsize, gcm.block_size) == (12, 16, 1)


@pytest.mark.parametrize("text", ["", "\n\n\n", "nonsense", "name : x\ntype : shash\nblocksize : -1\npriority : many"])
def test_proc_crypto_of_any_form(text: str) -> None:
    for entry in proc_crypto.parse(text):
        assert (entry.name, entry.block_size, entry.priority) == ("x", 1, 0)


def test_proc_crypto_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proc_crypto, "PATH", tmp_path / "none")
    assert proc_crypto.read() == []


@kernel
def test_without_proc_crypto(engine: AfAlgEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the catalogue knows still works; of anything else the sizes are unknown, so it is not offered."""
    monkeypatch.setattr(proc_crypto, "PATH", tmp_path / "none")
    blind = AfAlgEngine()
    assert blind.describe(Type.SKCIPHER, "cbc(twofish)") is None
    key, iv = os.urandom(16), os.urandom(16)
    with open_(blind, Type.SKCIPHER, "cbc(aes)", key) as transform:
        assert transform.description.chunk_size == 16
        assert once(transform, ENCRYPT, bytes(32), iv) == reference_cipher("cbc(aes)", key, iv, bytes(32))
