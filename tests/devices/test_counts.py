"""Counts of messages over restarts: never too small, shared by all that have the key, and near the bound they warn."""

import errno
import logging
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from helpers.configs import write_private
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.config import load
from cryptofs.daemon.assembly import Assembly
from cryptofs.daemon.state import VARIABLE, state_directory
from cryptofs.devices import counts
from cryptofs.devices.counts import Count, Counts, read_count, write_count
from cryptofs.errors import CryptofsError, InvalidValue, OverQuota, SystemFault


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test comes to their ends."""
    monkeypatch.setattr(counts, "BLOCK", 16)


def settled(count: Count) -> Count:
    """After a writer that may be at work."""
    writer = count._writer
    if writer is not None:
        writer.join(10)
    return count


@pytest.mark.parametrize("in_order", [True, False])
def test_a_restart(tmp_path: Path, in_order: bool) -> None:
    """An orderly end keeps the exact number, a crash at most a block and a half more."""
    used = 0
    for messages in (1, 5, 40, 0, 16):
        kept = Counts(tmp_path)
        count = kept.of("k", 10_000)
        assert count.used >= used
        assert count.used - used <= (0 if in_order else 2 * counts.BLOCK)
        used = count.used
        for _ in range(messages):
            count.take("d")
            settled(count)
            # What is on the disk is never behind.
            assert read_count(tmp_path / "messages-k") >= count.used
        used += messages
        assert count.used == used
        if in_order:
            kept.close()
    assert os.listdir(tmp_path) == ["messages-k"]
    assert (tmp_path / "messages-k").stat().st_mode & 0o777 == 0o600


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=8), st.integers(1, 120))
def test_model(tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, bool]], largest: int) -> None:
    """Runs that end in order or not: at no time more messages than the bound."""
    directory = tmp_path_factory.mktemp("state")
    made = 0
    for messages, in_order in runs:
        kept = Counts(directory)
        count = kept.of("k", largest)
        for _ in range(messages):
            try:
                count.take("d")
            except OverQuota:
                break
            made += 1
            settled(count)
        assert made <= count.used <= largest
        if in_order:
            kept.close()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    """Messages begin in the event loop and in workers."""
    count = Counts(tmp_path).of("k", 4000)
    refused = []

    def work() -> None:
        for _ in range(1000):
            try:
                count.take("d")
            except OverQuota:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    settled(count)
    assert len(refused) == 1000
    assert read_count(tmp_path / "messages-k") == 4000


def test_an_orderly_end_is_exact_whatever_threads_did(tmp_path: Path) -> None:
    """What is shown may lag behind, where two threads set it at the same time. What is written down may not."""
    kept = Counts(tmp_path)
    count = kept.of("k", 1000)
    for _ in range(5):
        count.take("d")
    # Another thread was stopped between its message and this.
    count.used = 4
    kept.close()
    assert read_count(tmp_path / "messages-k") == count.used == 5
    kept.close()
    assert read_count(tmp_path / "messages-k") == 5
    count.take("d")
    kept.close()
    assert read_count(tmp_path / "messages-k") in (6, 7)


def test_a_late_writer_leaves_the_exact_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins only after the orderly end."""
    late: list[threading.Thread] = []

    def not_yet(thread: threading.Thread) -> None:
        late.append(thread)

    monkeypatch.setattr(threading.Thread, "start", not_yet)
    kept = Counts(tmp_path)
    count = kept.of("k", 1000)
    for _ in range(12):
        count.take("d")
    monkeypatch.undo()
    kept.close()
    assert late
    for each in late:
        each.start()
        each.join(10)
    assert read_count(tmp_path / "messages-k") == 12


def test_without_a_free_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages go on, and are written down at the end of the block."""

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    count = Counts(tmp_path).of("k", 1000)
    for _ in range(40):
        count.take("d")
        assert read_count(tmp_path / "messages-k") >= count.used


@pytest.mark.parametrize("directory", [True, False])
def test_near_the_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture, directory: bool) -> None:
    """One warning, at 90 %, and at the bound EDQUOT for ever."""
    count = Counts(tmp_path if directory else None).of("k", 100)
    with caplog.at_level(logging.WARNING):
        for _ in range(90):
            settled(count).take("d")
        assert not caplog.records
        for _ in range(10):
            settled(count).take("d")
    assert [each.getMessage() for each in caplog.records] == [
        "device d: its key has encrypted 90 of at most 100 messages: give it a new version"
    ]
    for _ in range(3):
        with pytest.raises(OverQuota, match="100 messages under one key: at most 100"):
            count.take("d")
    assert count.used == 100


def test_a_directory_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says it, and the messages go on."""
    count = Counts(tmp_path / "gone").of("k", 100)
    count.take("d")
    assert "not counted over a restart: No such file" in caplog.text
    assert count.used == 1


