"""The goals: each is a ratio of operations that were measured in turns in one run.

A goal that this machine or this run cannot measure is reported as not measured, never as held. Examples are AF_ALG if
the kernel has none, a peer that is not installed, and an ioctl that the daemon does not have.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..records import Operation, Record, build
from . import calls, capacity, mounts, peers
from .bench import Bench
from .calls import MIB
from .clients import Clients
from .mounts import CannotMeasure, Mount
from .passes import Stage
from .placement import Placement, placed
from .results import Goal, Result, at_least, at_most, told
from .turns import Call, percentile, timed, times_of

KINDS = ("cbc(aes)", "sha256")
SMALL = (16, 256, 1024)
LARGER = 16_384
_LONG_TURN = 0.05
_CLIENT_TURN = 0.25
_PROBE_TURN = 0.5
_STREAMS = 4


class Goals(Bench):
    """The measurements.

    seconds: for each comparison. where: the placements in which small requests are measured;
    measurements in one placement use the first. commit: another commit to compare with. with_peers: start other
    programs. Errors on entering: also CannotMeasure if the commit does not exist.
    """

    def __init__(self, seconds: float, where: Sequence[Placement], commit: str | None, with_peers: bool) -> None:
        super().__init__(seconds)
        self._where = where
        self._commit = commit
        self._with_peers = with_peers
        self._other: Mount | None = None

    def make_mounts(self, stack: ExitStack) -> None:
        super().make_mounts(stack)
        if self._commit is not None:
            checkout = stack.enter_context(mounts.checkout_of(self._commit))
            self._other = stack.enter_context(mounts.cryptofs_mount("openssl", checkout))

    def stages(self) -> list[Stage[Result]]:
        """The measurements in order. Each call of a stage is one pass of it."""
        found: list[Stage[Result]] = []
        for placement in self._where:
            for kind in KINDS:
                for size in (*SMALL, LARGER):
                    name = f"{kind}, {size} B, {placement.value}"
                    found.append((name, functools.partial(self.one_record, kind, size, placement)))
        for placement in self._where:
            for kind in KINDS:
                for size in SMALL:
                    name = f"{kind} on AF_ALG, {size} B, {placement.value}"
                    found.append((name, functools.partial(self.one_record_on_af_alg, kind, size, placement)))
        found += [
            ("batches", self.batches),
            ("batches on AF_ALG", self.batches_on_af_alg),
            ("one-shot use", self.one_shot),
            ("HMAC of a device and of p11-kit", self.pkcs11_hmac),
            ("Ed25519 of a device and of ssh-agent", self.ssh_agent),
            ("openssl as a process", self.openssl),
            ("1 MiB, one client", self.large_records),
            ("1 MiB, two clients", self.two_clients),
            ("1 MiB of GCM", self.gcm),
            ("a probe beside streams", self.probe),
            ("10,000 contexts", self.many_contexts),
            ("1,000 requests in flight", self.in_flight),
            ("200 clients", self.many_clients),
        ]
        return [(name, functools.partial(_or_why_not, name, measure)) for name, measure in found]

    # Small records

    def one_record(self, kind: str, size: int, placement: Placement) -> Iterator[Result]:
        """One record by write and read and by ioctl, to both empty file systems, and to another commit."""
        name = f"{kind}, {size} B, {placement.value}"
        by_write = at_most(f"{name}: write + read, to pyfuse3", 0.40 if size <= SMALL[-1] else 0.75)
        by_ioctl = at_most(f"{name}: ioctl, to pyfuse3", 0.30)
        to_bare = at_most(f"{name}: write + read, to the bare loop", 1.5)
        data = calls.request(kind, size)
        with ExitStack() as stack:
            floor = stack.enter_context(calls.opened(self.empty.crypto))
            descriptor = stack.enter_context(calls.opened(self.ours.crypto, kind))
            measured = [calls.empty_round_trip(floor, len(data)), calls.round_trip(descriptor, data)]
            pids = [self.empty.pid, self.ours.pid]
            rows: list[tuple[Goal, tuple[int, int]]] = [(by_write, (1, 0))]
            missing: list[Result] = []
            if size in SMALL:
                try:
                    measured.append(calls.ioctl_call(descriptor, data))
                    rows.append((by_ioctl, (len(measured) - 1, 0)))
                except CannotMeasure as error:
                    missing.append(by_ioctl.not_measured(str(error)))
                if self.bare is None:
                    missing.append(to_bare.not_measured(self.no_bare))
                else:
                    bare = stack.enter_context(calls.opened(self.bare.crypto))
                    measured.append(calls.empty_round_trip(bare, len(data)))
                    pids.append(self.bare.pid)
                    rows.append((to_bare, (1, len(measured) - 1)))
            if self._other is not None:
                other = stack.enter_context(calls.opened(self._other.crypto, kind))
                measured.append(calls.round_trip(other, data))
                pids.append(self._other.pid)
                rows.append((told(f"{name}: write + read, to {self._commit}"), (1, len(measured) - 1)))
            with placed(placement, pids):
                comparison = self.alternate(name, [timed(call) for call in measured])
        yield from (goal.by_time(comparison, pair) for goal, pair in rows)
        yield from missing

    def one_record_on_af_alg(self, kind: str, size: int, placement: Placement) -> Iterator[Result]:
        """The same on the kernel's crypto."""
        goal = at_most(f"{kind} on AF_ALG, {size} B, {placement.value}: write + read, to pyfuse3", 0.75)
        if self.kernel is None:
            yield goal.not_measured("this kernel has no AF_ALG")
            return
        data = calls.request(kind, size)
        with (
            calls.opened(self.kernel.crypto, kind) as descriptor,
            calls.opened(self.empty.crypto) as floor,
            placed(placement, [self.kernel.pid, self.empty.pid]),
        ):
            ours, empty = calls.round_trip(descriptor, data), calls.empty_round_trip(floor, len(data))
            comparison = self.alternate(goal.name, [timed(ours), timed(empty)])
        yield goal.by_time(comparison, (0, 1))

    # Batches

    def batches(self) -> Iterator[Result]:
        """64 records of 1 KiB in one write, to a Python loop that makes a Cipher each time."""
        goal = at_least("64 x 1 KiB cbc(aes) in a batch, records/s, to a Cipher each time", 1.3)
        yield self._batch(goal, self.ours, 64, calls.new_cipher(1024))

    def batches_on_af_alg(self) -> Iterator[Result]:
        """32 records of 1 KiB in one write, to AF_ALG called directly."""
        goal = at_least("32 x 1 KiB cbc(aes) on AF_ALG in a batch, records/s, to AF_ALG called directly", 0.6)
        if self.kernel is None:
            yield goal.not_measured("this kernel has no AF_ALG")
            return
        with calls.direct_af_alg(1024) as direct:
            yield self._batch(goal, self.kernel, 32, direct)

    def _batch(self, goal: Goal, mount: Mount, count: int, direct: Call) -> Result:
        batch = b"".join(calls.request("cbc(aes)", 1024, identity) for identity in range(1, count + 1))
        with calls.opened(mount.crypto, "cbc(aes)") as descriptor, placed(self._where[0], [mount.pid]):
            ours, loop = calls.round_trip(descriptor, batch), calls.repeated(direct, count)
            comparison = self.alternate(goal.name, [timed(ours), timed(loop)])
        return goal.by_rate(comparison, count, "records/s")

    # From open to close

    def one_shot(self) -> Iterator[Result]:
        """Open, configure, one request and close, to the daemon of another commit."""
        other = "another commit" if self._commit is None else self._commit
        by_write = at_most(f"one-shot use by write + read, to {other}", 0.8)
        by_ioctl = at_most(f"one-shot use by ioctl, to {other}", 0.8)
        if self._other is None:
            yield by_write.not_measured("give --commit COMMIT")
            yield by_ioctl.not_measured("give --commit COMMIT")
            return
        arguments = ("cbc(aes)", 1024)
        measured = [calls.one_shot(self._other.crypto, *arguments), calls.one_shot(self.ours.crypto, *arguments)]
        rows = [(by_write, (1, 0))]
        missing = []
        try:
            measured.append(calls.one_shot_by_ioctl(self.ours.crypto, *arguments))
            rows.append((by_ioctl, (2, 0)))
        except CannotMeasure as error:
            missing.append(by_ioctl.not_measured(str(error)))
        with placed(self._where[0], [self.ours.pid, self._other.pid]):
            comparison = self.alternate(by_write.name, [timed(call) for call in measured])
        yield from (goal.by_time(comparison, pair) for goal, pair in rows)
        yield from missing

    # Peers

    def pkcs11_hmac(self) -> Iterator[Result]:
        """HMAC-SHA-256 of 1 KiB on a device, to SoftHSM in p11-kit's server."""
        by_write = at_least("HMAC of 1 KiB on a device, write + read, calls/s, to p11-kit server + SoftHSM", 8)
        by_ioctl = at_least("HMAC of 1 KiB on a device, ioctl, calls/s, to p11-kit server + SoftHSM", 8)
        data = calls.request("sha256", 1024)
        yield from self._device_to_peer("mac", data, by_write, by_ioctl, peers.pkcs11_hmac(calls.MAC_KEY, 1024))

    def ssh_agent(self) -> Iterator[Result]:
        """An Ed25519 signature on a device, to ssh-agent."""
        by_write = told("Ed25519 on a device, write + read, calls/s, to ssh-agent")
        by_ioctl = told("Ed25519 on a device, ioctl, calls/s, to ssh-agent")
        data = build(Record(Operation.SIGN, 0, 1, 0, {}, bytes(64)))
        yield from self._device_to_peer("signer", data, by_write, by_ioctl, peers.ssh_agent_sign(SIGNING_KEY, 64))

    def _device_to_peer(
        self, device: str, data: bytes, by_write: Goal, by_ioctl: Goal, starting: peers.Starting
    ) -> Iterator[Result]:
        if not self._with_peers:
            yield by_write.not_measured("give --peers")
            yield by_ioctl.not_measured("give --peers")
            return
        try:
            with ExitStack() as stack:
                peer = stack.enter_context(starting)
                mount = stack.enter_context(mounts.devices_mount(calls.MAC_KEY, pkcs8(SIGNING_KEY)))
                descriptor = stack.enter_context(calls.opened(mount.path / "devices" / device / "crypto"))
                measured = [peer.call, calls.round_trip(descriptor, data)]
                rows = [(by_write, (0, 1))]
                missing = []
                try:
                    measured.append(calls.ioctl_call(descriptor, data))
                    rows.append((by_ioctl, (0, 2)))
                except CannotMeasure as error:
                    missing.append(by_ioctl.not_measured(str(error)))
                with placed(self._where[0], [peer.pid, mount.pid]):
                    comparison = self.alternate(by_write.name, [timed(call) for call in measured])
        except CannotMeasure as error:
            yield by_write.not_measured(str(error))
            yield by_ioctl.not_measured(str(error))
            return
        yield from (goal.by_time(comparison, pair) for goal, pair in rows)
        yield from missing

    def openssl(self) -> Iterator[Result]:
        """One record of 1 KiB, to `openssl enc` as a process."""
        goal = told("cbc(aes), 1024 B: write + read, calls/s, to openssl enc as a process")
        if not self._with_peers:
            yield goal.not_measured("give --peers")
            return
        try:
            process = calls.openssl_process(1024)
            with calls.opened(self.ours.crypto, "cbc(aes)") as descriptor, placed(self._where[0], [self.ours.pid]):
                ours = calls.round_trip(descriptor, calls.request("cbc(aes)", 1024))
                comparison = self.alternate(goal.name, [timed(process), timed(ours)], _LONG_TURN)
        except CannotMeasure as error:
            yield goal.not_measured(str(error))
            return
        yield goal.by_time(comparison, (0, 1))

    # Large records: the daemon's threads and the clients take what processors they can

    def large_records(self) -> Iterator[Result]:
        """One client, a megabyte a record, to the cipher called directly."""
        goal = at_least("1 MiB cbc(aes), one client, to the cipher called directly", 0.58)
        with calls.opened(self.ours.crypto, "cbc(aes)") as descriptor:
            ours = calls.round_trip(descriptor, calls.request("cbc(aes)", MIB))
            comparison = self.alternate(goal.name, [timed(ours), timed(calls.cipher_into(MIB))], _LONG_TURN)
        yield goal.by_rate(comparison, MIB / 1e9, "GB/s")

    def two_clients(self) -> Iterator[Result]:
        """Two client processes at once, their sum, to one thread that calls the cipher directly."""
        goal = at_least("1 MiB cbc(aes), two clients, to the cipher called directly", 1.1)
        with Clients(self.ours.crypto, 2, "cbc(aes)", MIB) as clients:
            comparison = self.alternate(goal.name, [clients.turn, timed(calls.cipher_into(MIB))], _CLIENT_TURN)
        yield goal.by_rate(comparison, MIB / 1e9, "GB/s")

    def gcm(self) -> Iterator[Result]:
        """A megabyte of AES-GCM to the empty round trip's throughput."""
        goal = at_least("1 MiB gcm(aes), to pyfuse3", 0.85)
        data = calls.request("gcm(aes)", MIB)
        with (
            calls.opened(self.ours.crypto, "gcm(aes)") as descriptor,
            calls.opened(self.empty.crypto) as floor,
        ):
            ours, empty = calls.round_trip(descriptor, data), calls.empty_round_trip(floor, len(data))
            comparison = self.alternate(goal.name, [timed(ours), timed(empty)], _LONG_TURN)
        yield goal.by_rate(comparison, MIB / 1e9, "GB/s")

    def probe(self) -> Iterator[Result]:
        """The 99th percentile of a small round trip while others stream megabytes, to four empty ones of 1 MiB."""
        goal = at_most(f"p99 of a probe beside {_STREAMS} streams, to {_STREAMS} x 1 MiB through pyfuse3", 0.6)
        with (
            Clients(self.ours.crypto, _STREAMS, "cbc(aes)", MIB) as streams,
            calls.opened(self.ours.crypto, "sha256") as descriptor,
            calls.opened(self.empty.crypto) as floor,
        ):
            small = calls.round_trip(descriptor, calls.request("sha256", 64))
            four = timed(calls.repeated(calls.empty_round_trip(floor, MIB), _STREAMS))

            def beside(seconds: float) -> float:
                # They begin a little earlier and end a little later.
                streams.begin(seconds + 0.2)
                times_of(small, 0.1)
                times = times_of(small, seconds)
                if not all(streams.rates()):
                    raise CannotMeasure("a client process failed; its traceback is on standard error")
                return percentile(times, 0.99)

            comparison = self.alternate(goal.name, [beside, four], _PROBE_TURN)
        yield goal.by_time(comparison, (0, 1))

    # How much of everything

    def many_contexts(self) -> Iterator[Result]:
        """Latency with 10,000 contexts, and the memory of one."""
        latency = at_most("latency with 10,000 contexts, to one", 1.1)
        data = calls.request("sha256", 64)
        with (
            # both daemons are new: one that has had as many contexts keeps the memory, and differs in speed
            mounts.cryptofs_mount("openssl") as crowded,
            mounts.cryptofs_mount("openssl") as quiet,
            calls.opened(crowded.crypto, "sha256") as one_of_many,
            calls.opened(quiet.crypto, "sha256") as single,
        ):
            beside, alone = calls.round_trip(one_of_many, data), calls.round_trip(single, data)
            with capacity.contexts(crowded, 10_000) as memory:
                with placed(self._where[0], [crowded.pid, quiet.pid]):
                    comparison = self.alternate(latency.name, [timed(beside), timed(alone)])
                yield latency.by_time(comparison, (0, 1))
                yield at_most("memory of a context, KiB", 8).by_figure(memory / 1024, "resident, of 10,000 for sha256")

    def in_flight(self) -> Iterator[Result]:
        """1,000 requests in flight on one context, each answered once."""
        goal = at_least("requests in flight on one context", 1000)
        yield goal.by_figure(capacity.in_flight(self.ours, 1000), "answered, each once")

    def many_clients(self) -> Iterator[Result]:
        """200 client processes at once, each served."""
        with Clients(self.ours.crypto, 200, "sha256", 64) as clients:
            clients.begin(max(2.0, self._seconds / 2))
            rates = clients.rates()
        served = sum(rate > 0 for rate in rates)
        yield at_least("client processes served at once", 200).by_figure(served, f"{sum(rates):,.0f} requests/s in all")


SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""A key for measuring; it is public."""


def pkcs8(key: Ed25519PrivateKey) -> bytes:
    """A private key in the form that a device takes."""
    form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form)


def _or_why_not(name: str, measure: Callable[[], Iterable[Result]]) -> list[Result]:
    # One part that cannot be measured must not cost the results of all others.
    try:
        return list(measure())
    except CannotMeasure as error:
        return [told(name).not_measured(str(error))]
