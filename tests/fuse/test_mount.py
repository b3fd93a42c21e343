"""Tier three: the real mount, with real programs."""

import contextlib
import errno
import hmac
import os
import select
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.machine import AF_ALG, af_alg_sockets
from helpers.other_user import NOBODY, become
from helpers.waiting import PATIENCE, wait_until
from vectors import FAMILIES, load
from vectors.counts import record as record_counts

from cryptofs.algorithms import Type
from cryptofs.client import Context, RequestError
from cryptofs.records import Attr, Operation, Record, build, parse_responses

pytestmark = pytest.mark.mount


def shell(script: str, mount: Path, *arguments: str, timeout: float = 60 * PATIENCE) -> str:
    """Run a bash script with $M the mount; returns its output. It must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "bash", *arguments],
        env={**os.environ, "M": str(mount)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CONTEXT = "exec 3<>$M/crypto; read -r id <&3; C=$M/contexts/$id; "


def test_each_type_through_the_client(mount: Path) -> None:
    """Hash, cipher, AEAD and random numbers, whole and in parts."""
    with Context("hash", "sha256", mount=mount) as context:
        assert context.digest(b"abc").hex().startswith("ba7816bf")
        message = context.message(Operation.DIGEST)
        assert message.update(b"a") + message.update(b"b") == b""
        assert message.finish(b"c") == context.digest(b"abc")
    with Context("skcipher", "cbc(aes)", bytes(16), mount=mount) as context:
        data = os.urandom(3_000_000 - 3_000_000 % 16)
        assert context.decrypt(context.encrypt(data, bytes(16)), bytes(16)) == data
    with Context("aead", "gcm(aes)", bytes(32), authsize=12, mount=mount) as context:
        sealed = context.encrypt(b"text", bytes(12), b"associated")
        assert len(sealed) == 4 + 12
        assert context.decrypt(sealed, bytes(12), b"associated") == b"text"
        with pytest.raises(RequestError) as caught:
            context.decrypt(sealed, bytes(12), b"Associated")
        assert caught.value.errno == errno.EBADMSG
    with Context("rng", "stdrng", mount=mount) as context:
        assert len({context.generate(32) for _ in range(10)}) == 10
        assert len(context.generate(2_000_000)) == 2_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_of_the_vectors(mount: Path, family: str) -> None:
    """Some vectors of each family, through open, write and read."""
    cases, _ = load(family)
    sample = cases[:: max(1, len(cases) // 25)]
    assert sample
    if not any((mount / "algorithms" / each.type / each.name).exists() for each in sample):
        pytest.skip(f"NOT RUN: no engine here offers {sample[0].name}")
    counts = record_counts("mount", family)
    for case in sample:
        authsize = case.authsize if case.type is Type.AEAD else None
        # the catalogue has names that no engine offers on some machines, such as streebog256
        if not (mount / "algorithms" / case.type / case.name).exists():
            continue
        with Context(case.type, case.name, case.key, authsize=authsize, mount=mount) as context:
            counts.cases += 1
            counts.rejected += not case.valid
            if case.operation is Operation.DIGEST:
                assert context.digest(case.data)[: len(case.expected)] == case.expected, case.where
                continue
            call = context.encrypt if case.operation is Operation.ENCRYPT else context.decrypt
            if case.valid:
                assert call(case.data, case.iv, case.assoc) == case.expected, case.where
            else:
                with pytest.raises(RequestError) as caught:
                    call(case.data, case.iv, case.assoc)
                assert caught.value.errno == errno.EBADMSG, case.where
    assert counts.cases


def test_messages_say_value_and_bound(mount: Path) -> None:
    """An error carries the errno and a message that names what was given and what would do."""
    with pytest.raises(RequestError, match=r"key of 5 bytes.*16 24 32") as caught:
        Context("skcipher", "cbc(aes)", b"short", mount=mount)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(RequestError, match="no engine offers it") as caught:
        Context("hash", "nonsense", mount=mount)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.skipif(not AF_ALG, reason="without AF_ALG there is one engine only")
def test_an_engine_can_be_demanded(mount: Path) -> None:
    """Both engines give the same bytes for the same call."""
    digests = set()
    for engine in ("af_alg", "openssl"):
        with Context("hash", "sha512", engine=engine, mount=mount) as context:
            assert context.engine == engine
            digests.add(context.digest(b"abc"))
    assert len(digests) == 1


@pytest.mark.af_alg
@pytest.mark.parametrize(
    ("type_", "name", "key"),
    [("hash", "sha256", None), ("skcipher", "cbc(aes)", bytes(16)), ("aead", "gcm(aes)", bytes(16)),
     ("rng", "stdrng", None)],
)  # fmt: skip
def test_af_alg_serves(daemon: Daemon, type_: str, name: str, key: bytes | None) -> None:
    """Where the kernel has AF_ALG, status says so with the kernel's driver, and the daemon holds the sockets."""
    before = af_alg_sockets(daemon.process.pid)
    with Context(type_, name, key, mount=daemon.mountpoint) as context:
        status = context.status()
        assert status["engine"] == "af_alg"
        drivers = Path("/proc/crypto").read_text()
        assert f"driver       : {status['driver']}\n" in drivers
        during = af_alg_sockets(daemon.process.pid)
        print(f"{name}: engine {status['engine']}, driver {status['driver']}, {during - before} AF_ALG sockets more")
        assert during > before
    wait_until(lambda: af_alg_sockets(daemon.process.pid) == before)


