"""What the caller of `cryptofs run` sees: exit status, signals, job control, input, children, refusals."""

import contextlib
import importlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
from helpers.compiling import compiled
from helpers.machine import TESTS
from helpers.other_user import NOBODY, as_user, needs_root, readable
from helpers.refusing import KILLABLE, inside
from helpers.running import ABC, DIGEST, OPENSSL, command, run
from helpers.waiting import PATIENCE, wait_until

from cryptofs.algorithms import Type
from cryptofs.runner.backend import LocalBackend


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in C."""
    return compiled("alg", tmp_path_factory.mktemp("alg"), options=("-pthread",))


def python(text: str) -> list[str]:
    """A program in Python."""
    return [sys.executable, "-c", text]


@contextlib.contextmanager
def started(*program: str, **more: object) -> Iterator["subprocess.Popen[str]"]:
    """A program under the supervisor, which goes on while the test looks."""
    with subprocess.Popen(command(*program), stdout=subprocess.PIPE, text=True, **more) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def state(pid: int) -> str:
    """A process's state, or nothing if it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_pythons_own_sockets() -> None:
    """The module of CPython, and its arguments and exit status."""
    done = run(*python(DIGEST + "import sys; sys.exit(sys.argv[1])"), "7")
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "7\n", 1)


@pytest.mark.parametrize("status", [0, 1, 77, 125, 255])
def test_exit_status(status: int) -> None:
    """The program's own."""
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMIN])
def test_ended_by_a_signal(number: int) -> None:
    """The front ends by the same one."""
    assert run(*python(f"import os, signal; signal.signal({number:d}, signal.SIG_DFL) if {number:d} != 9 else 0;"
                       f"os.kill(os.getpid(), {number:d})")).returncode == -number  # fmt: skip


def test_not_started(tmp_path: Path) -> None:
    """As `env` says it: 127 for a program that is not there, 126 for one that cannot be executed, 125 for an own
    failure."""
    done = run("cryptofs-none")
    assert (done.returncode, done.stderr) == (127, "cryptofs run: cryptofs-none: No such file or directory\n")
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (126, f"cryptofs run: {tmp_path}: Permission denied\n")
    for options in (("--engines", "openssh"), ("--mount", str(tmp_path))):
        done = run("true", options=options)
        assert (done.returncode, done.stdout) == (125, "")
        assert "ENOENT" in done.stderr
    assert run("true", options=("--mount", str(tmp_path), *OPENSSL)).returncode == 2


def test_not_started_without_a_name() -> None:
    """An empty name is the one of no program."""
    done = run("")
    assert (done.returncode, done.stderr) == (127, "cryptofs run: : No such file or directory\n")


def test_a_script_without_an_interpreter(tmp_path: Path) -> None:
    """The shell takes it, as with `env`, also where it was found by PATH."""
    script = tmp_path / "plain"
    script.write_text('echo "$0" "$@"; exit 5\n')
    script.chmod(0o755)
    line = f"{script} a b\n"
    done = run(script, "a", "b")
    assert (done.stdout, done.stderr, done.returncode) == (line, "", 5)
    done = run("plain", "a", "b", env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.stdout, done.stderr, done.returncode) == (line, "", 5)


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "POSIX"}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "C"}, {"LC_ALL": "C"}])
def test_the_callers_environment(given: dict[str, str]) -> None:
    """Nothing is added, nor changed, whatever Python makes of the locale."""
    paths = {each: os.environ[each] for each in ("PATH", "PYTHONPATH") if each in os.environ}
    done = run("env", env={**paths, **given})
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == {**paths, **given}


def test_a_working_directory_that_has_gone(tmp_path: Path) -> None:
    """The program runs there, as it would without `cryptofs run`."""
    gone = tmp_path / "gone"
    gone.mkdir()
    line = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", line, gone, sys.executable, "-P", *command("echo", "runs")[1:]],
        capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("runs\n", "", 0)


def test_under_another_supervisor() -> None:
    """Only one can have the calls: the inner one says so, and runs nothing."""
    done = run(*command("echo", "wrong"))
    assert (done.returncode, done.stdout) == (125, "")
    assert "another supervisor" in done.stderr


