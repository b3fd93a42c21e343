"""Public keys through a live mount: records, the control file and the stream, many in flight, cancelled."""

import contextlib
import errno
import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from helpers.daemons import Daemon
from helpers.raw import build_many

from cryptofs.client import Context, RequestError
from cryptofs.records import Attr, Operation, Record, build, parse_responses

pytestmark = pytest.mark.mount


def statuses(context: Context, records: list[Record]) -> dict[int, Record]:
    """Every answer to records of one write, by id."""
    os.pwrite(context.fileno(), build_many(records), 0)
    found: dict[int, Record] = {}
    while len(found) < len(records):
        for response in parse_responses(os.pread(context.fileno(), 1_044_480, 0)):
            found[response.id] = response
    return found


def test_a_key_that_nobody_can_read(mount: Path, daemon: Daemon) -> None:
    """Made inside, used, and seen by its public half alone."""
    with Context("sig", "pkcs1(rsa,sha256)", mount=mount) as context:
        public = context.generate_key(2048, "der")
        digest = hashlib.sha256(b"message").digest()
        signature = context.sign(digest)
        loaded = load_der_public_key(public)
        assert isinstance(loaded, rsa.RSAPublicKey)
        loaded.verify(signature, digest, padding.PKCS1v15(), utils.Prehashed(SHA256()))
        with pytest.raises(InvalidSignature):
            loaded.verify(signature, bytes(32), padding.PKCS1v15(), utils.Prehashed(SHA256()))
        assert context.verify(signature, digest)
        assert not context.verify(signature, bytes(32))
        assert context.status()["key"] == "(hidden)"
        with pytest.raises(RequestError) as caught:
            context.generate_key()
        assert caught.value.errno == errno.EBUSY
    with Context("sig", "pkcs1(rsa,sha256)", public, mount=mount) as context:
        assert context.verify(signature, digest)
        with pytest.raises(RequestError) as caught:
            context.sign(digest)
        assert caught.value.errno == errno.ENOKEY
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("name", ["curve25519", "ecdh-nist-p384", "ffdhe3072(dh)"])
def test_agreement(mount: Path, name: str) -> None:
    """Two contexts, one secret."""
    with Context("kpp", name, mount=mount) as one, Context("kpp", name, mount=mount) as other:
        one_public, other_public = one.generate_key(), other.generate_key()
        assert one.public_key() == one_public
        assert one.agree(other_public) == other.agree(one_public)
        with pytest.raises(RequestError) as caught:
            one.agree(b"\0" * len(one_public))
        assert caught.value.errno == errno.EINVAL


def test_encapsulation(mount: Path) -> None:
    """Two operands in the answer: the secret, and the ciphertext beside it."""
    with Context("kpp", "mlkem1024", mount=mount) as holder, Context("kpp", "mlkem1024", mount=mount) as sender:
        secret, ciphertext = sender.encapsulate(holder.generate_key())
        assert (len(secret), len(ciphertext)) == (32, 1568)
        assert holder.decapsulate(ciphertext) == secret
        assert holder.encapsulate()[0] != secret


@pytest.mark.parametrize("name", ["ed25519", "mldsa87"])
def test_messages_in_parts(mount: Path, name: str) -> None:
    """A long message is gathered; a signature of the largest kind comes back whole."""
    with Context("sig", name, mount=mount) as context:
        context.generate_key()
        data = os.urandom(300_000)
        message = context.message(Operation.SIGN)
        assert message.update(data[:100_000]) == b""
        signature = message.finish(data[100_000:])
        assert context.verify(signature, data)
        assert context.verify(context.sign(data), data)


def test_ciphers(mount: Path) -> None:
    """akcipher answers encrypt and decrypt; a batch of small ones does not go the short way wrong."""
    with Context("akcipher", "pkcs1pad(rsa)", mount=mount) as context:
        context.generate_key(2048)
        sealed = [context.encrypt(bytes([each]) * each) for each in range(40)]
        assert [context.decrypt(each) for each in sealed] == [bytes([each]) * each for each in range(40)]
        found = statuses(context, [Record(Operation.DECRYPT, 0, each, 0, {}, sealed[each]) for each in range(40)])
        assert all(bytes(found[each].payload) == bytes([each]) * each for each in range(40))


def test_many_in_flight_and_cancelled(mount: Path) -> None:
    """64 signatures of a large key at once, every second one cancelled: each answered once, the rest right."""
    key = rsa.generate_private_key(65537, 4096).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with Context("sig", "pkcs1(rsa,sha256)", key, mount=mount) as context:
        digests = [hashlib.sha256(bytes([each])).digest() for each in range(64)]
        records = [Record(Operation.SIGN, 0, each, 0, {}, digest) for each, digest in enumerate(digests)]
        records += [Record(Operation.CANCEL, 0, 1000 + each, 0, {Attr.TARGET: each}) for each in range(0, 64, 2)]
        found = statuses(context, records)
        cancelled = {each for each in range(64) if found[each].status == errno.ECANCELED}
        assert len(cancelled) > 10
        assert cancelled <= set(range(0, 64, 2))
        for each in set(range(64)) - cancelled:
            assert context.verify(bytes(found[each].payload), digests[each])


