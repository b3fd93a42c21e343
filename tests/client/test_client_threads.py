"""The Python client in threads, in the children of forks, and when it is dropped."""

import concurrent.futures
import contextlib
import copy
import errno
import gc
import hashlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from helpers.waiting import wait_until

from cryptofs.client import ClosedError, Context, ForkedError, Pipeline, RequestError
from cryptofs.records import PAYLOAD_MAX, Operation

pytestmark = pytest.mark.mount

BOUND = 30.0
THREADS = 8
KEY = bytes(range(16))


@pytest.fixture
def hasher(mount: Path) -> Iterator[Context]:
    """A context of SHA-256."""
    with Context("hash", "sha256", mount=mount) as context:
        yield context


@pytest.fixture
def cipher(mount: Path) -> Iterator[Context]:
    """A context of AES in counter mode."""
    with Context("skcipher", "ctr(aes)", key=KEY, mount=mount) as context:
        yield context


def sha256(data: bytes) -> bytes:
    """By hashlib."""
    return hashlib.sha256(data).digest()


def together(work: Callable[[int], object]) -> None:
    """Run `work` in eight threads that begin at once; the first error is raised."""
    barrier = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        barrier.wait(BOUND)
        work(number)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for each in [pool.submit(begin, number) for number in range(THREADS)]:
            each.result(BOUND)


# Threads


def test_threads_share_a_context(hasher: Context) -> None:
    """Eight threads, small and large data in turn: each gets the digest of its own."""
    large = [os.urandom(200_000) + bytes([number]) for number in range(THREADS)]

    def work(number: int) -> None:
        for n in range(100):
            text = b"%d/%d" % (number, n)
            assert hasher.digest(text) == sha256(text)
            if n % 25 == 0:
                assert hasher.digest(large[number]) == sha256(large[number])

    together(work)


def test_threads_with_messages_of_their_own(cipher: Context) -> None:
    """Messages in parts of several threads on one context, longer than one request holds: outputs do not mix."""

    def work(number: int) -> None:
        iv = bytes(15) + bytes([number])
        text = os.urandom(PAYLOAD_MAX + 100_000)
        expected = Cipher(AES(KEY), CTR(iv)).encryptor().update(text)
        message = cipher.message(Operation.ENCRYPT, iv)
        pieces = [message.update(text[at : at + 70_001]) for at in range(0, len(text), 70_001)]
        assert b"".join([*pieces, message.finish()]) == expected
        assert cipher.encrypt(text, iv) == expected

    together(work)


