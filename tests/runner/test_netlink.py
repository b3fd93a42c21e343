"""Netlink's crypto family: the sizes that libkcapi asks for, and errors as netlink answers them."""

import errno
import struct
from collections.abc import Iterator

import pytest

from cryptofs.errors import CryptofsError
from cryptofs.runner.backend import LocalBackend
from cryptofs.runner.endpoint import MSG_PEEK, MSG_TRUNC, MustWait
from cryptofs.runner.netlink import CryptoNetlink

HEADER = struct.Struct("=IHHII")
GET, ERROR, ACKNOWLEDGE = 0x13, 2, 4
LARGE = 1 << 16


@pytest.fixture
def netlink() -> Iterator[CryptoNetlink]:
    """A socket of the family."""
    endpoint = CryptoNetlink(LocalBackend(("openssl",)))
    yield endpoint
    endpoint.close()


def request(name: str = "", driver: str = "", kind: int = GET, flags: int = 0) -> bytes:
    """A request for one algorithm."""
    body = struct.pack("=64s64s80x", name.encode(), driver.encode())
    return HEADER.pack(HEADER.size + len(body), kind, flags, 7, 0) + body


def answer(netlink: CryptoNetlink) -> tuple[int, bytes]:
    """The type and body of the next answer."""
    data = bytes(netlink.receive(LARGE, 0).data)
    size, kind, _, sequence, port = HEADER.unpack_from(data)
    assert (size, sequence, port) == (len(data), 7, 1234)
    return kind, data[HEADER.size :]


def attributes(body: bytes) -> dict[int, bytes]:
    """Those behind struct crypto_user_alg."""
    found, at = {}, 208
    while at < len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        found[kind] = body[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


@pytest.mark.parametrize(
    ("name", "kind", "text", "sizes"),
    [
        ("sha256", 3, b"shash", (64, 32)),
        ("cbc(aes)", 4, b"skcipher", (16, 16, 32, 16)),
        ("gcm(aes)", 5, b"aead", (1, 16, 12)),
        ("stdrng", 7, b"rng", (0,)),
    ],
)
def test_sizes(netlink: CryptoNetlink, name: str, kind: int, text: bytes, sizes: tuple[int, ...]) -> None:
    """By the generic name, and by the driver's."""
    assert netlink.send(request(name), b"", 0, 1234) == len(request(name))
    number, body = answer(netlink)
    assert number == GET
    assert body.startswith(name.encode() + b"\0")
    driver = body[64:128].rstrip(b"\0").decode()
    found = attributes(body)
    assert found[1] == struct.pack("=I", 300)
    assert found[kind].startswith(text + b"\0")
    assert struct.unpack(f"={len(sizes)}I", found[kind][-4 * len(sizes) :]) == sizes
    netlink.send(request(driver=driver), b"", 0, 1234)
    assert answer(netlink) == (GET, body)


def test_errors(netlink: CryptoNetlink) -> None:
    """An error has the request behind it; a success is acknowledged if that is wanted."""
    for wrong, number in (
        (request("none"), errno.ENOENT),
        (request(), errno.EINVAL),
        (request("sha256", kind=0x10), errno.EPERM),
        (request("sha256", kind=0x15), errno.EINVAL),
    ):
        netlink.send(wrong, b"", 0, 1234)
        assert answer(netlink) == (ERROR, struct.pack("=i", -number) + wrong), wrong
    good = request("sha256", flags=ACKNOWLEDGE)
    # two in one message
    netlink.send(good + good, b"", 0, 1234)
    for _ in range(2):
        assert answer(netlink)[0] == GET
        assert answer(netlink) == (ERROR, bytes(4) + good[: HEADER.size])
    with pytest.raises(MustWait):
        netlink.receive(LARGE, 0)
    for broken in (b"", bytes(15), HEADER.pack(5, GET, 0, 7, 0), HEADER.pack(999, GET, 0, 7, 0)):
        assert netlink.send(broken, b"", 0, 1234) == len(broken)
    with pytest.raises(MustWait):
        netlink.receive(LARGE, 0)


def test_address_and_flags(netlink: CryptoNetlink) -> None:
    """The port that was bound; a look ahead; a short receive."""
    with pytest.raises(CryptofsError):
        netlink.bind(b"\0" * 11)
    netlink.bind(struct.pack("=HHII", 16, 0, 99, 0))
    assert netlink.name() == struct.pack("=HHII", 16, 0, 99, 0)
    netlink.send(request("sha256"), b"", 0, 1234)
    first = netlink.receive(10, MSG_PEEK)
    assert (len(first.data), first.flags) == (10, MSG_TRUNC)
    assert first.source == struct.pack("=HHII", 16, 0, 0, 0)
    whole = netlink.receive(LARGE, 0)
    assert whole.data.startswith(first.data)
    assert whole.flags == 0
