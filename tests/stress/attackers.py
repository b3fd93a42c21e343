"""Attackers on others' time: each does one thing that takes the daemon long, as often as it can, until it is killed.

Each runs in a forked process as a user of its own. It counts what it did, so that an attack that was refused from the
beginning is not taken for one that was withstood.
"""

import contextlib
import datetime
import errno
import fcntl
import itertools
import os
import random
import select
import threading
import time
from collections.abc import Callable
from math import gcd

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from helpers.raw import build_many

from cryptofs.engines import der
from cryptofs.records import RECORD_MAX, Attr, Flag, Operation, Record, build, call_command

from .spot import REFUSALS, Place, Spot, spots, threads

Attack = Callable[[Place], None]

MORE = int(Flag.MORE)
NOT_HERE = 77
"""Exit status of an attack that the machine has nothing for."""
BATCH = 127
"""Set-keys of the largest keys in one write."""


# Keys


def _key(*numbers: int) -> bytes:
    parts = [number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (0, *numbers)]
    return bytes(der.enclose(der.SEQUENCE, *map(der.integer, parts)))


def huge_parts() -> bytes:
    """A modulus of 1,024 bits with a prime of 31,000: it took ten seconds."""
    drawn = random.Random(1)
    huge = drawn.getrandbits(31_000) | 1 | 1 << 30_999
    return _key(drawn.getrandbits(1024) | 1 | 1 << 1023, 65537, 3, 5, huge, 3, huge, 3)


def huge_exponent() -> bytes:
    """A private exponent of 57,000 bits."""
    drawn = random.Random(2)
    return _key(drawn.getrandbits(1024) | 1 | 1 << 1023, 65537, drawn.getrandbits(57_000), 5, 7, 3, 5, 3)


def false_primes() -> bytes:
    """Everything holds between the parts of 4,096 bits, only the primes are none: refused by the last check."""
    drawn = random.Random(3)
    while True:
        p, q = (drawn.getrandbits(2048) | 1 | 3 << 2046 for _ in range(2))
        if gcd(65537, (p - 1) * (q - 1)) == gcd(p, q) == 1:
            break
    d = pow(65537, -1, (p - 1) * (q - 1) // gcd(p - 1, q - 1))
    return _key(p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))


def right_key() -> bytes:
    """A new key of 4,096 bits."""
    private = rsa.generate_private_key(65537, 4096)
    return private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def certificate() -> bytes:
    """A certificate of a new RSA key: every kernel with asymmetric keys takes one."""
    private = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attacker")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    unsigned = x509.CertificateBuilder(name, name, private.public_key(), 1, day, day.replace(year=2040))
    return unsigned.sign(private, hashes.SHA256()).public_bytes(Encoding.DER)


def set_keys(key: bytes) -> Attack:
    """127 set-keys in one write, again and again, on four contexts."""

    def attack(place: Place) -> None:
        write = build_many([Record(Operation.SET_KEY, 0, each, 0, {Attr.KEY: key}) for each in range(BATCH)])
        fit = RECORD_MAX // (len(write) // BATCH)
        if fit < BATCH:
            write = write[: len(write) // BATCH * fit]

        def work(index: int) -> None:
            spot = Spot(place, "akcipher", "pkcs1pad(rsa)")
            while True:
                spot.send(write)
                spot.drain(30)

        threads(4, work)

    return attack


def generate_keys(place: Place) -> None:
    """New RSA keys of 4,096 bits on 64 contexts at once."""
    request = build(Record(Operation.GENERATE_KEY, 0, 5, 0, {Attr.KEY_BITS: 4096}))
    while True:
        made = spots(place, 64, "akcipher", "pkcs1pad(rsa)")
        for spot in made:
            spot.send(request)
        for spot in made:
            spot.drain(30)
            spot.close()


def agreements(place: Place) -> None:
    """Shared secrets in the largest finite field, 32 contexts at once."""
    exponent = b"\1\0" + (1040).to_bytes(2, "little") + (1024).to_bytes(4, "little") + bytes(8) + b"\x3f" * 1024
    made = spots(place, 32, "kpp", "ffdhe8192(dh)", key=exponent)
    peer = b"\x55" * 1024
    write = build_many([Record(Operation.AGREE, 0, each, 0, {}, peer) for each in range(16)])
    while True:
        for spot in made:
            spot.send(write)
        for spot in made:
            spot.drain(30)


def kernel_keys(place: Place) -> None:
    """Hundreds of RSA keys on the kernel's keyrings."""
    key = certificate()
    while True:
        made: list[Spot] = []
        try:
            while len(made) < 300:
                made.append(Spot(place, "sig", "pkcs1(rsa,sha256)", engine="keyctl", key=key))
                place.count()
        except OSError as error:
            # a kernel without public key operations, or without the parser of certificates
            if error.errno in (errno.ENOENT, errno.EINVAL):
                os._exit(NOT_HERE)
            if error.errno not in REFUSALS:
                raise
        for spot in made:
            spot.close()


# Records


def zstd_messages(place: Place) -> None:
    """256 messages of level 19 that never end, on 16 contexts."""
    made = spots(place, 16, "compression", "zstd", level=19)
    data = random.Random(4).randbytes(32_768)
    identities = itertools.cycle(range(16))
    while True:
        identity = next(identities)
        for spot in made:
            spot.send(build(Record(Operation.COMPRESS, MORE, identity, 0, {}, data)))
        for spot in made:
            spot.drain(10)


def large_records(place: Place) -> None:
    """Records of 1 MiB in 64 contexts, all at once."""
    made = spots(place, 64, "skcipher", "cbc(aes)", key=bytes(32))
    write = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16)}, bytes(1_000_000 - 1_000_000 % 16)))
    while True:
        for spot in made:
            spot.offer(write)
        for spot in made:
            spot.drain(1)


