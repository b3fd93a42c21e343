"""The agent of container runtimes, with a program that plays the runtime."""

import ctypes
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.compiling import compiled
from helpers.running import ABC, SECTIONS
from helpers.runtime import agent, bundle, contained, filtered, started
from helpers.waiting import PATIENCE, wait_until

from cryptofs.errors import InvalidValue, SystemFault
from cryptofs.runner.notify import RuntimesListener
from cryptofs.runner.process import GuardedMemory
from cryptofs.runner.profile import KILLABLE, profile

WAITING_DIGEST = """
import os, socket, sys
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "sha256"))
    with bound.accept()[0] as operation:
        operation.sendall(sys.argv[1].encode(), socket.MSG_MORE)
        print("ready", flush=True)
        sys.stdin.readline()
        os.write(operation.fileno(), sys.argv[2].encode())
        print(os.read(operation.fileno(), 32).hex(), flush=True)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent; its log is the file `log` beside it."""
    with agent(tmp_path / "socket", tmp_path / "log"):
        yield tmp_path / "socket"


def container(path: Path, name: str, *program: object, flags: tuple[str, ...] = (KILLABLE,)) -> "subprocess.Popen[str]":
    """A container that has started."""
    return started(*contained(path, bundle(path.parent / name, *flags), name, *program))


def test_calls(served: Path, tmp_path: Path) -> None:
    """A static program: the bytes and errnos of a kernel."""
    program = compiled("alg", tmp_path, options=("-pthread", "-static"))
    for section in ("sockets", "hash", "cipher", "aead", "pipes", "processes", "threads"):
        with container(served, section, program, section) as process:
            output, errors = process.communicate(timeout=60 * PATIENCE)
        assert (output, errors, process.returncode) == (SECTIONS[section], "", 0), section


def test_several_containers(served: Path) -> None:
    """Each has its own state; one whose process is killed gets errors, and the others go on."""
    line = [sys.executable, "-c", WAITING_DIGEST]
    with container(served, "one", *line, "a", "bc") as one, container(served, "two", *line, "ab", "c") as two:
        for each in (one, two):
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        output, _ = two.communicate("\n", timeout=60 * PATIENCE)
        assert output == ABC + "\n"
        with container(served, "three", *line, "", "abc") as three:
            output, _ = three.communicate("\n", timeout=60 * PATIENCE)
            assert output == "ready\n" + ABC + "\n"
        output, _ = one.communicate("\n", timeout=60 * PATIENCE)
        assert output == ABC + "\n"
    log = (served.parent / "log").read_text()
    assert "container one: its calls are answered" in log
    wait_until(lambda: (served.parent / "log").read_text().count("has ended") == 3, 10)


def test_sigterm(tmp_path: Path) -> None:
    """It ends with status 0 and takes the socket away; containers get errors, never wrong bytes."""
    path = tmp_path / "socket"
    with agent(path, tmp_path / "log") as process:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with container(path, "one", sys.executable, "-c", WAITING_DIGEST, "a", "bc") as one:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20 * PATIENCE) == 0
            assert not path.exists()
            output, errors = one.communicate("\n", timeout=60 * PATIENCE)
            assert output == ""
            assert "Error" in errors


def test_a_second_agent(served: Path, tmp_path: Path) -> None:
    """It is refused, and the first one goes on."""
    with agent(served, tmp_path / "second") as second:
        assert second.wait(20 * PATIENCE) == 1
    assert "another program" not in (tmp_path / "log").read_text()
    assert "EADDRINUSE" in (tmp_path / "second").read_text()
    with container(served, "one", sys.executable, "-c", WAITING_DIGEST, "a", "bc") as one:
        assert one.communicate("\n", timeout=60 * PATIENCE)[0] == "ready\n" + ABC + "\n"


def test_the_socket_of_a_killed_agent(tmp_path: Path) -> None:
    """The next one takes its place. What is no socket stays as it is."""
    path = tmp_path / "socket"
    with agent(path, tmp_path / "first") as first:
        first.kill()
        first.wait(20 * PATIENCE)
        assert path.exists()
    with (
        agent(path, tmp_path / "log"),
        container(path, "one", sys.executable, "-c", WAITING_DIGEST, "a", "bc") as one,
    ):
        assert one.communicate("\n", timeout=60 * PATIENCE)[0] == "ready\n" + ABC + "\n"
    path.write_text("kept")
    with agent(path, tmp_path / "third") as third:
        assert third.wait(20 * PATIENCE) == 1
    assert path.read_text() == "kept"


def test_without_the_flag(served: Path, tmp_path: Path) -> None:
    """A container whose filter lets signals interrupt its calls gets ENOSYS, unless the agent is told otherwise."""
    line = [sys.executable, "-c", WAITING_DIGEST, "a", "bc"]
    with container(served, "one", *line, flags=()) as one:
        output, errors = one.communicate("\n", timeout=60 * PATIENCE)
    assert (output, errors.rpartition("OSError: ")[2]) == ("", "[Errno 38] Function not implemented\n")
    assert KILLABLE in (tmp_path / "log").read_text()
    other = tmp_path / "other"
    with (
        agent(other, tmp_path / "log2", "--interruptible"),
        started(*contained(other, tmp_path / "one", "one", *line)) as two,
    ):
        assert two.communicate("\n", timeout=60 * PATIENCE)[0] == "ready\n" + ABC + "\n"