def test_close_frees_the_context(daemon: Daemon) -> None:
    """The last close takes the directory away; dup and fork share the context until then."""
    mount = daemon.mountpoint
    context = Context("hash", "sha256", mount=mount)
    directory = context.directory
    copy = os.dup(context.fileno())
    context.close()
    time.sleep(0.1)
    assert directory.exists()
    request = build(Record(Operation.DIGEST, id=9, payload=b"abc"))
    child = os.fork()
    if child == 0:
        os.pwrite(copy, request, 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert parse_responses(os.pread(copy, 4096, 0))[0].id == 9
    os.close(copy)
    wait_until(lambda: not directory.exists())


def test_many_contexts_do_not_mix(mount: Path) -> None:
    """200 contexts with keys of their own, interleaved: every answer is its own context's."""
    contexts = [Context("hash", "hmac(sha256)", key=bytes([n]) * 8, mount=mount) for n in range(200)]
    try:
        for _ in range(3):
            for n, context in enumerate(contexts):
                assert context.digest(b"data") == hmac.digest(bytes([n]) * 8, b"data", "sha256")
    finally:
        for context in contexts:
            context.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root to become another user")
def test_another_user(mount: Path) -> None:
    """Another uid uses the device, but sees no context of root's and reaches none by its path."""
    mount.parent.chmod(0o755)
    mount.parent.parent.chmod(0o755)
    mount.parent.parent.parent.chmod(0o755)
    with Context("hash", "sha256", mount=mount) as context:
        inside = context.directory / "ctl"
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                become()
                assert os.listdir(mount / "contexts") == []
                with pytest.raises(OSError) as caught:
                    os.open(inside, os.O_RDWR)
                assert caught.value.errno in (errno.EACCES, errno.ENOENT)
                with Context("hash", "sha256", mount=mount) as mine:
                    assert mine.digest(b"abc").hex().startswith("ba7816bf")
                    assert os.listdir(mount / "contexts") == [str(mine.number)]
                    assert os.stat(mine.directory).st_uid == NOBODY
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_shell_streams(mount: Path, tmp_path: Path) -> None:
    """Two shell processes move megabytes through a stream; small input goes in one."""
    data = os.urandom(5_000_000)
    (tmp_path / "big").write_bytes(data)
    script = (
        CONTEXT
        + """
        printf 'configure type=skcipher name=ctr(aes) key=hex:%032d iv=hex:%032d' 0 0 > $C/ctl
        cat $1/big > $C/stream & cat $C/stream > $1/sealed; wait $!
        printf 'reset operation=decrypt iv=hex:%032d' 0 > $C/ctl
        cat $1/sealed > $C/stream & cat $C/stream > $1/back; wait $!
        exec 3>&-
    """
    )
    shell(script, mount, str(tmp_path))
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "sealed").read_bytes() != data
    small = (
        CONTEXT
        + """
        echo 'configure type=hash name=sha256' > $C/ctl
        printf abc > $C/stream; cat $C/stream | od -An -tx1 | tr -d ' \\n'; echo
        exec 4<>$C/stream; printf ab >&4; printf c >&4; cat <&4 | od -An -tx1 | tr -d ' \\n'; echo
    """
    )
    assert shell(small, mount).split() == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"] * 2


