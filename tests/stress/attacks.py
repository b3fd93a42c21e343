"""What one user can do to another's time: each attack on a daemon of its own, beside a good client, with a verdict.

The bounds are the project's promise: no user delays another's small request beyond DELAY_MEDIAN in the median or
DELAY_WORST at the worst, makes the watchdog miss a beat, or grows the daemon beyond what the rules say.
"""

import functools
import mmap
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from helpers.daemons import Daemon
from helpers.other_user import become

from . import server
from .attackers import ATTACKS, NOT_HERE, Attack
from .bystander import FORK, Beats, Bystander, Waits, echo, good
from .spot import Place

DELAY_MEDIAN, DELAY_WORST = 0.020, 0.250
"""Seconds that an attack may add to another user's small request."""
MIB = 1 << 20
CONTEXTS, HANDLES, QUEUE_BYTES = 1024, 8192, 16 * MIB
"""What the rule gives the attacker."""
WAITING = 16 * 4000
"""Requests that the attack by small records has waiting at once."""
GROWTH_MAX = QUEUE_BYTES + CONTEXTS * 8192 + HANDLES * 1024 + WAITING * 512 + 32 * MIB
"""Bytes that the daemon may grow by: what the rule lets wait, 8 KiB a context, 1 KiB a handle, half a KiB beside its
bytes for each request that waits, and 32 MiB for the daemon's own buffers and what the allocator keeps. A run of 20
seconds instead of 2.5 grows no further."""
SECONDS = 2.5
SHORT = ("descriptors", "large records", "polls", "device signatures", "right keys", "small records", "random streams")
_ATTACKER, _GOOD, _ECHO = 65_101, 65_102, 65_103
_BEGUN = 3.0
"""Seconds that an attacker has to begin."""
_PROCESSES = 2
"""Processes of the one attacking user."""

Say = Callable[[str], None]


@dataclass
class Attacked:
    """What came of one attack. alone, beside: the good client's waits before it and in it; echo: the machine's own in
    it; done: how much the attacker did; silence: the longest time between two beats, seconds; growth: bytes.
    """

    name: str
    alone: Waits
    beside: Waits
    echo: Waits
    done: int = 0
    silence: float = 0.0
    growth: int = 0
    wrong: list[str] = field(default_factory=list)
    unjudged: str = ""

    @property
    def verdict(self) -> str:
        """One word or what was wrong."""
        if self.wrong:
            return "; ".join(self.wrong)
        return f"NOT JUDGED: {self.unjudged}" if self.unjudged else "ok"

    @property
    def median(self) -> float:
        """Seconds that the attack adds in the median."""
        return self.beside.median - self.echo.median

    @property
    def worst(self) -> float:
        """Seconds that the attack adds at the worst."""
        return self.beside.worst - self.echo.worst

    def judge(self, log: str, died: list[int | None]) -> None:
        """Compare the figures with the bounds. died: exit statuses of attackers that ended."""
        wrong = self.wrong
        wrong += self.beside.wrong
        if "Traceback" in log:
            wrong.append(f"traceback: {log[log.index('Traceback') :][-200:]}")
        if self.growth > GROWTH_MAX:
            wrong.append(f"grew by {self.growth / MIB:.0f} MiB, at most {GROWTH_MAX / MIB:.0f}")
        if self.silence > Beats.SECONDS:
            wrong.append(f"no beat for {self.silence:.1f} s")
        if self.echo.median > DELAY_MEDIAN or self.echo.worst > DELAY_WORST:
            self.unjudged = f"two processes without the daemon waited {self.echo.worst * 1e3:.0f} ms for each other"
        elif self.alone.median > DELAY_MEDIAN or self.alone.worst > DELAY_WORST:
            self.unjudged = f"without an attack a request took {self.alone.worst * 1e3:.0f} ms"
        else:
            if self.median > DELAY_MEDIAN:
                wrong.append(f"median {self.median * 1e3:.0f} ms more, at most {DELAY_MEDIAN * 1e3:.0f}")
            if self.worst > DELAY_WORST:
                wrong.append(f"worst {self.worst * 1e3:.0f} ms more, at most {DELAY_WORST * 1e3:.0f}")
        if died == [NOT_HERE] * _PROCESSES:
            self.unjudged = "this machine has nothing for it"
        elif died or not (self.done or wrong):
            wrong.append(f"the attack did not go on: {self.done} done, exit status {died}")