@pytest.mark.parametrize(
    "text",
    [
        b"no JSON",
        b"[" * 100_000,
        b'"fds"',
        b'{"fds": ["seccompFd"], "pid": 1, "state": {"id": "x"}}',
        b'{"fds": ["other"], "pid": 1, "state": {"id": "x", "bundle": "/"}}',
        b'{"fds": ["seccompFd"], "pid": "one", "state": {"id": "x", "bundle": "/"}}',
        b'{"fds": ["seccompFd"], "pid": 1, "state": {"id": "x\\u001b", "bundle": "/"}}',
    ],
    ids=range(7),
)
def test_what_is_no_container(served: Path, text: bytes) -> None:
    """It is logged in one line and dropped, with the descriptors that came; the agent goes on."""
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(served))
        socket.send_fds(connection, [text[:10]], [writer])
        connection.sendall(text[10:])
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    log = (served.parent / "log").read_text()
    assert len(log.splitlines()) == 2, log
    assert "\x1b" not in log
    with container(served, "one", sys.executable, "-c", WAITING_DIGEST, "a", "bc") as one:
        assert one.communicate("\n", timeout=60 * PATIENCE)[0] == "ready\n" + ABC + "\n"


def test_another_process_with_the_threads_number() -> None:
    """The memory of a thread that has been killed is nobody's: nothing is read or written by its number."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        socket.send_fds(theirs, [b"x"], [filtered()])
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
        os._exit(0)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    listener = RuntimesListener(descriptors[0])
    call = listener.receive()
    assert call is not None
    assert call.tid == child
    assert isinstance(call.memory, GuardedMemory)
    # this process stands for the one that has got the number
    buffer = ctypes.create_string_buffer(b"before", 6)
    at = ctypes.addressof(buffer)
    mine = GuardedMemory(os.getpid(), call.memory._check)
    mine.scatter([(at, 2), (at + 4, 2)], b"1234")
    assert (buffer.raw, mine.read(at, 6)) == (b"12fo34", b"12fo34")
    with pytest.raises(SystemFault) as caught:
        mine.write(8, b"12345678")
    assert caught.value.errno == errno.EFAULT
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    attempts: list[Any] = [
        lambda: mine.write(at, b"after!"),
        lambda: mine.read(at, 6),
        lambda: mine.read_key(at, 6),
        lambda: mine.take_descriptor(ours.fileno()),
    ]
    for attempt in attempts:
        with pytest.raises(SystemFault) as caught:
            attempt()
        assert caught.value.errno == errno.ESRCH
    assert buffer.raw == b"12fo34"
    listener.close()
    ours.close()
    theirs.close()


def _sockets(family: int, comparison: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    """A rule on the family of sockets."""
    condition = {"index": 0, "value": family, "op": f"SCMP_CMP_{comparison}"}
    return {"names": ["socket"], "action": action, "args": [condition], **more}


def test_the_profile() -> None:
    """What a base refuses stays refused; the calls of the agent have no other rules; no rule repeats the default."""
    base = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"names": ["read", "write", "openat", "fcntl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_NE"}]},
            {"names": ["sendmsg"], "action": "SCMP_ACT_ERRNO"},
        ],
    }
    made = profile("/run/socket", base, killable=True)
    assert made["listenerPath"] == "/run/socket"
    assert made["flags"] == ["SECCOMP_FILTER_FLAG_LOG", KILLABLE]
    assert made["syscalls"][0] == {"names": ["write", "openat"], "action": "SCMP_ACT_ALLOW"}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for rule in made["syscalls"]:
        for name in rule["names"]:
            by_name.setdefault(name, []).append(rule)
    assert set(by_name) == {"write", "openat", "read", "fcntl", "socket"}
    assert [rule["action"] for rule in by_name["read"]] == ["SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW"]
    families = [rule["args"][0]["value"] for rule in by_name["socket"] if rule["action"] == "SCMP_ACT_ALLOW"]
    assert not {38, 40} & set(families)
    assert "SCMP_ACT_ALLOW" not in {rule["action"] for rule in profile("/x", None, killable=False)["syscalls"]}
    # families that the base does not allow, and a base that allows no socket at all
    assert 1 in families
    for syscalls, expected in (
        ([_sockets(3, "LT"), _sockets(16, "EQ")], {0, 1, 2, 16}),
        ([_sockets(42, "GT")], {43, 44, 45}),
        ([], set()),
    ):
        rules = profile("/x", {**base, "syscalls": syscalls}, killable=True)["syscalls"]
        allowing = [rule for rule in rules if rule["names"] == ["socket"] and rule["action"] == "SCMP_ACT_ALLOW"]
        assert {rule["args"][0]["value"] for rule in allowing} == expected


def test_the_profile_of_a_base_that_allows_the_rest() -> None:
    """What its rules refuse stays refused, with its errno."""
    refusal = {"action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    syscalls = [{**refusal, "names": ["splice", "bpf"]}, _sockets(40, "EQ", **refusal), _sockets(38, "EQ", **refusal)]
    made = profile("/x", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}, killable=True)["syscalls"]
    assert made[:2] == [syscalls[0], {**syscalls[1]}]
    assert [rule["action"] for rule in made if "splice" in rule["names"]] == ["SCMP_ACT_ERRNO"]
    assert {(rule["action"], rule["args"][0]["value"]) for rule in made if rule["names"] == ["socket"]} == {
        ("SCMP_ACT_ERRNO", 40), ("SCMP_ACT_NOTIFY", 38), ("SCMP_ACT_NOTIFY", 16),
    }  # fmt: skip


def test_no_profile() -> None:
    """A base that is none, or that has rules on arguments of the agent's calls."""
    for wrong in (
        [{"names": ["read"]}],
        [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]}],
        [1],
    ):
        with pytest.raises(InvalidValue):
            profile("/x", {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": wrong}, killable=True)