def test_a_kernel_that_is_too_old() -> None:
    """Without WAIT_KILLABLE_RECV a signal would repeat calls: nothing runs, and the message names the kernel."""
    done = subprocess.run(
        inside(command("echo", "wrong"), KILLABLE), capture_output=True, text=True, check=False, timeout=60 * PATIENCE
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "WAIT_KILLABLE_RECV" in done.stderr
    assert "5.19" in done.stderr


OTHER_CALLS = """
#include <errno.h>
#include <stdio.h>
/* socket(2) by the calls of 32-bit programs, which a 64-bit one can make, too. */
int main(void)
{
	long value;
	for (int family = 38; family >= 1; family -= 37)
		for (int i = 0; i < 2; i++) {
			__asm__ volatile("int $0x80" : "=a"(value) : "a"(359L), "b"((long)family), "c"(5L), "d"(0L) : "memory");
			printf("%ld\\n", value >= 0 ? 0 : value);
		}
	return 0;
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="NOT RUN: not x86_64")
def test_a_32_bit_programs_socket(tmp_path: Path) -> None:
    """It is refused by an errno, once with the reason; sockets of other families are the kernel's."""
    (tmp_path / "other.c").write_text(OTHER_CALLS)
    subprocess.run(["cc", "-static", "-o", tmp_path / "other", tmp_path / "other.c"], check=True, timeout=60 * PATIENCE)
    if subprocess.run([tmp_path / "other"], capture_output=True, timeout=60 * PATIENCE, check=False).returncode:
        pytest.skip("NOT RUN: this kernel runs no 32-bit calls")
    done = run(tmp_path / "other")
    assert done.stdout.split() == ["-97", "-97", "0", "0"]
    assert done.stderr == "cryptofs run: a 32-bit program asks for AF_ALG, which only 64-bit programs get here\n"


AS_USER = """
import ctypes, sys
from cryptofs.runner.launch import Settings, run
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # an ordinary user's processes are dumpable
print(run(Settings(sys.argv[1:], ("openssl",))), flush=True)
"""


@pytest.fixture
def loaded() -> None:
    """What another user's process imports is loaded before it becomes one."""
    importlib.import_module("cryptofs.runner.launch")
    importlib.import_module("cryptofs.runner.answers")
    LocalBackend(("openssl",)).describe(Type.HASH, "sha256")


@needs_root
@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o711])
def test_programs_that_nobody_may_look_into(mode: int) -> None:
    """An ordinary user cannot run one that gains privileges, or that is not readable, and is told why."""
    with readable() as directory:
        program = directory / "program"
        program.write_bytes(Path("/bin/true").read_bytes())
        program.chmod(mode)
        said, status = as_user(NOBODY, NOBODY, [], AS_USER, program)
        assert ("cannot be read" if mode == 0o711 else "gains privileges") in said
        assert status == "125"
        assert run(program).returncode == 0
        program.chmod(0o755)
        assert as_user(NOBODY, NOBODY, [], AS_USER, program) == ["0"]


@needs_root
@pytest.mark.usefixtures("loaded")
def test_as_an_ordinary_user(program: Path) -> None:
    """No privilege is needed."""
    with readable() as directory:
        shutil.copy(program, directory / "alg")
        assert as_user(NOBODY, NOBODY, [], AS_USER, directory / "alg", "many") == [
            "operations: 1000",
            "good ones: 1000",
            "0",
        ]


@needs_root
@pytest.mark.usefixtures("loaded")
def test_a_program_that_hides_itself(program: Path) -> None:
    """From then on it gets errors, and the bytes are right when it can be looked into again."""
    with readable() as directory:
        shutil.copy(program, directory / "alg")
        *said, status = as_user(NOBODY, NOBODY, [], AS_USER, directory / "alg", "hidden")
    refused = [f"{name}: EACCES" for name in ("receive", "read", "send", "accept", "socket")]
    assert said == ["send: 3", *refused, f"receive: 32 {ABC}"]
    assert status == "0"


@needs_root
@pytest.mark.usefixtures("loaded")
def test_nobody_looks_into_the_supervisor() -> None:
    """It has the program's keys: another process of its user may not read its memory."""
    text = "cat /proc/self/environ >/dev/null && echo itself; cat /proc/$PPID/environ >/dev/null"
    itself, refused, status = as_user(NOBODY, NOBODY, [], AS_USER, "/bin/sh", "-c", text)
    assert (itself, refused.rpartition(": ")[2], status) == ("itself", "Permission denied", "1")


