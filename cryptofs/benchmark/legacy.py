"""What `cryptofs run` costs a program that uses AF_ALG, as ratios."""

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from . import calls
from .bench import Bench
from .mounts import CannotMeasure, has_af_alg
from .passes import Stage
from .results import Result, at_most
from .turns import Turn, timed

KINDS = ("sha256", "cbc(aes)", "gcm(aes)")
SIZE = 1024
IN_PROCESS = ("--engines", "openssl")
_TRUE = ("true",)


def _under_run(options: Sequence[str], program: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "cryptofs", "run", *options, "--", *program]


@contextlib.contextmanager
def client(kind: str, options: Sequence[str] | None) -> Iterator[Turn]:
    """A program that measures turns of one operation. options: of `cryptofs run`; None: without it.

    Errors: CannotMeasure if it ends.
    """
    program = [sys.executable, "-m", f"{__package__}.legacy_client", kind, str(SIZE)]
    line = program if options is None else _under_run(options, program)
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) as process:
        reader, writer = process.stdout, process.stdin
        assert reader is not None
        assert writer is not None

        def turn(seconds: float) -> float:
            try:
                writer.write(f"{seconds}\n")
                writer.flush()
            except BrokenPipeError:
                raise CannotMeasure(f"{kind}: the program has ended") from None
            answer = reader.readline()
            if not answer:
                raise CannotMeasure(f"{kind}: the program has ended with status {process.wait()}")
            return float(answer)

        try:
            turn(0.001)
            yield turn
        finally:
            with contextlib.suppress(BrokenPipeError):
                writer.close()


def _start(line: Sequence[str]) -> Turn:
    """Each turn is one start of a program, to its end."""

    def turn(_: float) -> float:
        begin = time.perf_counter()
        subprocess.run(line, check=True, stdin=subprocess.DEVNULL)
        return time.perf_counter() - begin

    return turn


class Legacy(Bench):
    """The measurements. seconds: for each comparison."""

    def stages(self) -> list[Stage[Result]]:
        """The measurements in order. Each call of a stage is one pass of it."""
        found: list[Stage[Result]] = [(kind, functools.partial(self.operation, kind)) for kind in KINDS]
        found += [(f"{kind} natively", functools.partial(self.to_the_kernel, kind)) for kind in KINDS]
        return [*found, ("an untrapped call", self.untrapped), ("the start", self.start)]

    def operation(self, kind: str) -> Iterator[Result]:
        """One message of 1 KiB: engines in the supervisor, and records on a mount."""
        data = calls.request(kind, SIZE)
        with (
            client(kind, IN_PROCESS) as within,
            client(kind, ("--mount", str(self.ours.path))) as through,
            calls.opened(self.empty.crypto) as floor,
            calls.opened(self.ours.crypto, kind) as record,
        ):
            empty, own = calls.empty_round_trip(floor, len(data)), calls.round_trip(record, data)
            comparison = self.alternate(kind, [within, through, timed(empty), timed(own)])
        yield at_most(f"{kind}, 1 KiB under run, to pyfuse3", 1.2).by_time(comparison, (0, 2))
        more = [(times[1] - times[0]) / times[3] for times in comparison.rounds]
        detail = f"{comparison.seconds(1) * 1e6:,.1f} us, own round trip {comparison.seconds(3) * 1e6:,.1f} us"
        goal = at_most(f"{kind}, 1 KiB through a mount: own round trips more", 3)
        yield goal.by_figure(sorted(more)[len(more) // 2], detail)

    def to_the_kernel(self, kind: str) -> Iterator[Result]:
        """The same, to the kernel's own sockets."""
        goal = at_most(f"{kind}, 1 KiB under run, to AF_ALG", 8)
        if not has_af_alg():
            yield goal.not_measured("this kernel has no AF_ALG")
            return
        with client(kind, IN_PROCESS) as ours, client(kind, None) as kernel:
            yield goal.by_time(self.alternate(goal.name, [ours, kernel]), (0, 1))

    def untrapped(self) -> Iterator[Result]:
        """A system call that the filter leaves to the kernel."""
        with client("stat", IN_PROCESS) as ours, client("stat", None) as kernel:
            comparison = self.alternate("stat", [ours, kernel])
        yield at_most("a stat under run, to one without", 1.1).by_time(comparison, (0, 1))

    def start(self) -> Iterator[Result]:
        """How much longer a program takes that does nothing."""
        comparison = self.alternate("start", [_start(_under_run(IN_PROCESS, _TRUE)), _start(_TRUE)])
        longer = comparison.seconds(0) - comparison.seconds(1)
        yield at_most("the start under run, seconds more", 0.3).by_figure(longer, f"{comparison.seconds(0):.3f} s")
