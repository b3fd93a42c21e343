"""Descriptions that AF_ALG refuses: the next engine's turn, or an error; these need no AF_ALG."""

import errno
import socket

import pytest

from cryptofs.algorithms import Description, Facts, Type
from cryptofs.engines.af_alg import MISS_SECONDS, AfAlgEngine, KernelDescription, sockets
from cryptofs.errors import CryptofsError, EngineFault, NotOffered, OutOfResources


class RefusedSocket:
    """A socket whose bind fails; it counts the closes."""

    closed = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def bind(self, address: object) -> None:
        raise OSError(self.number, "refused")

    def close(self) -> None:
        RefusedSocket.closed += 1


def working_engine(monkeypatch: pytest.MonkeyPatch) -> AfAlgEngine:
    with monkeypatch.context() as patch:
        patch.setattr("cryptofs.engines.af_alg._available", lambda: True)
        return AfAlgEngine()


@pytest.mark.parametrize("number", sorted(sockets.NOT_OFFERED))
def test_refusal_means_the_next_engine(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse() -> socket.socket:
        raise OSError(number, "refused")

    engine = working_engine(monkeypatch)
    monkeypatch.setattr(sockets, "open_socket", refuse)
    assert engine.describe(Type.SKCIPHER, "cbc(aes)") is None
    dead = AfAlgEngine()
    assert not dead.available
    assert dead.describe(Type.SKCIPHER, "cbc(aes)") is None
    assert list(dead.names()) == []
    dead.warm_up()

    engine = working_engine(monkeypatch)
    before = RefusedSocket.closed
    monkeypatch.setattr(sockets, "open_socket", lambda: RefusedSocket(number))
    assert engine.describe(Type.SKCIPHER, "cbc(aes)") is None
    assert RefusedSocket.closed == before + 1
    with pytest.raises(NotOffered):
        engine.open(Description.of(Type.SKCIPHER, "cbc(aes)", "af_alg", "x", Facts(16)), None)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EMFILE, OutOfResources),
        (errno.ENFILE, OutOfResources),
        (errno.ENOMEM, OutOfResources),
        (errno.EIO, EngineFault),
    ],
)
def test_other_errors_are_errors(monkeypatch: pytest.MonkeyPatch, number: int, kind: type[CryptofsError]) -> None:
    def fail() -> socket.socket:
        raise OSError(number, "fails")

    engine = working_engine(monkeypatch)
    monkeypatch.setattr(sockets, "open_socket", fail)
    with pytest.raises(kind, match=errno.errorcode[number]):
        engine.describe(Type.SKCIPHER, "cbc(aes)")
    with pytest.raises(kind):
        AfAlgEngine()


def test_refusals_are_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = working_engine(monkeypatch)
    now = 100.0
    asked: list[str] = []
    monkeypatch.setattr("cryptofs.engines.af_alg.time.monotonic", lambda: now)
    monkeypatch.setattr(sockets, "bind", lambda type_, name: asked.append(name))
    for _ in range(3):
        assert engine.describe(Type.HASH, "nothing") is None
    assert asked == ["nothing"]
    now += MISS_SECONDS + 1
    assert engine.describe(Type.HASH, "nothing") is None
    assert asked == ["nothing", "nothing"]
    for number in range(3000):
        engine.describe(Type.HASH, f"nothing{number}")
    assert len(engine._refused) == 1024


def test_random_names_displace_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine knows what it was asked once, however many names that nobody has are asked in between."""
    engine = working_engine(monkeypatch)
    known = KernelDescription.of(Type.HASH, "sha256", "af_alg", "sha256-generic", Facts())
    monkeypatch.setattr(engine, "_ask", lambda type_, name: known if name == "sha256" else None)
    assert engine.is_slow(Type.HASH, "nothing0")
    assert not engine.is_slow(Type.HASH, "sha256"), "it is published: a configure is done at once"
    assert engine.describe(Type.HASH, "sha256") is known
    for number in range(3000):
        assert engine.describe(Type.HASH, f"nothing{number}") is None
    assert not engine.is_slow(Type.HASH, "sha256")
    assert not engine.is_slow(Type.HASH, "nothing2999")
    assert engine.is_slow(Type.HASH, "nothing3000")
    assert not engine.is_slow(Type.COMPRESSION, "nothing3000")


def test_deeply_nested_names_are_not_asked_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each template may cost a run of modprobe."""
    engine = working_engine(monkeypatch)
    asked: list[str] = []
    monkeypatch.setattr(sockets, "bind", lambda type_, name: asked.append(name))
    deepest = "essiv(authenc(hmac(sha256),cbc(aes)),sha256)"
    for name in ("cbc(" * 12 + "aes" + ")" * 12, "a(" + "b," * 20 + "c)", deepest):
        assert engine.describe(Type.AEAD, name) is None
        assert not engine.is_slow(Type.AEAD, name)
    assert asked == [deepest]


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "caf\u00e9", "a\nb"])
def test_impossible_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert working_engine(monkeypatch).describe(Type.HASH, name) is None
