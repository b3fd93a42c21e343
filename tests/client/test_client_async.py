"""The Python client in event loops: `await` in asyncio and in trio, cancellation, and the end of a pipeline."""

import asyncio
import contextlib
import errno
import hashlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cryptofs.client import ClosedError, Context, Pending, Pipeline, RequestError
from cryptofs.records import PAYLOAD_MAX

pytestmark = pytest.mark.mount

BOUND = 20.0
LONG = PAYLOAD_MAX - PAYLOAD_MAX % 8
IV = bytes(8)


@pytest.fixture
def hasher(mount: Path) -> Iterator[Context]:
    """A context of SHA-256."""
    with Context("hash", "sha256", mount=mount) as context:
        yield context


@pytest.fixture
def slow(mount: Path) -> Iterator[Context]:
    """A context of triple DES, which takes tens of milliseconds for LONG bytes."""
    with Context("skcipher", "cbc(des3_ede)", bytes(range(24)), mount=mount) as context:
        yield context


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    """In asyncio, within the bound."""

    async def bounded() -> None:
        await asyncio.wait_for(_coroutine(main), BOUND)

    asyncio.run(bounded())


def run_trio(main: Callable[[], Awaitable[None]]) -> None:
    """In trio, within the bound."""

    async def bounded() -> None:
        with trio.fail_after(BOUND):
            await main()

    trio.run(bounded)


async def _coroutine(main: Callable[[], Awaitable[None]]) -> None:
    await main()


LOOPS = {"asyncio": run_asyncio, "trio": run_trio}


@pytest.mark.parametrize("loop", LOOPS)
def test_await(hasher: Context, loop: str) -> None:
    """Results, of an answer that has come already too, and errors; `async with` closes."""

    async def main() -> None:
        async with Pipeline(hasher) as pipeline:
            pending = [pipeline.digest(b"%d" % n) for n in range(300)]
            for n, each in enumerate(pending):
                assert await each == hashlib.sha256(b"%d" % n).digest()
            assert await pending[0] == pending[0].result(0)
            with pytest.raises(RequestError) as caught:
                await pipeline.encrypt(b"x")
            assert caught.value.errno == errno.EOPNOTSUPP
        with pytest.raises(ClosedError):
            pipeline.digest(b"x")
        await pipeline.aclose()

    LOOPS[loop](main)
    assert hasher.digest(b"x") == hashlib.sha256(b"x").digest()


@pytest.mark.parametrize("loop", LOOPS)
def test_the_loop_goes_on(slow: Context, loop: str) -> None:
    """While answers are awaited, and while the pipeline is closed, other tasks run."""
    turns = 0

    async def main() -> None:
        nonlocal turns

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await (asyncio.sleep(0.001) if loop == "asyncio" else trio.sleep(0.001))

        async def work() -> None:
            async with Pipeline(slow) as pipeline:
                await pipeline.encrypt(bytes(LONG), IV)
                for _ in range(4):
                    pipeline.encrypt(bytes(LONG), IV)

        if loop == "asyncio":
            task = asyncio.ensure_future(other())
            await work()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                await work()
                nursery.cancel_scope.cancel()

    LOOPS[loop](main)
    assert turns > 10


@pytest.mark.parametrize("loop", LOOPS)
def test_cancellation(slow: Context, loop: str) -> None:
    """A task that is cancelled while it waits cancels its request, and no other."""

    async def main() -> None:
        async with Pipeline(slow) as pipeline:
            pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(12)]
            if loop == "asyncio":
                tasks = [asyncio.ensure_future(_coroutine_of(each)) for each in pending]
                await asyncio.sleep(0)
                for task in tasks[8:]:
                    task.cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in found[8:])
                assert [len(each) for each in found[:8] if isinstance(each, bytes)] == [LONG] * 8
            else:
                async with trio.open_nursery() as nursery:
                    for each in pending[8:]:
                        nursery.start_soon(each.wait_result)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                assert [len(await each) for each in pending[:8]] == [LONG] * 8
                errors = [each.future.exception(BOUND) for each in pending[8:]]
                assert {error.errno for error in errors if isinstance(error, RequestError)} == {errno.ECANCELED}
            assert len(await pipeline.encrypt(bytes(8), IV)) == 8

    LOOPS[loop](main)
    # the last of them were never computed
    assert int(slow.status()["completed"]) < 2 + 12


async def _coroutine_of(pending: Pending) -> bytes:
    return await pending


def test_a_loop_that_has_ended(slow: Context) -> None:
    """An answer that comes when nobody's loop runs any more harms nothing."""
    for loop in LOOPS.values():
        with Pipeline(slow) as pipeline:

            async def main(pipeline: Pipeline = pipeline) -> None:
                pending = pipeline.encrypt(bytes(LONG), IV)
                if loop is run_trio:  # noqa: B023
                    with trio.move_on_after(0.001):
                        await pending
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(_coroutine_of(pending), 0.001)

            loop(main)
            assert len(pipeline.encrypt(bytes(8), IV).result(BOUND)) == 8


def test_asyncio_without_trio(mount: Path) -> None:
    """A program that never imports trio does not have it loaded for it."""
    code = f"""
import asyncio, sys
from cryptofs.client import Context, Pipeline
async def main():
    with Context("hash", "sha256", mount={str(mount)!r}) as context:
        async with Pipeline(context) as pipeline:
            print((await pipeline.digest(b"abc")).hex(), "trio" in sys.modules)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=BOUND, check=True)
    assert done.stdout.decode().split() == [hashlib.sha256(b"abc").hexdigest(), "False"]


def test_await_outside_of_any_loop(hasher: Context) -> None:
    """A RuntimeError, as asyncio's own."""
    with Pipeline(hasher) as pipeline:
        pending = pipeline.digest(b"x")
        with pytest.raises(RuntimeError, match="no running event loop"):
            pending.__await__().send(None)
        assert pending.result(BOUND) == hashlib.sha256(b"x").digest()
