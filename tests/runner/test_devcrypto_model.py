"""Any sequence of calls on the sessions of two open files, against a model that computes with pyca and hashlib."""

import errno
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.devcrypto import AES_CBC, AES_CTR, AES_GCM, DECRYPT, ENCRYPT, HMAC_SHA256, SHA256, Program, errno_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cryptofs.runner.backend import LocalBackend
from cryptofs.runner.devcrypto import Allowance, Command, Sessions
from cryptofs.runner.devcrypto.numbers import CRYPT, CryptOp, Flag

KEY, MAC_KEY = bytes(range(16)), b"of the model"
FLAGS = [
    0,
    Flag.UPDATE,
    Flag.FINAL,
    Flag.UPDATE | Flag.FINAL,
    Flag.UPDATE | Flag.RESET,
    Flag.WRITE_IV,
    Flag.NO_ZERO_COPY,
]


@dataclass
class Modelled:
    """What a session must be by what was called. hashed: since the last digest."""

    cipher: int
    mac: int
    iv: bytes = bytes(16)
    hashed: bytes = b""
    tag_size: int = 16

    def encrypt(self, operation: int, data: bytes) -> bytes:
        """The output, by one library call from the IV on."""
        if not self.cipher or not data:
            return data
        mode: Any = modes.CBC(self.iv) if self.cipher == AES_CBC else modes.CTR(self.iv)
        made = Cipher(algorithms.AES(KEY), mode)
        out = (made.encryptor() if operation == ENCRYPT else made.decryptor()).update(data)
        if self.cipher == AES_CBC:
            self.iv = (out if operation == ENCRYPT else data)[-16:]
        else:
            counter = int.from_bytes(self.iv, "big") + (len(data) + 15) // 16
            self.iv = (counter % (1 << 128)).to_bytes(16, "big")
        return out

    def digest(self) -> bytes:
        """Of what was hashed, which begins again."""
        data, self.hashed = self.hashed, b""
        if self.mac == SHA256:
            return hashlib.sha256(data).digest()
        return hmac.digest(MAC_KEY, data, "sha256")


