"""The PKCS#11 face, with programs that load p11-kit's client (pkcs11-tool, OpenSSL, ssh), and with hostile messages."""

import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from helpers.daemons import Daemon
from helpers.signing import KEYS, openssh, signing_mount
from helpers.waiting import PATIENCE
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.faces.keys import DeviceKeys
from cryptofs.faces.pkcs11.calls import Calls
from cryptofs.faces.pkcs11.wire import Malformed, Reader, build

pytestmark = pytest.mark.mount

MODULE = next(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"), None)
needs_module = pytest.mark.skipif(MODULE is None, reason="NOT RUN: no p11-kit-client.so (package p11-kit-modules)")
HASHES = {"SHA256": hashes.SHA256(), "SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}
HANDSHAKE = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Skips a test where a program is missing."""
    return pytest.mark.skipif(not shutil.which(program), reason=f"NOT RUN: no {program} (package {package})")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that sign and decrypt."""
    with signing_mount(tmp_path_factory.mktemp("signing")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def served(mount: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a server; its log is beside it."""
    directory = tmp_path_factory.mktemp("pkcs11 server")
    path = directory / "socket"
    line = [sys.executable, "-m", "cryptofs", "pkcs11-server", "--mount", str(mount), "-D", "-v", "-a", str(path)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    with process:
        assert process.stdout is not None
        address = f"P11_KIT_SERVER_ADDRESS=unix:path={str(path).replace(' ', '%20')}"
        assert process.stdout.readline() == f"{address}; export P11_KIT_SERVER_ADDRESS;\n".encode()
        yield path
        process.send_signal(signal.SIGTERM)
        assert process.wait(30 * PATIENCE) == 0
    assert "Traceback" not in (directory / "log").read_text()


def tool(served: Path, *command: object, status: int = 0, **variables: str) -> str:
    """What a program prints that uses the token."""
    address = f"unix:path={str(served).replace(' ', '%20')}"
    done = subprocess.run(
        [str(each) for each in command],
        env={**os.environ, "P11_KIT_SERVER_ADDRESS": address, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=60 * PATIENCE,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def identity(key: str) -> str:
    """The id of a key's objects, as pkcs11-tool takes it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(KEYS[key].public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()[:16]


def verify(key: object, signature: bytes, message: bytes, digest: str) -> None:
    """Check a signature as PKCS#11 has it."""
    if isinstance(key, rsa.RSAPrivateKey):
        key.public_key().verify(signature, message, padding.PKCS1v15(), HASHES[digest])
        return
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    half = len(signature) // 2
    pair = (int.from_bytes(each, "big") for each in (signature[:half], signature[half:]))
    key.public_key().verify(encode_dss_signature(*pair), message, ec.ECDSA(HASHES[digest]))


# pkcs11-tool of OpenSC


@needs_module
@needs("pkcs11-tool", "opensc")
def test_the_objects(served: Path) -> None:
    """A private and a public key for each pair; the names of their devices are the labels."""
    listed = tool(served, "pkcs11-tool", "--module", MODULE, "-O")
    assert listed.count("Private Key Object") == listed.count("Public Key Object") == 6
    for name in ("p256", "p384", "only-256", "decrypter"):
        assert f"label:      {name}\n" in listed
    assert "sensitive" in listed
    assert "never extractable" in listed
    assert "token label        : cryptofs" in tool(served, "pkcs11-tool", "--module", MODULE, "-L")


@needs_module
@needs("pkcs11-tool", "opensc")
@pytest.mark.parametrize(
    ("key", "mechanism", "digest"),
    [
        ("rsa", "SHA256-RSA-PKCS", "SHA256"),
        ("rsa", "SHA512-RSA-PKCS", "SHA512"),
        ("rsa-one", "SHA256-RSA-PKCS", "SHA256"),
        ("rsa-raw", "SHA384-RSA-PKCS", "SHA384"),
        ("p256", "ECDSA", "SHA256"),
        ("p384", "ECDSA", "SHA384"),
        ("p521", "ECDSA", "SHA512"),
    ],
)
def test_signatures(served: Path, tmp_path: Path, key: str, mechanism: str, digest: str) -> None:
    """Of a message of any length, or of a digest; another library verifies them. Any PIN is taken."""
    message = os.urandom(200_000)
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(hashlib.new(digest, message).digest() if mechanism == "ECDSA" else message)
    line = ("pkcs11-tool", "--module", MODULE, "--login", "--pin", "1234", "--sign", "--id", identity(key))
    tool(served, *line, "-m", mechanism, "-i", data, "-o", signature)
    verify(KEYS[key], signature.read_bytes(), message, digest)


@needs_module
@needs("pkcs11-tool", "opensc")
def test_decrypt(served: Path, tmp_path: Path) -> None:
    """What another library encrypted with PKCS #1 padding."""
    key = KEYS["rsa"]
    assert isinstance(key, rsa.RSAPrivateKey)
    sealed, plain = tmp_path / "sealed", tmp_path / "plain"
    sealed.write_bytes(key.public_key().encrypt(b"a secret", padding.PKCS1v15()))
    line = ("pkcs11-tool", "--module", MODULE, "--decrypt", "--id", identity("rsa"), "-m", "RSA-PKCS")
    tool(served, *line, "-i", sealed, "-o", plain)
    assert plain.read_bytes() == b"a secret"


@needs_module
@needs("pkcs11-tool", "opensc")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sign", "--id", identity("rsa-one"), "-m", "SHA512-RSA-PKCS"), "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        (("--decrypt", "--id", identity("rsa-one"), "-m", "RSA-PKCS"), "CKR_KEY_FUNCTION_NOT_PERMITTED"),
        (("--sign", "--id", identity("p256"), "-m", "SHA256-RSA-PKCS"), "CKR_KEY_TYPE_INCONSISTENT"),
        (
            ("--sign", "--id", identity("rsa"), "-m", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256"),
            "CKR_MECHANISM_INVALID",
        ),
        (("--decrypt", "--id", identity("rsa"), "-m", "RSA-PKCS-OAEP"), "CKR_MECHANISM_INVALID"),
        (("--keypairgen", "--key-type", "rsa:2048"), "CKR_FUNCTION_NOT_SUPPORTED|Generate RSA mechanism"),
    ],
)
def test_what_no_device_does(served: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Refused with PKCS#11's reason."""
    (tmp_path / "data").write_bytes(bytes(32))
    line = ("pkcs11-tool", "--module", MODULE, *arguments, "-i", tmp_path / "data", "-o", tmp_path / "out")
    printed = tool(served, *line, status=1)
    assert any(each in printed for each in said.split("|")), printed


# OpenSSL by libp11's engine, and ssh


@needs_module
@needs("openssl", "openssl")
@pytest.mark.parametrize(("key", "label"), [("rsa", "decrypter"), ("p256", "p256")])
def test_openssl(served: Path, tmp_path: Path, key: str, label: str) -> None:
    """OpenSSL signs a certificate request by libp11's engine, and verifies it."""
    if not list(Path("/usr/lib").glob("*/engines-3/pkcs11.so")):
        pytest.skip("NOT RUN: no engine pkcs11 (package libengine-pkcs11-openssl)")
    config = tmp_path / "openssl.cnf"
    config.write_text(
        "openssl_conf = init\n[init]\nengines = engines\n[engines]\npkcs11 = pkcs11\n"
        f"[pkcs11]\nengine_id = pkcs11\nMODULE_PATH = {MODULE}\ninit = 1\n[req]\ndistinguished_name = name\n[name]\n"
    )
    request = tmp_path / "request.pem"
    line = ("openssl", "req", "-new", "-engine", "pkcs11", "-keyform", "engine", "-subj", "/CN=device")
    tool(served, *line, "-key", f"pkcs11:token=cryptofs;object={label}", "-out", request, OPENSSL_CONF=str(config))
    assert "verify OK" in tool(served, "openssl", "req", "-in", request, "-noout", "-verify")
    public = (
        KEYS[key].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert public.decode() in tool(served, "openssl", "req", "-in", request, "-noout", "-pubkey")


@needs_module
@needs("openssl", "openssl")
def test_openssl_provider(served: Path, tmp_path: Path) -> None:
    """OpenSSL signs certificate requests and decrypts by the provider of OpenSSL 3, without an engine."""
    provider = next(Path("/usr/lib").glob("*/ossl-modules/pkcs11.so"), None)
    if provider is None:
        pytest.skip("NOT RUN: no provider pkcs11 (package pkcs11-provider, since Debian 13)")
    config = tmp_path / "openssl.cnf"
    config.write_text(
        "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = base\npkcs11 = token\n"
        f"[base]\nactivate = 1\n[token]\nmodule = {provider}\npkcs11-module-path = {MODULE}\nactivate = 1\n"
        "[req]\ndistinguished_name = name\n[name]\n"
    )
    request, sealed, plain = tmp_path / "request.pem", tmp_path / "sealed", tmp_path / "plain"
    for label in ("decrypter", "only-256", "p256", "p384"):
        key = f"pkcs11:token=cryptofs;object={label};type=private"
        line = ("openssl", "req", "-new", "-sha256", "-subj", "/CN=device", "-key", key, "-out", request)
        tool(served, *line, OPENSSL_CONF=str(config))
        assert "verify OK" in tool(served, "openssl", "req", "-in", request, "-noout", "-verify")
    rsa_key = KEYS["rsa"]
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    sealed.write_bytes(rsa_key.public_key().encrypt(b"a secret", padding.PKCS1v15()))
    key = "pkcs11:token=cryptofs;object=decrypter;type=private"
    line = ("openssl", "pkeyutl", "-decrypt", "-inkey", key, "-in", sealed, "-out", plain)
    tool(served, *line, OPENSSL_CONF=str(config))
    assert plain.read_bytes() == b"a secret"


@needs_module
@needs("ssh-keygen", "openssh-client")
def test_ssh(served: Path, tmp_path: Path) -> None:
    """ssh finds the keys, and ssh-agent signs with them by p11-kit's client."""
    listed = tool(served, "ssh-keygen", "-D", MODULE)
    for key in ("rsa", "rsa-one", "p256", "p384", "p521"):
        assert openssh(KEYS[key]) in listed
    for key in ("rsa", "p256"):
        (tmp_path / f"{key}.pub").write_text(openssh(KEYS[key]) + "\n")
    (tmp_path / "ask").write_text("#!/bin/sh\necho\n")
    (tmp_path / "ask").chmod(0o700)
    (tmp_path / "data").write_bytes(b"data")
    script = f"ssh-add -s {MODULE} && ssh-add -T p256.pub && ssh-keygen -Y sign -n file -f rsa.pub data"
    asking = {"SSH_ASKPASS": str(tmp_path / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
    tool(served, "ssh-agent", "-P", "/usr/lib*/*", "sh", "-c", f"cd {tmp_path} && {script}", **asking)
    (tmp_path / "signers").write_text(f"me {openssh(KEYS['rsa'])}\n")
    check = f"cd {tmp_path} && ssh-keygen -Y verify -f signers -I me -n file -s data.sig < data"
    assert "Good" in tool(served, "sh", "-c", check)


# Messages


def call(number: int, signature: str, values: bytes = b"") -> bytes:
    """A message."""
    return struct.pack(">II", number, len(signature)) + signature.encode() + values


GREETING = call(1, "ayyay", struct.pack(">BI", 1, len(HANDSHAKE)) + HANDSHAKE + bytes(6))
OPEN = call(10, "uu", struct.pack(">QQ", 0, 4))


def greeted(mount: Path) -> Calls:
    """A connection that has begun, with one session."""
    calls = Calls(DeviceKeys(mount))
    assert calls.answer(GREETING) == build(1, "", [])
    assert calls.answer(OPEN) == build(10, "u", [1])
    return calls


@pytest.mark.parametrize(
    "message",
    [
        OPEN,
        call(1, "ayyay", struct.pack(">BI", 1, 3) + b"abc" + bytes(6)),
        GREETING[:-1],
        GREETING + b"\0",
        call(10, "u", bytes(16)),
        b"",
        b"\0\0\0\1\xff\xff\xff\xff",
    ],
)
def test_malformed_messages(mount: Path, message: bytes) -> None:
    """The connection ends."""
    with pytest.raises(Malformed):
        Calls(DeviceKeys(mount)).answer(message)


def error(answer: bytes) -> int:
    """The number in an answer that is an error."""
    reader = Reader(answer)
    assert reader.call() == (0, "u")
    return int(reader.values("u")[0])


def test_refused_calls(mount: Path) -> None:
    """Handles that do not exist, operations that were not begun, calls that are not served: PKCS#11's numbers."""
    calls = greeted(mount)
    number = struct.Struct(">Q").pack
    assert error(calls.answer(call(99, "u", number(1)))) == 0x54
    assert error(calls.answer(call(5, "u", number(7)))) == 0x03
    assert error(calls.answer(call(11, "u", number(7)))) == 0xB3
    assert error(calls.answer(call(27, "ufu", number(1) + bytes(4)))) == 0x91
    assert error(calls.answer(call(43, "uayfy", number(1) + bytes(9)))) == 0x91
    assert error(calls.answer(call(42, "uMu", number(1) + struct.pack(">II", 1, 0) + number(9)))) == 0x60
    for _ in range(255):
        calls.answer(OPEN)
    assert error(calls.answer(OPEN)) == 0xB1


@pytest.mark.parametrize(
    ("mechanism", "number"),
    [
        # p11-kit until 0.25.5, since then, and with a parameter that nobody needs
        (struct.pack(">II", 1, 0xFFFFFFFF), 0x60),
        (struct.pack(">II", 1, 0), 0x60),
        (struct.pack(">I", 1), 0x60),
        (struct.pack(">IB", 1, 0), 0x60),
        # CKM_RSA_PKCS_PSS, CKM_AES_GCM and CKM_ECDH1_DERIVE, in both forms
        (struct.pack(">IQQQ", 0xD, 0x250, 2, 32), 0x70),
        (struct.pack(">IBQQQ", 0xD, 1, 0x250, 2, 32), 0x70),
        (struct.pack(">II12sQIQ", 0x1087, 12, bytes(12), 96, 0, 128), 0x70),
        (struct.pack(">IQII65s", 0x1050, 1, 0xFFFFFFFF, 65, bytes(65)), 0x70),
    ],
)
@pytest.mark.parametrize("begin", [33, 42])
def test_mechanisms(mount: Path, begin: int, mechanism: bytes, number: int) -> None:
    """Every form that p11-kit gives to a mechanism is read: what is refused is the key, or the mechanism."""
    calls = greeted(mount)
    assert error(calls.answer(call(begin, "uMu", struct.pack(">Q", 1) + mechanism + struct.pack(">Q", 999)))) == number
    assert calls.answer(call(18, "uuay", struct.pack(">QQBI", 1, 1, 0, 0))) == build(18, "", [])


_NUMBERS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 18, 19, 24, 26, 27, 28, 33, 34, 42, 43, 44, 45])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_NUMBERS, st.binary(max_size=40)), max_size=5))
def test_any_values(messages: list[tuple[int, bytes]]) -> None:
    """Every message has an answer, or ends the connection; here without a mount."""
    from cryptofs.faces.pkcs11.calls import _CALLS

    calls = Calls(DeviceKeys(Path("/nowhere")))
    calls.answer(GREETING)
    for number, values in messages:
        try:
            answer = calls.answer(call(number, _CALLS[number].request, values))
        except Malformed:
            return
        assert Reader(answer).call() in ((0, "u"), (number, _CALLS[number].response))


def test_hostile_clients(served: Path) -> None:
    """One that stops within a message holds nobody up; one that announces too much is cut off."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as large,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as good,
    ):
        for each in (slow, large, good):
            each.settimeout(20 * PATIENCE)
            each.connect(str(served))
            each.sendall(b"\2")
            assert each.recv(10) == b"\0"
        slow.sendall(b"\0\0\0\1\0\0")
        large.sendall(struct.pack(">III", 1, 0, (1 << 20) + 1))
        assert large.recv(10) == b""
        good.sendall(struct.pack(">III", 7, 0, len(GREETING)) + GREETING)
        assert good.recv(100) == struct.pack(">III", 7, 0, 8) + build(1, "", [])