def test_others_go_on_while_keys_are_made(mount: Path) -> None:
    """New RSA keys take long; somebody else's digests meanwhile take what they always do."""
    made: list[bytes] = []

    def make() -> None:
        with Context("sig", "pkcs1(rsa,sha256)", mount=mount) as context:
            made.append(context.generate_key(2048))

    threads = [threading.Thread(target=make) for _ in range(3)]
    with Context("hash", "sha256", mount=mount) as context:
        for thread in threads:
            thread.start()
        answered = 0
        while any(thread.is_alive() for thread in threads):
            assert context.digest(b"abc").hex().startswith("ba7816bf")
            answered += 1
        for thread in threads:
            thread.join()
    assert len(made) == 3
    # keys in the event loop would let in one digest between each
    assert answered > 30


def test_the_shell(mount: Path, tmp_path: Path) -> None:
    """A key is made and used, and a secret agreed on, with echo and cat."""
    script = f"""
set -e
cd {mount}
exec 3<>crypto; read -r id <&3; cd contexts/$id
echo 'configure type=sig name=ed25519 operation=generate-key' > ctl
: > stream; cat stream > {tmp_path}/public
echo 'reset operation=sign' > ctl
printf message > stream; cat stream > {tmp_path}/signature
cd {mount}
exec 4<>crypto; read -r id <&4; cd contexts/$id
echo 'configure type=kpp name=curve25519 key=hex:{"11" * 32} operation=agree' > ctl
printf '\\011\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0' > stream
cat stream > {tmp_path}/secret
"""
    subprocess.run(["bash", "-c", script], check=True, timeout=60)
    with Context("sig", "ed25519", (tmp_path / "public").read_bytes(), mount=mount) as context:
        assert context.verify((tmp_path / "signature").read_bytes(), b"message")
    with Context("kpp", "curve25519", b"\x11" * 32, mount=mount) as context:
        assert (tmp_path / "secret").read_bytes() == context.public_key()


def test_streams_refuse_what_would_hold_up_others(mount: Path) -> None:
    """A new RSA key, a finite field, and what has more than one operand or answer."""
    for type_, name, operation, refused_by in (
        ("sig", "pkcs1(rsa,sha256)", "generate-key", "stream"),
        ("kpp", "ffdhe8192(dh)", "agree", "stream"),
        ("sig", "ed25519", "verify", "ctl"),
        ("kpp", "mlkem768", "encapsulate", "ctl"),
    ):
        with Context(type_, name, mount=mount) as context:
            if type_ == "kpp" or name == "ed25519":
                context.generate_key()
            asked = f"reset operation={operation}\n"
            if refused_by == "stream":
                (context.directory / "ctl").write_text(asked)
            with pytest.raises(OSError, match=r".") as caught:
                (context.directory / refused_by).write_text(asked)
            assert caught.value.errno == errno.EINVAL


def test_wrong_requests(mount: Path) -> None:
    """Parts, attributes that do not belong, operations of another type, a key in the control file."""
    with Context("sig", "ed25519", mount=mount) as context:
        context.generate_key()
        found = statuses(
            context,
            [
                Record(Operation.VERIFY, 1, 1, 0, {Attr.SIGNATURE: bytes(64)}, b"x"),
                Record(Operation.SIGN, 0, 2, 0, {Attr.SIGNATURE: bytes(64)}, b"x"),
                Record(Operation.ENCRYPT, 0, 3, 0, {}, b"x"),
                Record(Operation.AGREE, 0, 4, 0, {Attr.PEER_KEY: bytes(32)}),
                Record(Operation.SIGN, 0, 5, 0, {Attr.IV: bytes(16)}, b"x"),
            ],
        )
        invalid, unsupported = errno.EINVAL, errno.EOPNOTSUPP
        statuses_by_id = {each: response.status for each, response in found.items()}
        assert statuses_by_id == {1: invalid, 2: invalid, 3: unsupported, 4: unsupported, 5: invalid}
    secret = os.urandom(64)
    with Context("sig", "ed25519", mount=mount) as context:
        for key in (secret, secret[:63], secret * 2):
            with pytest.raises(OSError, match=r".") as caught:
                (context.directory / "ctl").write_text(f"set-key key=hex:{key.hex()}\n")
            assert caught.value.errno == errno.EINVAL
        assert secret.hex()[:16] not in str(context.status())


def test_operands_count(mount: Path) -> None:
    """Attributes take room in the queue: it fills before its 4,096 requests."""
    with Context("sig", "mldsa87", mount=mount) as context:
        context.generate_key()
        record = build(Record(Operation.VERIFY, 0, 1, 0, {Attr.SIGNATURE: bytes(5120)}, bytes(32)))
        accepted = 0
        with contextlib.suppress(BlockingIOError):
            while accepted < 4000:
                os.pwrite(context.fileno(), record * 100, 0)
                accepted += 100
        assert 2500 < accepted < 3300


def test_listed(mount: Path) -> None:
    """The names stand in the tree, each with its file."""
    assert "pkcs1(rsa,sha256)" in os.listdir(mount / "algorithms" / "sig")
    assert {"rsa", "pkcs1pad(rsa)"} <= set(os.listdir(mount / "algorithms" / "akcipher"))
    began = time.monotonic()
    assert "mlkem768" in os.listdir(mount / "algorithms" / "kpp")
    assert time.monotonic() - began < 10
    assert "engine: openssl" in (mount / "algorithms" / "kpp" / "curve25519").read_text()