@dataclass
class File:
    """An open file, and what it must have."""

    sessions: Sessions
    program: Program
    known: dict[int, Modelled] = field(default_factory=dict)
    pending: list[tuple[CryptOp, bytes, bytes, bytes | None]] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Two files, so that no number of one works in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.files = []
        for _ in range(2):
            sessions = Sessions(LocalBackend(("openssl",)), Allowance(100))
            self.files.append(File(sessions, Program.of(sessions)))

    def teardown(self) -> None:
        for file in self.files:
            file.sessions.close()

    def choose(self, data: st.DataObject) -> tuple[File, int, Modelled | None]:
        """A file and a session's number, which may be the other file's or none."""
        at = data.draw(st.integers(0, 1))
        file, other = self.files[at], self.files[1 - at]
        number = data.draw(st.sampled_from([*file.known, *other.known, 12345]))
        return file, number, file.known.get(number)

    @rule(
        at=st.integers(0, 1),
        cipher=st.sampled_from([0, AES_CBC, AES_CTR, AES_GCM]),
        mac=st.sampled_from([0, SHA256, HMAC_SHA256]),
    )
    def begin(self, at: int, cipher: int, mac: int) -> None:
        file = self.files[at]
        if not cipher and not mac:
            return
        if cipher == AES_GCM:
            number = file.program.session(cipher, KEY, mac)
            mac = 0
        else:
            number = file.program.session(cipher, KEY if cipher else b"", mac, MAC_KEY)
        file.known[number] = Modelled(cipher, mac)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        file, number, _ = self.choose(data)
        file.program.finish(number)
        file.known.pop(number, None)

    @rule(
        data=st.data(),
        operation=st.sampled_from([ENCRYPT, DECRYPT, 2]),
        text=st.one_of(st.binary(max_size=40), st.integers(0, 4).map(lambda blocks: b"block by block. " * blocks)),
        iv=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
        flags=st.sampled_from(FLAGS),
        later=st.booleans(),
    )
    def crypt(
        self, data: st.DataObject, operation: int, text: bytes, iv: bytes | None, flags: int, later: bool
    ) -> None:
        file, number, session = self.choose(data)
        call = file.program.crypt_op(number, operation, text, iv, flags)
        command = Command.CIOCASYNCCRYPT if later else Command.CIOCCRYPT
        refused = session is None or operation == 2 or session.cipher == AES_GCM
        refused |= session is not None and session.cipher == AES_CBC and len(text) % 16 != 0
        refused |= later and bool(flags & Flag.NO_ZERO_COPY)
        found = errno_of(lambda: file.program.call(command, CRYPT.pack(*call)))
        assert found == (errno.EINVAL if refused else 0)
        if refused or session is None:
            return
        if not flags or flags & Flag.RESET:
            session.hashed = b""
        if iv is not None and session.cipher:
            session.iv = iv
        out = session.encrypt(operation, text)
        session.hashed += out if operation == DECRYPT else text
        ends = flags & Flag.FINAL or not flags & Flag.UPDATE or not text
        digest = session.digest() if session.mac and ends else b""
        place = session.iv if session.cipher and flags & Flag.WRITE_IV else iv
        expected = (out if session.cipher else bytes(len(text))), digest, (None if iv is None else place)
        if not later:
            self.compare(file, call, *expected)
        else:
            file.pending.append((call, *expected))

    def compare(self, file: File, call: CryptOp, out: bytes, digest: bytes, iv: bytes | None) -> None:
        found = file.program.results(call, iv)
        assert found[0] == out
        assert found[1] == digest.ljust(64, b"\0")
        assert iv is None or found[2] == iv

    @rule(at=st.integers(0, 1))
    def fetch(self, at: int) -> None:
        file = self.files[at]
        if not file.pending:
            assert errno_of(lambda: file.program.call(Command.CIOCASYNCFETCH, bytes(CRYPT.size))) == errno.EBUSY
            return
        structure = file.program.call(Command.CIOCASYNCFETCH, bytes(CRYPT.size))
        call, *expected = file.pending.pop(0)
        assert structure == CRYPT.pack(*call)
        self.compare(file, call, *expected)

    @rule(
        data=st.data(), text=st.binary(max_size=40), auth=st.binary(max_size=20), size=st.sampled_from([0, 4, 12, 16])
    )
    def seal(self, data: st.DataObject, text: bytes, auth: bytes, size: int) -> None:
        file, number, session = self.choose(data)
        nonce = bytes(range(12))
        if session is None or session.cipher != AES_GCM or size > session.tag_size:
            assert errno_of(lambda: file.program.seal(number, text, nonce, auth, size)) == errno.EINVAL
            return
        sealed = file.program.seal(number, text, nonce, auth, size)
        session.tag_size = size or session.tag_size
        expected = AESGCM(KEY).encrypt(nonce, text, auth)
        assert sealed == expected[: len(text) + session.tag_size]
        assert file.program.open(number, sealed, nonce, auth) == text

    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        file, target, to = self.choose(data)
        source = data.draw(st.sampled_from([*file.known, 12345]))
        of = file.known.get(source)
        expected = 0
        if target == source:
            expected = errno.EDEADLK
        elif to is None or of is None:
            expected = errno.ENOENT
        elif not to.mac or to.mac != of.mac:
            expected = errno.EINVAL
        assert errno_of(lambda: file.program.copy_hash(target, source)) == expected
        if not expected and to is not None and of is not None:
            to.hashed = of.hashed

    @invariant()
    def every_session_is_known(self) -> None:
        for file in self.files:
            assert file.sessions.has_results == bool(file.pending)


def test_sequences() -> None:
    """Outputs, digests, IVs and errnos are the model's, whatever came before."""
    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
