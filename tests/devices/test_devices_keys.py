"""The key of a device stays in it: it cannot be replaced, cloned, read, or used the other way round."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import device_mount
from helpers.daemons import Daemon
from helpers.device_mount import AEADS, CIPHER_KEY, DECRYPT, DIGEST, KEYS, MAC_KEY, refused

from cryptofs.client import Context
from cryptofs.records import Attr, Operation, Record, Value, build, parse_responses

pytestmark = pytest.mark.mount
daemon, device = device_mount.daemon, device_mount.device


def test_the_key_cannot_be_replaced(mount: Path, device: Callable[[str], Context]) -> None:
    """Not by set-key, not by configure, not through any file of the context."""
    for name in KEYS:
        with device(name) as context:
            refused(errno.EACCES, lambda context=context: context.set_key(bytes(32)))
            attributes: dict[int, Value] = {Attr.TYPE: "aead", Attr.NAME: "gcm(aes)", Attr.KEY: bytes(32)}
            configure = Record(Operation.CONFIGURE, attributes=attributes)
            refused(errno.EBUSY, lambda context=context, configure=configure: context.request(configure))
            ctl = context.directory / "ctl"
            refused(errno.EACCES, lambda ctl=ctl: ctl.write_text("set-key key=hex:" + "00" * 32))
            refused(errno.EBUSY, lambda ctl=ctl: ctl.write_text("configure type=hash name=sha256"))


def test_no_clone_out_of_a_device(mount: Path, device: Callable[[str], Context]) -> None:
    """The state of a keyed hash carries its key: it goes into contexts of the same device only, both ways."""
    with (
        device("hmac") as context,
        device("hmac") as same,
        device("hmac") as streamed,
        Context("hash", "hmac(sha256)", b"known", mount=mount) as other,
    ):
        message, other_message = context.message(DIGEST), other.message(DIGEST)
        message.update(b"begun")
        other_message.update(b"begun")
        target = message.identity
        clone: dict[int, Value] = {Attr.TARGET: target, Attr.CONTEXT: other.number}
        refused(errno.EACCES, lambda: context.request(Record(Operation.CLONE, id=50, attributes=clone)))
        back: dict[int, Value] = {Attr.TARGET: other_message.identity, Attr.CONTEXT: context.number}
        refused(errno.EACCES, lambda: other.request(Record(Operation.CLONE, id=50, attributes=back)))
        (streamed.directory / "ctl").write_text("reset operation=digest")
        with open(streamed.directory / "stream", "wb", buffering=0) as stream:
            stream.write(b"begun")
            refused(errno.EACCES, lambda: (streamed.directory / "ctl").write_text(f"clone context={other.number}"))
        within: dict[int, Value] = {Attr.TARGET: target, Attr.CONTEXT: same.number}
        context.request(Record(Operation.CLONE, id=60, attributes=within))
        same.request(Record(DIGEST, id=60, payload=b" ended"))


def test_the_key_is_in_no_file(daemon: Daemon, mount: Path, device: Callable[[str], Context]) -> None:
    """Every file that the mount has, every answer and the log, while devices are used and misused."""
    texts: list[bytes] = []
    contexts = [device(name) for name in KEYS]
    streams = [os.open(mount / "devices" / name / "decrypt", os.O_RDWR) for name in AEADS if name != "authenc"]
    try:
        for context in contexts:
            operation = DIGEST if context.type == "hash" else DECRYPT
            for record in (
                Record(Operation.INFO, id=1),
                Record(Operation.SET_KEY, id=2, attributes={Attr.KEY: bytes(5)}),
                Record(operation, id=3, attributes={Attr.IV: bytes(3)}),
                Record(operation, id=4, payload=b"short"),
            ):
                os.write(context.fileno(), build(record))
                texts.append(os.pread(context.fileno(), 65_536, 0))
            for name in ("ctl", "status"):
                texts.append((context.directory / name).read_bytes())
        for stream in streams:
            refused(errno.EBADMSG, lambda stream=stream: os.write(stream, b"no sealed file, for sure, and long enough"))
        texts += [path.read_bytes() for path in (mount / "contexts").glob("*/status")]
        texts += [path.read_bytes() for path in (mount / "devices").glob("*/status")]
        texts += [path.read_bytes() for path in (mount / "stats", mount / "version")]
    finally:
        for stream in streams:
            os.close(stream)
        for context in contexts:
            context.close()
    texts.append(daemon.log.encode())
    assert len(texts) > 60
    assert b"key: (hidden)" in b"".join(texts)
    for key in (*KEYS.values(), MAC_KEY, CIPHER_KEY):
        for form in (key[:16], key[:16].hex().encode(), key[:16].hex().upper().encode()):
            assert not any(form in text for text in texts)


def test_one_way(mount: Path, device: Callable[[str], Context]) -> None:
    """An operation that is not allowed is EACCES in every form."""
    with device("sealonly") as sealing, device("openonly") as opening:
        sealed = sealing.encrypt(b"text")
        assert opening.decrypt(sealed) == b"text"
        large = sealing.encrypt(bytes(500_000))
        for text in (sealed, large, b"", bytes(40)):
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text))
            refused(errno.EACCES, lambda text=text: opening.encrypt(text))
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text, assoc=b"a"))
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text, bytes(12)))
        refused(errno.EACCES, lambda: sealing.message(DECRYPT).update(sealed))
        batch = b"".join(build(Record(DECRYPT, id=each, payload=sealed)) for each in range(3))
        os.write(sealing.fileno(), batch)
        answers = parse_responses(os.pread(sealing.fileno(), 65_536, 0))
        assert [answer.status for answer in answers] == [errno.EACCES] * 3
        for context, word in ((sealing, "decrypt"), (opening, "encrypt")):
            (context.directory / "ctl").write_text(f"reset operation={word}")
            refused(errno.EACCES, lambda context=context: (context.directory / "stream").write_bytes(sealed))
            assert b"stream-error: EACCES" in (context.directory / "status").read_bytes()
    for name, word in (("sealonly", "decrypt"), ("openonly", "encrypt")):
        refused(errno.EACCES, lambda name=name, word=word: os.open(mount / "devices" / name / word, os.O_RDWR))
    descriptor = os.open(mount / "devices" / "sealonly" / "encrypt", os.O_RDWR)
    try:
        mine = {path.name for path in (mount / "contexts").iterdir()}
        assert len(mine) == 1
        directory = mount / "contexts" / mine.pop()
        (directory / "ctl").write_text("reset operation=decrypt")
        refused(errno.EACCES, lambda: os.write(descriptor, sealed))
        # what failed does not pass for an empty message
        refused(errno.EACCES, lambda: os.read(descriptor, 100))
    finally:
        os.close(descriptor)