def test_a_stream_reader_waits_for_its_writer(mount: Path) -> None:
    """The reader may come first, and a slow writer gives it no early end of file."""
    script = (
        CONTEXT
        + """
        echo 'configure type=hash name=sha256' > $C/ctl
        (sleep 0.5; (printf a; sleep 0.5; printf b; sleep 0.5; printf c) > $C/stream) &
        cat $C/stream | od -An -tx1 | tr -d ' \\n'; wait $!
    """
    )
    assert shell(script, mount).startswith("ba7816bf")


def test_stream_errors_are_told(mount: Path) -> None:
    """A message that fails at its end fails its reader; status says why."""
    with Context("skcipher", "ecb(aes)", bytes(16), mount=mount) as context:
        stream = context.directory / "stream"
        stream.write_bytes(b"not a block")
        reader = os.open(stream, os.O_RDONLY)
        try:
            with pytest.raises(OSError) as caught:
                os.read(reader, 100)
            assert caught.value.errno == errno.EINVAL
        finally:
            os.close(reader)
        assert "multiple of 16" in context.status()["stream-error"]


def test_a_waiting_reader_can_be_killed(mount: Path) -> None:
    """A reader that waits for a writer ends soon after a signal, SIGKILL too."""
    with Context("hash", "sha256", mount=mount) as context:
        for number in (signal.SIGTERM, signal.SIGKILL):
            reader = subprocess.Popen(["cat", str(context.directory / "stream")], stdout=subprocess.DEVNULL)
            time.sleep(0.5)
            assert reader.poll() is None
            reader.send_signal(number)
            # the opener is cat itself, so the daemon sees the signal wait
            assert reader.wait(2 * PATIENCE) == -number


def test_threads_share_one_context(mount: Path) -> None:
    """pread and pwrite from several threads: each answer exactly once."""
    with Context("hash", "sha256", mount=mount) as context:
        answers: list[int] = []

        def work(first: int) -> None:
            for identity in range(first, first + 50):
                os.pwrite(context.fileno(), build(Record(Operation.DIGEST, id=identity, payload=b"x")), 0)
                data = os.pread(context.fileno(), 65536, 0)
                answers.extend(response.id for response in (parse_responses(data) if data else []))

        threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == sorted(n * 1000 + k for n in range(4) for k in range(50))


def test_information_files(mount: Path) -> None:
    """version, stats, algorithms and status read as the contract says."""
    assert (mount / "version").read_text().startswith("cryptofs ")
    assert "cryptofs_contexts_open" in (mount / "stats").read_text()
    for type_ in Type:
        for name in os.listdir(mount / "algorithms" / type_):
            tags = dict(line.split(": ", 1) for line in (mount / "algorithms" / type_ / name).read_text().splitlines())
            assert tags["type"] == type_
            assert tags["engine"] in ("af_alg", "openssl", "library")
            assert tags["driver"]
    assert {"sha256", "hmac(sha256)"} <= set(os.listdir(mount / "algorithms" / "hash"))
    with Context("hash", "hmac(sha256)", b"CANARY-KEY", mount=mount) as context:
        status = (context.directory / "status").read_text()
        assert "key: (hidden)\n" in status
        assert "CANARY" not in status
        assert stat.S_IMODE(os.stat(context.directory / "status").st_mode) == 0o400