def small_records(place: Place) -> None:
    """Four thousand digests in each write, on 16 contexts."""
    write = build_many([Record(Operation.DIGEST, 0, each, 0, {}, b"x") for each in range(4000)])

    def work(index: int) -> None:
        spot = Spot(place, "hash", "sha256")
        while True:
            spot.send(write)
            spot.drain(10)

    threads(16, work)


def control_calls(place: Place) -> None:
    """Four thousand control calls in each write, most of them wrong."""
    write = build_many(
        [Record(Operation.CONFIGURE, 0, each, 0, {Attr.TYPE: "hash", Attr.NAME: f"x{each}"}) for each in range(4000)]
    )

    def work(index: int) -> None:
        spot = Spot(place)
        while True:
            spot.send(write)
            spot.drain(10)

    threads(4, work)


def control_lines(place: Place) -> None:
    """The longest lines on `ctl`: blanks, digits of a key, words."""
    lines = (b" " * 32_000, b"set-key key=hex:" + b"00" * 16_000, b"configure " + b"a=b " * 7900, b"\n" * 32_000)

    def work(index: int) -> None:
        control = os.open(Spot(place, "hash", "hmac(sha256)").directory / "ctl", os.O_RDWR)
        for line in itertools.cycle(lines):
            with contextlib.suppress(OSError):
                os.write(control, line + b"\n")
            place.count()

    threads(4, work)


def many_callers(place: Place) -> None:
    """A thousand threads that call at once, each with a record that is just short enough for the event loop."""
    threading.stack_size(128 * 1024)
    spot = Spot(place, "hash", "sha256")

    def work(index: int) -> None:
        request = build(Record(Operation.DIGEST, 0, index, 0, {}, bytes(15_000)))
        while True:
            fcntl.ioctl(spot.fd, call_command(len(request)), bytearray(request))
            place.count()

    threads(1000, work)


def names(place: Place) -> None:
    """Look up and configure random names, and names that nest as deeply as fits."""
    drawn = random.Random(5)

    def fresh() -> str:
        word = f"{drawn.getrandbits(60):x}"
        return drawn.choice((word, f"cbc({word})", "cbc(" * 11 + word + ")" * 11, "a(" + word + ",b" * 20 + ")"))[:63]

    def work(index: int) -> None:
        spot = Spot(place)
        while True:
            name = fresh()
            with contextlib.suppress(OSError):
                os.stat(place.mount / "algorithms" / "skcipher" / name)
            spot.ask(Record(Operation.CONFIGURE, 0, 1, 0, {Attr.TYPE: "skcipher", Attr.NAME: name}))
            place.count()

    threads(4, work)


# Handles


def opens(place: Place) -> None:
    """Open and close `crypto`, eight at once."""

    def work(index: int) -> None:
        Spot(place, "hash", "sha256").close()
        place.count()

    threads(8, work)


def descriptors(place: Place) -> None:
    """Thousands of descriptors of every kind of file, listed and read as they come."""
    spot = Spot(place, "hash", "sha256")
    paths = [place.mount / name for name in ("contexts", "algorithms/hash", "algorithms/hash/sha256", "stats")]
    paths += [spot.directory / name for name in ("", "ctl", "status", "stream")]
    held: list[int] = []
    for path in itertools.cycle(paths):
        try:
            directory = path.name in ("contexts", "hash", str(spot.number))
            held.append(os.open(path, os.O_RDONLY | (os.O_DIRECTORY if directory else 0)))
            place.count()
            # now and then one is listed or read, too
            if len(held) % 50:
                continue
            if directory:
                os.listdir(held[-1])
            elif path.name != "stream":
                os.read(held[-1], 4096)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            time.sleep(0.001)