def test_input_output_and_descriptors() -> None:
    """They are the program's: the supervisor keeps none of them, and adds none."""
    assert run("cat", stdin=None, input="from outside").stdout == "from outside"
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    listed = run("ls", "/proc/self/fd", pass_fds=[writer]).stdout.split()
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    # the last one is the listing's own
    assert sorted(listed, key=int) == sorted(["0", "1", "2", "3", str(writer)], key=int)


def test_signals_are_passed_on() -> None:
    """Those that somebody sends to the front."""
    # not print: the signal may come while the program is still in its own, which refuses a second one
    text = "import os, signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'usr1\\n'))\n"
    with started(*python(text + "print('ready', flush=True)\nwhile True: time.sleep(0.1)")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "usr1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30 * PATIENCE) == -signal.SIGTERM


def test_stop_and_continue() -> None:
    """The front stops with the program, and both go on."""
    with started("sh", "-c", "echo $$; kill -STOP $$; echo on") as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        wait_until(lambda: state(process.pid) == "T", 10)
        assert state(program) == "T"
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "on\n"
        assert process.wait(30 * PATIENCE) == 0


def test_a_terminals_signals() -> None:
    """Control-C ends program and front; the supervisor does not see it, and answers to the end."""
    first = indent(DIGEST + "import time; time.sleep(60)\n", "    ")
    text = "try:\n" + first + "except KeyboardInterrupt:\n" + indent(DIGEST, "    ")
    pid, terminal = pty.fork()
    if not pid:
        line = command(*python(text))
        os.execv(line[0], line)
    said = b""
    with open(terminal, "r+b", buffering=0) as screen:
        while said.count(ABC.encode()) < 1:
            said += screen.read(100)
        screen.write(b"\x03")
        with contextlib.suppress(OSError):
            while piece := screen.read(100):
                said += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert said.count(ABC.encode()) == 2, said


def test_a_killed_front() -> None:
    """The program ends with it."""
    with started("sh", "-c", "echo $$; exec sleep 60") as process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        process.kill()
        process.wait(30 * PATIENCE)
        wait_until(lambda: state(program) in ("", "Z"), 10)


def supervisor_of(program: int) -> int:
    """The supervisor is the program's parent."""
    return int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_supervisor() -> None:
    """Its program gets errors, never wrong bytes, and the front says what has happened."""
    wait = "        import os; print(os.getpid(), flush=True); input()\n"
    at = DIGEST.index("        operation.sendall")
    text = "try:\n" + indent(DIGEST[:at] + wait + DIGEST[at:], "    ") + "except OSError as error: print(error.errno)\n"
    line = command(*python(text))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, text=True, **pipes) as process:  # type: ignore[call-overload]
        program = int(process.stdout.readline())
        os.kill(supervisor_of(program), signal.SIGKILL)
        process.stdin.write("\n")
        process.stdin.close()
        # ENOSYS from the filter; or ECONNRESET, EPIPE from a pair without its other end
        assert int(process.stdout.read()) in (38, 104, 32)
        assert "the supervisor has ended" in process.stderr.read()
        assert process.wait(30 * PATIENCE) == 125


def test_a_daemon_outlives_the_front(tmp_path: Path) -> None:
    """Its calls are answered as long as it lives, and then the supervisor ends."""
    result, pid = tmp_path / "result", tmp_path / "pid"
    text = (
        "import os, sys, time\n"
        "if os.fork(): sys.exit(3)\n"
        "os.setsid()\n"
        f"open({str(pid)!r}, 'w').write(str(os.getppid()))\n"
        "for each in (0, 1, 2): os.close(each)\n"
        "time.sleep(0.5)\n"
        f"sys.stdout = open({str(result)!r}, 'w')\n" + DIGEST
    )
    begin = time.monotonic()
    assert run(*python(text)).returncode == 3
    # nothing of it holds the caller's pipes
    assert time.monotonic() - begin < 30 * PATIENCE
    wait_until(lambda: result.exists() and result.read_text() == ABC + "\n", 20)
    supervisor = pid.read_text()
    wait_until(lambda: state(int(supervisor)) in ("", "Z"), 20)


def test_limits_and_environment() -> None:
    """The environment is the caller's; more open files are allowed, as far as they may be."""
    assert run("sh", "-c", "echo $A $LD_PRELOAD; ulimit -n", env={**os.environ, "A": "b"}).stdout.split()[0] == "b"
    assert int(run("sh", "-c", "ulimit -n").stdout) >= 1024