def test_info_by_record(mount: Path) -> None:
    """info on the device tells what configure told."""
    with Context("aead", "gcm(aes)", bytes(16), mount=mount) as context:
        reply = context.request(Record(Operation.INFO, id=1 << 40))
        assert reply.attributes[Attr.NAME] == "gcm(aes)"
        assert reply.attributes[Attr.AUTHSIZE] == 16
        assert reply.attributes[Attr.QUEUE_REQUESTS] == 4096


def test_the_page_cache_is_never_asked(mount: Path, tmp_path: Path) -> None:
    """cp, cat and sendfile between files of the mount fall back to read and write: no byte is made up."""
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    with (
        Context("skcipher", "ctr(aes)", bytes(16), mount=mount) as cipher,
        Context("hash", "sha256", mount=mount) as hasher,
    ):
        for _ in range(5):
            (cipher.directory / "ctl").write_text(f"reset iv=hex:{bytes(16).hex()}")
            script = "cat $1 > $2/stream & cat $2/stream > $3/stream; wait $!"
            shell(script, mount, str(tmp_path / "data"), str(cipher.directory), str(hasher.directory))
            digest = (hasher.directory / "stream").read_bytes()
            assert digest == hasher.digest(cipher.encrypt(data, bytes(16)))
    copied = tmp_path / "copied"
    shutil.copyfile(mount / "version", copied)
    assert copied.read_text().startswith("cryptofs ")


def test_a_copy_does_not_wait_for_a_waiting_writer(own_daemon: Daemon, tmp_path: Path) -> None:
    """The first program that copies on a new mount: its source is a stream whose writer waits for it."""
    mount = own_daemon.mountpoint
    (tmp_path / "data").write_bytes(bytes(3_000_000))
    with (
        Context("skcipher", "ctr(aes)", bytes(16), mount=mount) as cipher,
        Context("hash", "sha256", mount=mount) as hasher,
    ):
        (cipher.directory / "ctl").write_text(f"reset iv=hex:{bytes(16).hex()}")
        # opened before: a lookup would tell the kernel that the stream has no size, and then there is nothing to copy
        source = os.open(cipher.directory / "stream", os.O_RDONLY)
        target = os.open(hasher.directory / "stream", os.O_WRONLY)
        writer = subprocess.Popen(["dd", f"if={tmp_path / 'data'}", f"of={cipher.directory / 'stream'}", "bs=128K"])
        # its megabyte of output waits
        wait_until(lambda: "stream-waiting: 1048576" in (cipher.directory / "status").read_text())
        time.sleep(0.2)
        copier = os.fork()
        if not copier:
            try:
                os.copy_file_range(source, target, 1 << 20)
            finally:
                os._exit(0)
        try:
            wait_until(lambda: os.waitpid(copier, os.WNOHANG)[0] == copier)
        finally:
            writer.kill()
            writer.wait(20 * PATIENCE)
            os.close(source)
            os.close(target)


def test_a_close_does_not_wait_for_a_waiting_writer(mount: Path, tmp_path: Path) -> None:
    """Of a process that inherited the stream's descriptor, and of the reader itself."""
    (tmp_path / "data").write_bytes(bytes(3_000_000))
    with Context("skcipher", "ctr(aes)", bytes(16), mount=mount) as cipher:
        (cipher.directory / "ctl").write_text(f"reset iv=hex:{bytes(16).hex()}")
        stream = cipher.directory / "stream"
        reader = os.open(stream, os.O_RDONLY)
        command = ["dd", f"if={tmp_path / 'data'}", f"of={stream}", "bs=128K"]
        writer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: "stream-waiting: 1048576" in (cipher.directory / "status").read_text())
            heir = subprocess.Popen(["true"], pass_fds=[reader])
            assert heir.wait(10 * PATIENCE) == 0
            closing = subprocess.Popen(["head", "-c1", stream], stdout=subprocess.DEVNULL)
            assert closing.wait(10 * PATIENCE) == 0
        finally:
            writer.kill()
            writer.wait(20 * PATIENCE)
            os.close(reader)