def listings(place: Place) -> None:
    """List contexts/ with a thousand entries, and algorithms/, four at once."""
    held = spots(place, 1000)
    directories = [place.mount / "contexts", *(place.mount / "algorithms").iterdir()]

    def work(index: int) -> None:
        for directory in directories:
            os.listdir(directory)
            place.count()

    threads(4, work)
    del held


def polls(place: Place) -> None:
    """A thousand contexts in an epoll set, all of them woken again and again."""
    held = spots(place, 1000, "hash", "sha256")
    request = build(Record(Operation.DIGEST, 0, 1, 0, {}, b"x"))
    ready = select.epoll()
    for spot in held:
        ready.register(spot.fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    while True:
        for spot in held:
            spot.send(request)
        for fd, _ in ready.poll(0):
            with contextlib.suppress(BlockingIOError):
                place.count(len(os.pread(fd, 4096, 0)) > 0)


def status_files(place: Place) -> None:
    """Read status, stats and the files of algorithms, eight at once."""
    spot = Spot(place, "hash", "sha256")
    paths = [spot.directory / "status", place.mount / "stats", place.mount / "algorithms/hash/sha256"]

    def work(index: int) -> None:
        for path in paths:
            path.read_bytes()
            place.count()

    threads(8, work)


# Streams


def random_streams(place: Place) -> None:
    """Read 1 MiB of random bytes at a time, sixteen at once."""

    def work(index: int) -> None:
        stream = os.open(Spot(place, "rng", "stdrng").directory / "stream", os.O_RDONLY)
        while True:
            os.read(stream, 1 << 20)
            place.count()

    threads(16, work)


def many_readers(place: Place) -> None:
    """A thousand readers that wait on one stream, each woken by every write."""
    threading.stack_size(128 * 1024)
    spot = Spot(place, "hash", "sha256")
    writer = os.open(spot.directory / "stream", os.O_WRONLY)

    def work(index: int) -> None:
        if index:
            reader = os.open(spot.directory / "stream", os.O_RDONLY)
            while True:
                os.read(reader, 4096)
        while True:
            os.write(writer, b"x")
            place.count()

    threads(1000, work)


def cipher_streams(place: Place) -> None:
    """Streams in pieces of 128 KiB, sixteen at once."""

    def work(index: int) -> None:
        spot = Spot(place, "skcipher", "cbc(aes)", key=bytes(32), operation="encrypt", iv=bytes(16))
        writer, reader = (os.open(spot.directory / "stream", flags) for flags in (os.O_WRONLY, os.O_RDONLY))
        while True:
            os.write(writer, bytes(131_072))
            _ = os.read(reader, 131_072)
            place.count()

    threads(16, work)


def device_streams(name: str, data: bytes) -> Attack:
    """Messages through a device's stream file, sixteen at once. name: of device and file."""

    def attack(place: Place) -> None:
        def work(index: int) -> None:
            stream = os.open(place.mount / "devices" / name, os.O_RDWR)
            try:
                os.write(stream, data)
                while os.read(stream, 65_536):
                    pass
                place.count()
            finally:
                os.close(stream)

        threads(16, work)

    return attack


def _plain(attack: Attack) -> Callable[[], Attack]:
    return lambda: attack


ATTACKS: dict[str, Callable[[], Attack]] = {
    "huge primes": lambda: set_keys(huge_parts()),
    "huge exponents": lambda: set_keys(huge_exponent()),
    "false primes": lambda: set_keys(false_primes()),
    "right keys": lambda: set_keys(right_key()),
    **{
        attack.__name__.replace("_", " "): _plain(attack)
        for attack in (
            *(generate_keys, agreements, kernel_keys, zstd_messages, large_records, small_records, control_calls),
            *(
                control_lines,
                many_callers,
                names,
                opens,
                descriptors,
                listings,
                polls,
                status_files,
                random_streams,
                many_readers,
            ),
            cipher_streams,
        )
    },
    "device signatures": lambda: device_streams("signer/sign", bytes(32)),
    "device digests": lambda: device_streams("mac/digest", bytes(1_000_000)),
}
"""By name, what makes each: keys are made before the attack begins."""
