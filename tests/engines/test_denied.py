"""A kernel that forbids names, from the start or from now on: the next engine serves, and what is open goes on."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import restricted
from helpers.daemons import Daemon
from helpers.machine import AF_ALG
from helpers.restricted import CAPABLE, EVERYBODY, MODES, Restriction
from helpers.talking import submit, take
from names.survey import CATALOGUE

from cryptofs.algorithms import Type
from cryptofs.client import Context as Client
from cryptofs.contexts import Context, ContextTable
from cryptofs.engines.af_alg import MISS_SECONDS, AfAlgEngine, proc_crypto, sockets
from cryptofs.engines.base import Engine
from cryptofs.engines.opening import open_engines
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.records import RECORD_MAX, Attr, Operation, Record, build, parse_responses

OPENSSL = OpensslEngine()
BY_OPENSSL = {f"{type_} {name}" for type_, name in CATALOGUE if OPENSSL.describe(type_, name) is not None}
KEY = bytes(range(32))


@pytest.fixture(params=["toys", pytest.param("kernel", marks=pytest.mark.af_alg)])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Restriction:
    """A kernel that allows everything as yet."""
    restriction = Restriction()
    if request.param == "toys":
        monkeypatch.setattr(sockets, "open_socket", restriction.open_toy)
        monkeypatch.setattr(proc_crypto, "PATH", tmp_path / "none")
    else:
        monkeypatch.setattr(sockets, "open_socket", restriction.open_real)
    return restriction


class Asker:
    """A table with both engines, or those given, and requests to contexts of it."""

    def __init__(self, *engines: Engine) -> None:
        self.table = ContextTable(engines or (AfAlgEngine(), OPENSSL))

    def ask(self, context: Context, operation: Operation, payload: bytes = b"", **words: object) -> Record:
        attributes = {Attr[word.upper()]: value for word, value in words.items()}
        submit(context, build(Record(operation, 0, 1, 0, attributes, payload)))  # type: ignore[arg-type]
        taken = take(context, RECORD_MAX)
        assert taken is not None
        (answer,) = parse_responses(bytes(taken))
        return answer

    def configure(self, type_: str, name: str, **words: object) -> tuple[Context, Record]:
        context = self.table.open(1000, 1000, 1, False)
        return context, self.ask(context, Operation.CONFIGURE, type=type_, name=name, **words)

    def server(self, type_: str, name: str, **words: object) -> str:
        """Which engine serves a name, or the errno's name."""
        context, answer = self.configure(type_, name, **words)
        self.table.close(context)
        return errno.errorcode[answer.status] if answer.status else str(answer.attributes[Attr.ENGINE])


def allowed(mode: str) -> set[str]:
    """Names of the catalogue that a mode allows."""
    everything = {f"{type_} {name}" for type_, name in CATALOGUE}
    return everything & {"0": everything, "1": EVERYBODY, "1 capable": CAPABLE}.get(mode, set())


@pytest.mark.parametrize("mode", MODES)
def test_who_serves_what(kernel: Restriction, mode: str) -> None:
    """Each name of the catalogue: the kernel's if it is allowed, else OpenSSL's, else ENOENT."""
    before = AfAlgEngine()
    offered = {f"{type_} {name}" for type_, name in CATALOGUE if before.describe(type_, name) is not None}
    kernel.mode = mode
    asker = Asker()
    for type_, name in CATALOGUE:
        each = f"{type_} {name}"
        by_kernel = each in offered & allowed(mode)
        expected = "af_alg" if by_kernel else "openssl" if each in BY_OPENSSL else "ENOENT"
        assert asker.server(type_.value, name) == expected, each
        assert asker.server(type_.value, name, engine="af_alg") == ("af_alg" if by_kernel else "ENOENT"), each


def test_the_counts_of_the_document() -> None:
    """What docs/kernels.md says of 7.3."""
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()
    everybody, capable = len(allowed("1")), len(allowed("1 capable"))
    assert f"leaves {everybody} to an unprivileged process, {capable} to a privileged one" in text
    short = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| 7.3, ")}
    assert f"| {everybody} to the daemon" in short["7.3, `af_alg_restrict=1` (the default)"]
    assert f"| {len(allowed('1') | BY_OPENSSL)} |" in short["7.3, `af_alg_restrict=1` (the default)"]
    refused = next(line for head, line in short.items() if "af_alg_restrict=2" in head)
    assert f"| 0 | {len(BY_OPENSSL)} |" in refused
    for name in EVERYBODY | CAPABLE:
        assert name.split()[1].split("(")[0] in text


@pytest.mark.parametrize("mode", ["1", "1 capable", "2", "container"])
def test_narrowed_while_it_runs(kernel: Restriction, mode: str) -> None:
    """A name that was served by the kernel and is forbidden now goes to OpenSSL, and back when it is allowed again."""
    asker = Asker()
    names = [("skcipher", "cbc(aes)"), ("hash", "sha1"), ("aead", "gcm(aes)"), ("skcipher", "xts(aes)")]
    for type_, name in names:
        assert asker.server(type_, name) == "af_alg"
    kernel.mode = mode
    for type_, name in names:
        expected = "af_alg" if f"{type_} {name}" in allowed(mode) else "openssl"
        for _ in range(2):
            assert asker.server(type_, name) == expected, name
        demanded = asker.server(type_, name, engine="af_alg")
        assert demanded == ("af_alg" if expected == "af_alg" else "ENOENT")


