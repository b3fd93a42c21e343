"""What the engines of this machine serve."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptofs import algorithms
from cryptofs.algorithms import Type, look_up, parse_name
from cryptofs.engines.af_alg import AfAlgEngine, proc_crypto
from cryptofs.engines.base import Engine
from cryptofs.engines.openssl import OpensslEngine

HERE = Path(__file__).parent
TYPES = (Type.HASH, Type.SKCIPHER, Type.AEAD, Type.RNG)
CATALOGUE = sorted((type_, name) for type_, name in algorithms.names() if type_ in TYPES)

# a sample of what kernels have beyond the catalogue: they build any template over any cipher
BEYOND = {
    Type.HASH: "cbcmac(serpent) cmac(serpent) hmac(sha512) nhpoly1305 polyval siphash xcbc(twofish)",
    Type.SKCIPHER: """adiantum(xchacha12,serpent) cbc(anubis) cbc(aria) cbc(cast6) cbc(khazad) cbc(serpent) cbc(tea)
        cbc(twofish) cts(cbc(twofish)) ecb(arc4) essiv(cbc(serpent),sha256) hctr2(aes) lrw(camellia)
        rfc3686(ctr(twofish)) salsa20 xctr(twofish) xts(serpent) xts(sm4) xts(twofish)""",
    Type.AEAD: """authenc(cmac(aes),cbc(aes)) authenc(xcbc(aes),cbc(aes)) authencesn(hmac(sha256),cbc(aes)) ccm(sm4)
        ccm(twofish) echainiv(authenc(hmac(sha256),cbc(aes))) essiv(authenc(hmac(sha256),cbc(aes)),sha256) gcm(aria)
        gcm(twofish) krb5enc(hmac(sha256),cts(cbc(aes))) seqiv(rfc4106(gcm(aes)))""",
    Type.RNG: "ansi_cprng drbg_nopr_ctr_aes256 drbg_nopr_hmac_sha256 drbg_nopr_hmac_sha512 jitterentropy_rng",
}


@dataclass
class Survey:
    """kernel: its release, empty for the OpenSSL engine. names: `type name` of the catalogue, beyond: and others."""

    kernel: str
    names: list[str]
    beyond: list[str]

    @property
    def label(self) -> str:
        """The column of the table: `6.1` of `6.1.0-40-amd64`."""
        return ".".join(self.kernel.split(".")[:2]) if self.kernel else "openssl"

    @classmethod
    def load(cls, label: str) -> "Survey":
        return cls(**json.loads((HERE / f"{label}.json").read_text()))

    def save(self) -> Path:
        path = HERE / f"{self.label}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def _served(engine: Engine) -> list[str]:
    return [f"{type_} {name}" for type_, name in CATALOGUE if engine.describe(type_, name) is not None]


def survey_openssl() -> Survey:
    """What there is without AF_ALG."""
    return Survey("", _served(OpensslEngine()), [])


def survey_kernel() -> Survey:
    """What the running kernel serves, /proc/crypto included once all names have been asked for."""
    engine = AfAlgEngine()
    engine.warm_up()
    names = _served(engine)
    tried = {(type_, name) for type_, listed in BEYOND.items() for name in listed.split()}
    registered = {(entry.type, entry.name) for entry in proc_crypto.read() if not entry.name.startswith("__")}
    beyond = [
        f"{type_} {name}"
        for type_, name in sorted(tried | registered)
        if look_up(type_, name) is None and engine.describe(type_, name) is not None
    ]
    return Survey(os.uname().release, names, beyond)


def template(name: str) -> str:
    """What a name beyond the catalogue is listed under."""
    parsed = parse_name(name).template
    if parsed in ("ecb", "cbc", "ctr", "ofb", "cfb", "pcbc", "gcm", "ccm", "rfc4106", "rfc4309", "rfc4543"):
        return "modes"
    return "drbg" if parsed.startswith("drbg") else parsed