@functools.cache
def _signer() -> bytes:
    private = rsa.generate_private_key(65537, 4096)
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def configuration(directory: Path) -> Path:
    """The attacker's rule, and two devices that everybody may use."""
    keys = {"signer": _signer(), "mac": bytes(range(32))}
    algorithms = {"signer": ("sig", "pkcs1(rsa,sha256)"), "mac": ("hash", "hmac(sha256)")}
    text = [
        f"[policy.users.{_ATTACKER}]\ncontexts = {CONTEXTS}\nhandles = {HANDLES}\nqueue-bytes = {QUEUE_BYTES}\n",
    ]
    for name, key in keys.items():
        path = directory / f"{name}.key"
        path.touch(0o600)
        path.write_bytes(key)
        type_, algorithm = algorithms[name]
        text.append(
            f'[devices.{name}]\ntype = "{type_}"\nname = "{algorithm}"\nuser = 0\nmode = "0666"\nkey.file = "{path}"\n'
        )
    path = directory / "cryptofs.toml"
    path.touch(0o600)
    path.write_text("\n".join(text))
    return path


def run(chosen: Sequence[str], say: Say) -> list[Attacked]:
    """Run these attacks, one after the other; only root can be several users."""
    found = []
    for name in chosen:
        say(name)
        found.append(_one(name, ATTACKS[name]()))
    return found


def _one(name: str, attack: Attack) -> Attacked:
    with server.directory() as path:
        beats = Beats(path / "notify")
        try:
            with (
                beats.announced(path / "notify"),
                server.serving(path, "--config", str(configuration(path))) as daemon,
            ):
                result = _measure(name, attack, daemon, beats)
                _end(daemon, result)
                return result
        finally:
            beats.close()


def _end(daemon: Daemon, result: Attacked) -> None:
    try:
        status = daemon.stop()
    except subprocess.TimeoutExpired:
        daemon.kill()
        result.wrong.append("the daemon does not end on SIGTERM")
        return
    if status:
        result.wrong.append(f"the daemon ended with {status}")


def _measure(name: str, attack: Attack, daemon: Daemon, beats: Beats) -> Attacked:
    mount = daemon.mountpoint
    alone = _wait_beside(mount, beats, 1.0)[0]
    before = daemon.memory
    (Path("/proc") / str(daemon.process.pid) / "clear_refs").write_text("5")
    beats.start_again()
    done = mmap.mmap(-1, mmap.PAGESIZE)
    processes = []
    for index in range(_PROCESSES):
        place = Place(mount, done, index)
        process = FORK.Process(target=_be_attacker, args=(attack, place), name=name, daemon=True)
        process.start()
        processes.append(process)
    try:
        # contexts and keys that it needs to begin are not the attack
        until = time.monotonic() + _BEGUN
        while not any(done[: 8 * _PROCESSES]) and time.monotonic() < until:
            beats.look()
            time.sleep(0.02)
        beside, machine = _wait_beside(mount, beats, SECONDS)
        died = [process.exitcode for process in processes if not process.is_alive()]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join(10)
    beats.look()
    result = Attacked(
        name, alone, beside, machine, sum(memoryview(done).cast("Q")), beats.longest, _peak(daemon) - before
    )
    result.judge(daemon.log, died)
    return result


def _be_attacker(attack: Attack, place: Place) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    become(_ATTACKER)
    attack(place)


def _wait_beside(mount: Path, beats: Beats, seconds: float) -> tuple[Waits, Waits]:
    bystander, machine = Bystander(good, mount, _GOOD), Bystander(echo, mount, _ECHO)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        beats.look()
        time.sleep(0.02)
    return bystander.stop(), machine.stop()


def _peak(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0