def test_a_name_that_only_the_kernel_had(kernel: Restriction) -> None:
    asker = Asker()
    assert asker.server("hash", "streebog256") == "af_alg"
    kernel.mode = "1"
    assert asker.server("hash", "streebog256") == "ENOENT"


def test_allowed_again(kernel: Restriction, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("cryptofs.engines.af_alg.time.monotonic", lambda: now)
    asker = Asker()
    assert asker.server("skcipher", "cbc(aes)") == "af_alg"
    kernel.mode = "1"
    assert asker.server("skcipher", "cbc(aes)") == "openssl"
    asked = len(kernel.asked)
    assert asker.server("skcipher", "cbc(aes)") == "openssl"
    assert len(kernel.asked) == asked, "a refusal is remembered for a while"
    kernel.mode = "0"
    now += MISS_SECONDS + 1
    assert asker.server("skcipher", "cbc(aes)") == "af_alg"


def test_drivers_are_on_no_list(kernel: Restriction) -> None:
    """A driver that was demanded by name is refused, not replaced by another one."""
    asker = Asker()
    context, answer = asker.configure("skcipher", "cbc(aes)")
    driver = str(answer.attributes[Attr.DRIVER])
    kernel.mode = "1 capable"
    assert asker.server("skcipher", "cbc(aes)", driver=driver) == "af_alg"  # it is the preferred one
    kernel.mode = "1"
    assert asker.server("skcipher", "cbc(aes)", driver=driver) == "ENOENT"
    asker.table.close(context)


@pytest.mark.af_alg
@pytest.mark.parametrize("mode", ["1", "2", "container"])
def test_what_is_open_goes_on(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Contexts that are configured compute as before; a new key may want a new socket, and is refused with ENOENT."""
    restriction = Restriction()
    monkeypatch.setattr(sockets, "open_socket", restriction.open_real)
    asker = Asker()
    context, _ = asker.configure("skcipher", "cbc(aes)", key=KEY)
    other = Asker(OPENSSL).configure("skcipher", "cbc(aes)", key=KEY)[0]

    def encrypt(one: Context, size: int) -> bytes:
        answer = asker.ask(one, Operation.ENCRYPT, bytes(size), iv=KEY[:16])
        assert answer.status == 0
        return bytes(answer.payload)

    assert encrypt(context, 64) == encrypt(other, 64)
    restriction.mode = mode
    for size in (16, 64, 300_000 // 16 * 16):
        assert encrypt(context, size) == encrypt(other, size)
    assert asker.ask(context, Operation.SET_KEY, key=bytes(32)).status == errno.ENOENT
    assert encrypt(context, 64) == encrypt(other, 64), "the old key stays"
    asker.table.close_all()


# Over a mount


@pytest.fixture
def restricted_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A daemon on a restricted kernel: its mount point, and the file that has the mode."""
    mode = tmp_path / "mode"
    mode.write_text("0")
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    monkeypatch.setenv("CRYPTOFS_TEST_RESTRICT", str(mode))
    popen = subprocess.Popen

    def start(command: list[str], **words: object) -> "subprocess.Popen[bytes]":
        assert command[1:3] == ["-m", "cryptofs"]
        return popen([command[0], restricted.__file__, *command[3:]], **words)  # type: ignore[call-overload,no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr("helpers.daemons.subprocess.Popen", start)
        daemon = Daemon(mountpoint, log=tmp_path / "log")
    try:
        yield mountpoint, mode
        assert daemon.stop() == 0, daemon.log
        assert "Traceback" not in daemon.log, daemon.log
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.mark.mount
@pytest.mark.af_alg
@pytest.mark.parametrize("mode", ["1", "2", "container"])
def test_narrowed_under_a_mount(restricted_mount: tuple[Path, Path], mode: str) -> None:
    mountpoint, mode_file = restricted_mount
    iv = KEY[:16]
    with Client(Type.SKCIPHER, "cbc(aes)", KEY, mount=mountpoint) as before:
        assert before.engine == "af_alg"
        expected = before.encrypt(bytes(64), iv)
        mode_file.write_text(mode)
        assert before.encrypt(bytes(64), iv) == expected
        with Client(Type.SKCIPHER, "cbc(aes)", KEY, mount=mountpoint) as after:
            assert after.engine == "openssl"
            assert after.encrypt(bytes(64), iv) == expected
            assert "engine: openssl" in (mountpoint / "algorithms" / "skcipher" / "cbc(aes)").read_text()
        with Client(Type.HASH, "sha1", mount=mountpoint) as allowed_still:
            assert allowed_still.engine == ("af_alg" if mode == "1" else "openssl")
        assert before.decrypt(expected, iv) == bytes(64)


def test_the_order_says_who_is_asked() -> None:
    """With the kernel left out nothing is asked of it."""
    (only,) = open_engines(("openssl",))
    assert Asker(only).server("skcipher", "cbc(aes)") == "openssl"
    assert Asker(only).server("skcipher", "cbc(aes)", engine="af_alg") == "ENOENT"
    assert AF_ALG or Asker(AfAlgEngine(), only).server("skcipher", "cbc(aes)") == "openssl"
