"""Other ways to use a key in another process: alternatives to a device."""

import base64
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .mounts import CannotMeasure
from .turns import Call

_SOFTHSM = ("softhsm/libsofthsm2.so", "pkcs11/libsofthsm2.so")
_P11_CLIENT = ("pkcs11/p11-kit-client.so",)
_PIN, _LABEL = "benchmark", "benchmark"
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14


@dataclass(frozen=True)
class Peer:
    """A peer's call, and the process that answers it."""

    call: Call
    pid: int


Starting = contextlib.AbstractContextManager[Peer]
"""A peer that starts on entering."""


def _library(names: tuple[str, ...], what: str) -> Path:
    for directory in (*Path("/usr/lib").glob("*-linux-gnu*"), Path("/usr/lib64"), Path("/usr/lib")):
        for name in names:
            if (directory / name).exists():
                return directory / name
    raise CannotMeasure(f"no {what}")


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CannotMeasure(f"no {name} (package {package})")
    return path


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30)
    except subprocess.SubprocessError as error:
        raise CannotMeasure(f"{command[0]}: {error}") from None


@contextlib.contextmanager
def _server(command: list[str], environment: dict[str, str], endpoint: Path) -> Iterator[int]:
    """A server in the foreground, from the moment its socket appears."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + 15
        while not endpoint.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotMeasure(f"{command[0]} does not start")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


# HMAC


@contextlib.contextmanager
def pkcs11_hmac(key: bytes, size: int) -> Iterator[Peer]:
    """HMAC-SHA-256 of `size` bytes by SoftHSM in p11-kit's server, called as any program calls it, through PKCS #11.

    Errors: CannotMeasure if p11-kit, SoftHSM or python-pkcs11 is missing.
    """
    server = _program("p11-kit", "p11-kit")
    utility = _program("softhsm2-util", "softhsm2")
    module = _library(_SOFTHSM, "SoftHSM (package softhsm2)")
    client = _library(_P11_CLIENT, "p11-kit-client.so (package p11-kit-modules)")
    try:
        import pkcs11
    except ImportError:
        raise CannotMeasure("no python-pkcs11 (the extra pkcs11)") from None
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as name:
        directory = Path(name)
        (directory / "tokens").mkdir()
        (directory / "conf").write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\n")
        environment = {**os.environ, "SOFTHSM2_CONF": str(directory / "conf")}
        token = ["--init-token", "--free", "--label", _LABEL, "--pin", _PIN, "--so-pin", _PIN]
        _run([utility, *token], environment)
        endpoint = directory / "socket"
        command = [server, "server", "--foreground", "--name", str(endpoint), "--provider", str(module)]
        with _server([*command, f"pkcs11:token={_LABEL}"], environment, endpoint) as pid:
            # The client library looks it up when it is loaded.
            os.environ["P11_KIT_SERVER_ADDRESS"] = f"unix:path={endpoint}"
            try:
                library = pkcs11.lib(str(client))
                with library.get_token(token_label=_LABEL).open(rw=True, user_pin=_PIN) as session:
                    yield Peer(_hmac_call(pkcs11, session, key, size), pid)
            except pkcs11.PKCS11Error as error:
                raise CannotMeasure(f"p11-kit server: {type(error).__name__}") from None
            finally:
                # Otherwise it keeps its connection to the server.
                pkcs11.unload(str(client))
                del os.environ["P11_KIT_SERVER_ADDRESS"]


def _hmac_call(pkcs11: Any, session: Any, key: bytes, size: int) -> Call:
    secret = session.create_object(
        {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.GENERIC_SECRET,
            pkcs11.Attribute.VALUE: key,
            pkcs11.Attribute.SIGN: True,
        }
    )
    data, mechanism = bytes(size), pkcs11.Mechanism.SHA256_HMAC

    def call() -> bytes:
        code: bytes = secret.sign(data, mechanism=mechanism)
        return code

    return call


# Signatures


@contextlib.contextmanager
def ssh_agent_sign(private: Ed25519PrivateKey, size: int) -> Iterator[Peer]:
    """An Ed25519 signature of `size` bytes by ssh-agent, over its socket. Errors: CannotMeasure without OpenSSH."""
    agent, add = _program("ssh-agent", "openssh-client"), _program("ssh-add", "openssh-client")
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as name:
        directory = Path(name)
        endpoint, file = directory / "socket", directory / "key"
        file.touch(0o600)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        file.write_bytes(private.private_bytes(*form))
        environment = {**os.environ, "SSH_AUTH_SOCK": str(endpoint)}
        with _server([agent, "-D", "-a", str(endpoint)], environment, endpoint) as pid:
            _run([add, "-q", str(file)], environment)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(endpoint))
                yield Peer(_sign_call(connection, private, size), pid)


def _sign_call(connection: socket.socket, private: Ed25519PrivateKey, size: int) -> Call:
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    blob = base64.b64decode(public.split()[1])
    body = bytes([_SIGN_REQUEST]) + _text(blob) + _text(bytes(size)) + struct.pack(">I", 0)
    request = _text(body)

    def call() -> bytes:
        connection.sendall(request)
        (left,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
        return connection.recv(left, socket.MSG_WAITALL)

    answer = call()
    if answer[0] != _SIGN_RESPONSE:
        raise CannotMeasure(f"ssh-agent answers {answer[0]} to a request to sign")
    private.public_key().verify(answer[-64:], bytes(size))
    return call


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