def test_an_exact_reader_opens_again(mount: Path) -> None:
    """Open for both, write, read just the digest, close: each digest is its own message's."""
    with Context("hash", "sha256", mount=mount) as context:
        for word in (b"abc", b"def", b"abc"):
            stream = os.open(context.directory / "stream", os.O_RDWR)
            try:
                os.write(stream, word)
                assert os.read(stream, 32) == context.digest(word)
            finally:
                os.close(stream)


def test_a_cut_control_line_is_refused(mount: Path) -> None:
    """bash's printf writes 4,096 bytes at a time: half a key is no key."""
    with Context("hash", "hmac(sha256)", b"old", mount=mount) as context:
        script = "printf 'set-key key=hex:%s\\n' $(head -c 3000 /dev/zero | od -An -v -tx1 | tr -d ' \\n') > $1/ctl"
        with pytest.raises(AssertionError, match="Invalid argument"):
            shell(script, mount, str(context.directory))
        assert context.digest(b"") == hmac.digest(b"old", b"", "sha256")


def test_sparse_files_are_not_shortened(mount: Path, tmp_path: Path) -> None:
    """A hole is data: cp of a sparse file gives the right digest, or fails."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"x")
    with Context("hash", "sha256", mount=mount) as context:
        done = subprocess.run(["cp", str(sparse), str(context.directory / "stream")], capture_output=True, check=False)
        if done.returncode == 0:
            assert (context.directory / "stream").read_bytes() == context.digest(sparse.read_bytes())
        else:
            assert b"seek" in done.stderr


def test_a_refused_write_leaves_its_reason(mount: Path) -> None:
    """Such a write has no answer, so status says why; names cannot be made or removed."""
    with Context("hash", "sha256", mount=mount) as context:
        with pytest.raises(OSError):
            os.pwrite(context.fileno(), b"x" * 30, 0)
        assert "EINVAL: version 120" in context.status()["last-error"]
    for attempt in ((mount / "new").touch, (mount / "crypto").unlink, (mount / "directory").mkdir):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EPERM


def test_a_failed_long_message_does_not_stay_open(mount: Path) -> None:
    """After EMSGSIZE of an AEAD in parts the key can be changed, and it can happen any number of times."""
    with Context("aead", "gcm(aes)", bytes(16), mount=mount) as context:
        for _ in range(3):
            with pytest.raises(RequestError) as caught:
                context.encrypt(bytes(1_100_000), bytes(12))
            assert caught.value.errno == errno.EMSGSIZE
        assert context.status()["open-messages"] == "0"
        context.set_key(bytes(16))


def test_a_waiting_request_does_not_hold_its_write(daemon: Daemon) -> None:
    """A small request that waits beside a large one of the same write lets go of it."""
    slow = ("skcipher", "cbc(des3_ede)", bytes(range(24)))
    before = daemon.memory
    with Context(*slow, mount=daemon.mountpoint) as context:
        iv = {Attr.IV: bytes(8)}
        long = build(Record(Operation.ENCRYPT, 0, 1, 0, iv, bytes(1_000_000)))
        wrong = Record(Operation.ENCRYPT, 0, 2, 0, {**iv, Attr.KEY: b"x"}, bytes(1_000_000))
        pair = build(Record(Operation.ENCRYPT, 0, 1, 0, iv, bytes(8))) + build(wrong)
        os.pwrite(context.fileno(), long, 0)
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                os.pwrite(context.fileno(), pair, 0)
            os.pread(context.fileno(), 1 << 20, 0)
        assert daemon.memory - before < 60_000_000


def test_poll_ends_when_the_context_closes(mount: Path) -> None:
    """A stream whose context has gone is ready: the read tells so."""
    context = Context("hash", "sha256", mount=mount)
    reader = os.open(context.directory / "stream", os.O_RDONLY | os.O_NONBLOCK)
    try:
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        assert poller.poll(50) == []
        threading.Timer(0.1, context.close).start()
        assert poller.poll(5000 * PATIENCE)
        with pytest.raises(OSError) as caught:
            os.read(reader, 10)
        assert caught.value.errno == errno.ENODEV
    finally:
        os.close(reader)