def test_threads_with_parts_of_one_message(hasher: Context, cipher: Context) -> None:
    """Each call's part goes in whole, also one that is several requests, and the IV goes with the first alone."""
    size = PAYLOAD_MAX + 1000
    pieces = [bytes([number]) * size for number in range(3)]
    message = hasher.message(Operation.DIGEST)
    threads = [threading.Thread(target=message.update, args=(piece,)) for piece in pieces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert message.finish() in {sha256(b"".join(order)) for order in itertools.permutations(pieces)}

    zeros = cipher.message(Operation.ENCRYPT, bytes(16))
    found: list[bytes] = []
    together(lambda number: found.append(zeros.update(bytes(1600))))
    stream = Cipher(AES(KEY), CTR(bytes(16))).encryptor().update(bytes(1600 * THREADS))
    assert sorted(found) == sorted(stream[at : at + 1600] for at in range(0, len(stream), 1600))


def test_threads_share_a_context_and_its_pipeline(hasher: Context) -> None:
    """While a pipeline has the context, the context's own calls go through it, and afterwards by themselves again."""
    pipeline = Pipeline(hasher)

    def work(number: int) -> None:
        if number == 0:
            time.sleep(0.05)
            pipeline.close()
            return
        for n in range(150):
            text = b"%d/%d" % (number, n)
            assert hasher.digest(text) == sha256(text)
            try:
                pending = pipeline.digest(text)
            except ClosedError:
                continue
            assert pending.result(BOUND) == sha256(text)

    together(work)
    assert hasher.digest(b"x") == sha256(b"x")


def test_one_pipeline_at_a_time(hasher: Context) -> None:
    """A second one is EBUSY until the first is closed."""
    with Pipeline(hasher) as closed:
        with pytest.raises(RequestError) as caught:
            Pipeline(hasher)
        assert caught.value.errno == errno.EBUSY
        message = hasher.message(Operation.DIGEST)
        message.update(b"a" * PAYLOAD_MAX)
        assert message.finish(b"b") == sha256(b"a" * PAYLOAD_MAX + b"b")
        with pytest.raises(RequestError) as caught:
            hasher.encrypt(b"x")
        assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(RequestError) as caught:
        closed.digest(b"x")
    # the class that is exported, and not one of the client's own
    assert type(caught.value) is ClosedError
    with Pipeline(hasher) as again:
        assert again.digest(b"x").result(BOUND) == sha256(b"x")


def test_closing_beside_other_threads(mount: Path) -> None:
    """A close waits for the request that is under way; later calls are ClosedError, none reads another file."""
    for piped in (False, True):
        context = Context("hash", "sha256", mount=mount)
        pipeline = Pipeline(context) if piped else None
        outcomes: list[bytes] = []

        def work(number: int, context: Context = context, outcomes: list[bytes] = outcomes) -> None:
            if number == 0:
                time.sleep(0.02)
                context.close()
                return
            with contextlib.suppress(ClosedError):
                while True:
                    outcomes.append(context.digest(b"x" * 100_000))

        together(work)
        assert set(outcomes) == {sha256(b"x" * 100_000)}
        for call in (lambda c=context: c.digest(b""), lambda c=context: Pipeline(c)):
            with pytest.raises(ClosedError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        context.close()
        if pipeline is not None:
            pipeline.close()


def test_callbacks_do_not_wait_for_their_own_thread(hasher: Context) -> None:
    """A callback that would wait for the pipeline which calls it gets EDEADLK, and nothing hangs."""
    numbers: list[int | None] = []

    def wrong(future: concurrent.futures.Future[bytes]) -> None:
        for call in (
            lambda: pipeline.digest(b"other").result(BOUND),
            lambda: hasher.digest(b"other"),
            pipeline.close,
            hasher.close,
        ):
            try:
                call()
            except RequestError as error:
                numbers.append(error.errno)

    with Pipeline(hasher) as pipeline:
        pipeline.digest(b"x").future.add_done_callback(wrong)
        wait_until(lambda: len(numbers) == 4, BOUND)
    assert numbers == [errno.EDEADLK] * 4
    assert hasher.digest(b"x") == sha256(b"x")


def test_a_signal_handler_cannot_use_a_busy_context(mount: Path) -> None:
    """A handler that runs while its thread waits for an answer gets EDEADLK, and the answer comes."""
    numbers: list[int | None] = []
    with Context("skcipher", "cbc(des3_ede)", key=bytes(range(24)), mount=mount) as context:

        def handle(number: int, frame: object) -> None:
            try:
                context.encrypt(bytes(8), bytes(8))
                numbers.append(0)
            except RequestError as error:
                numbers.append(error.errno)

        before = signal.signal(signal.SIGALRM, handle)
        try:
            for _ in range(50):
                signal.setitimer(signal.ITIMER_REAL, 0.005)
                assert len(context.encrypt(bytes(1_000_000), bytes(8))) == 1_000_000
                if errno.EDEADLK in numbers:
                    break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert set(numbers) <= {0, errno.EDEADLK}
        assert errno.EDEADLK in numbers
        assert len(context.encrypt(bytes(8), bytes(8))) == 8


# Fork


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in the child of a fork, which must end well and soon."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def forked(call: Callable[[], object]) -> None:
    """Expect the error of an object that is the parent's."""
    with pytest.raises(ForkedError, match="before a fork") as caught:
        call()
    assert caught.value.errno == errno.ECHILD


def test_a_context_is_its_process_own(hasher: Context, mount: Path) -> None:
    """The child gets an error from every call, may close, and may open a context of its own; the parent goes on."""
    message = hasher.message(Operation.DIGEST)
    message.update(b"a")

    def child() -> None:
        for call in (
            lambda: hasher.digest(b"child"),
            lambda: hasher.set_key(b"child"),
            hasher.reset,
            lambda: message.update(b"child"),
            lambda: message.finish(b"child"),
            message.copy,
            lambda: Pipeline(hasher),
        ):
            forked(call)
        with Context("hash", "sha256", mount=mount) as own:
            assert own.digest(b"child") == sha256(b"child")
        hasher.close()
        hasher.close()

    for _ in range(3):
        in_child(child)
        assert hasher.digest(b"parent") == sha256(b"parent")
    assert message.finish(b"b") == sha256(b"ab")


def test_a_fork_while_threads_work(hasher: Context) -> None:
    """Locks that other threads hold at that moment do not hang the child, and the threads get their own answers."""
    stop = threading.Event()
    wrong: list[bytes] = []
    message = hasher.message(Operation.DIGEST)

    def work() -> None:
        while not stop.is_set():
            if hasher.digest(b"x" * 50_000) != sha256(b"x" * 50_000):
                wrong.append(b"x")
            message.update(bytes(100_000))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        forked(lambda: hasher.digest(b""))
        forked(lambda: message.update(b""))
        hasher.close()

    try:
        for _ in range(10):
            in_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join(BOUND)
    assert not wrong


def test_a_pipeline_is_its_process_own(mount: Path) -> None:
    """What was submitted before the fork has no answer in the child, and nothing waits for one."""
    with Context("skcipher", "cbc(des3_ede)", key=bytes(range(24)), mount=mount) as context:
        pipeline = Pipeline(context)
        pending = [pipeline.encrypt(bytes(800_000), bytes(8)) for _ in range(6)]

        def child() -> None:
            for call in (
                lambda: pipeline.encrypt(bytes(8), bytes(8)),
                lambda: context.encrypt(bytes(8), bytes(8)),
                pending[-1].result,
                pending[-1].future.result,
                pending[-1].future.exception,
                pending[-1].cancel,
                lambda: pending[-1].done,
            ):
                forked(call)
            pipeline.close()
            pipeline.close()
            context.close()

        in_child(child)
        assert [len(each.result(BOUND)) for each in pending] == [800_000] * 6
        pipeline.close()


def _use(context: Context) -> str:
    try:
        return context.digest(b"x").hex()
    except OSError as error:
        return type(error).__name__


def test_multiprocessing(hasher: Context) -> None:
    """A pool that forks gives the error of the child; one that spawns cannot be given a context at all."""
    _inherited.append(hasher)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = [pool.apply_async(_use_inherited) for _ in range(4)]
        assert {each.get(BOUND) for each in found} == {"ForkedError"}
    for make in (lambda: pickle.dumps(hasher), lambda: copy.copy(hasher), lambda: copy.deepcopy(hasher)):
        with pytest.raises(TypeError, match="a Context cannot be copied or pickled"):
            make()
    assert hasher.digest(b"x") == sha256(b"x")
    _inherited.clear()


_inherited: list[Context] = []


def _use_inherited() -> str:
    return _use(_inherited[0])


def test_errors_can_be_sent_to_another_process(hasher: Context) -> None:
    """Pickled as pools do it: class, errno and message stay."""
    for error in (RequestError(errno.EDQUOT, "why"), ClosedError.what("context"), ForkedError.what("pipeline")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.errno, again.message, str(again)) == (
            type(error), error.errno, error.message, str(error)
        )  # fmt: skip


# Dropped


def test_a_dropped_context_warns_and_closes(mount: Path) -> None:
    """As a file does; one that was closed, and one that could not be opened, say nothing."""
    context = Context("hash", "sha256", mount=mount)
    descriptor, directory = context.fileno(), context.directory
    held = [context]
    del context
    with pytest.warns(ResourceWarning, match="unclosed <Context"):
        held.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    wait_until(lambda: not directory.exists(), BOUND)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Context("hash", "sha256", mount=mount).close()
        for wrong in ("nosuch", "é"):
            with pytest.raises(RequestError):
                Context("hash", wrong, mount=mount)
        gc.collect()


def test_a_dropped_pipeline_warns_and_ends(hasher: Context) -> None:
    """Its thread ends when what was submitted is answered, and the context is free again."""
    pipeline = Pipeline(hasher)
    pending = [pipeline.digest(b"%d" % n) for n in range(100)]
    held = [pipeline]
    del pipeline
    with pytest.warns(ResourceWarning, match="unclosed <Pipeline"):
        held.clear()
    assert [each.result(BOUND) for each in pending] == [sha256(b"%d" % n) for n in range(100)]
    assert hasher.digest(b"x") == sha256(b"x")
    wait_until(lambda: all(thread.name != "cryptofs-pipeline" for thread in threading.enumerate()), BOUND)


def test_dropped_in_a_child(mount: Path) -> None:
    """The child that drops the parent's objects does not warn, and leaves them as they are."""
    with Context("hash", "sha256", mount=mount) as context, Pipeline(context) as pipeline:
        held = [context, pipeline]

        def child() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                held.clear()
                gc.collect()

        in_child(child)
        assert pipeline.digest(b"x").result(BOUND) == sha256(b"x")