@pytest.mark.parametrize("text", ["", "7\n", "cryptofs count 1\n", "cryptofs count 1\nx\n", "cryptofs count 1\n-1\n"])
def test_a_file_that_is_no_count(tmp_path: Path, text: str) -> None:
    """It is refused, not taken for 0."""
    (tmp_path / "messages-k").write_text(text)
    with pytest.raises(InvalidValue, match="no count of messages"):
        Counts(tmp_path).of("k", 100)


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_write_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """If the disk is full, the old number stays."""
    path = tmp_path / "messages-k"
    write_count(path, 5)
    write = os.write

    def full(descriptor: int, text: bytes = b"") -> int:
        if call == "write":
            return write(descriptor, text[:-2])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as caught:
        write_count(path, 60)
    assert caught.value.errno == errno.ENOSPC
    assert read_count(path) == 5


def test_nothing_else_is_read_or_waited_for(tmp_path: Path) -> None:
    """The serving account owns the directory, and root may read it at the start."""
    os.mkfifo(tmp_path / "messages-fifo")
    (tmp_path / "other").write_text("cryptofs count 1\n5\n")
    (tmp_path / "messages-link").symlink_to(tmp_path / "other")
    with pytest.raises(InvalidValue, match="no count of messages"):
        Counts(tmp_path).of("fifo", 100)
    with pytest.raises(SystemFault):
        Counts(tmp_path).of("link", 100)


# The daemon


def declared(directory: Path, more: str = "") -> Path:
    """Two devices with one key, and a third with another."""
    for name, byte in (("one", 1), ("two", 2)):
        write_private(directory / name, bytes([byte]) * 32)
    text = f'[daemon]\nstate = "{directory}/state"\n'
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        text += f'[devices.{name}]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "{directory}/{key}"\n'
    return write_private(directory / "cryptofs.toml", (text + more).encode())


def test_all_devices_with_a_key_share_its_count(tmp_path: Path) -> None:
    """Over a restart, and whatever the device is called then; no name of a file and no file has a key."""
    config = declared(tmp_path)
    with closing(Assembly(("openssl",), config)) as assembly:
        devices = assembly.table.devices
        for name, messages in (("a", 3), ("b", 4), ("c", 5)):
            for _ in range(messages):
                devices[name].make_nonce(devices[name].versions.newest)
        assert [devices[name].messages for name in "abc"] == [7, 7, 5]
        assert "key versions" not in assembly.reload()
        assert assembly.table.devices["a"].messages == 7
    files = sorted((tmp_path / "state").iterdir())
    assert len(files) == 2
    assert sorted(read_count(path) for path in files) == [5, 7]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert not any(f"{byte:02x}" * 4 in str(files) for byte in (1, 2))
    config.write_text(config.read_text().replace("devices.b", "devices.other"))
    with closing(Assembly(("openssl",), config)) as assembly:
        assert assembly.table.devices["other"].messages == 7
        write_private(tmp_path / "two", bytes([1]) * 32)
        assembly.reload()
        assert assembly.table.devices["c"].messages == 7


def test_a_damaged_count_stops_the_start(tmp_path: Path) -> None:
    """Nobody would notice a count from 0."""
    config = declared(tmp_path)
    with closing(Assembly(("openssl",), config)) as assembly:
        device = assembly.table.devices["a"]
        device.make_nonce(device.versions.newest)
    for path in (tmp_path / "state").iterdir():
        path.write_text("damaged")
    with pytest.raises(InvalidValue, match="no count of messages"):
        Assembly(("openssl",), config)


def test_two_daemons_do_not_count_in_one_directory(tmp_path: Path) -> None:
    """Each would write over what the other has counted. After the end or the failed start of one, another may."""
    config = declared(tmp_path)
    with (
        closing(Assembly(("openssl",), config)),
        pytest.raises(SystemFault, match="another daemon keeps its counts there") as caught,
    ):
        Assembly(("openssl",), config)
    assert caught.value.errno == errno.EBUSY
    (tmp_path / "one").chmod(0o644)
    with pytest.raises(CryptofsError, match="mode 0644"):
        Assembly(("openssl",), config)
    (tmp_path / "one").chmod(0o600)
    del caught
    with closing(Assembly(("openssl",), config)):
        pass


def test_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration's, else systemd's, else none; others may have no right to it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert state_directory(None, None) is None
    (tmp_path / "given").mkdir(0o700)
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/given:/another")
    assert state_directory(None, None) == tmp_path / "given"
    assert state_directory(tmp_path / "own", None) == tmp_path / "own"
    assert load(declared(tmp_path)).daemon.state == tmp_path / "state"
    (tmp_path / "own").chmod(0o750)
    with pytest.raises(SystemFault, match="mode 0750"):
        state_directory(tmp_path / "own", None)
    with pytest.raises(CryptofsError, match="must belong to"):
        state_directory(tmp_path / "given", os.geteuid() + 1)
