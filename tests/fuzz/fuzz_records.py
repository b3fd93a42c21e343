"""Coverage-guided fuzzing of the records and of one context's protocol state (atheris, libFuzzer's options).

    python tests/fuzz/fuzz_records.py -max_total_time=60 [CORPUS]

The first byte chooses an algorithm of the toy engine, whether the rest is written in one piece or cut in two, and
whether the engine is made to fail. The rest must be refused with a typed error, or be records that the codec builds
again byte for byte, that construct's definition reads alike, and that a context answers exactly once each.
CRYPTOFS_FUZZ_BREAK names a bug to plant, for the test that the target finds it.
"""

import os
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["cryptofs.records", "cryptofs.devices", "cryptofs.contexts"]):
    import cryptofs.contexts
    import cryptofs.contexts.exchange
    import cryptofs.records

import errno
import logging

from helpers.fake_engine import CANARY, FakeEngine
from helpers.raw import build_many
from helpers.talking import take, write
from stress import hostile
from stress.oracle import acceptable, check_line, check_parser, walk

from cryptofs.contexts.exchange import Exchange
from cryptofs.contexts.lanes import Call
from cryptofs.errors import CryptofsError
from cryptofs.records import (
    HEADER_SIZE,
    RECORD_MAX,
    Attr,
    Buffer,
    Flag,
    Operation,
    Record,
    Value,
    build,
    parse_responses,
)

MORE = int(Flag.MORE)
ALGORITHMS: tuple[dict[int, Value], ...] = (
    {Attr.TYPE: "hash", Attr.NAME: "toysum"},
    {Attr.TYPE: "hash", Attr.NAME: "hmac(toysum)", Attr.KEY: bytes(16)},
    {Attr.TYPE: "skcipher", Attr.NAME: "ctr(toy)", Attr.KEY: bytes(16)},
    {Attr.TYPE: "skcipher", Attr.NAME: "cbc(toy)", Attr.KEY: bytes(16)},
    {Attr.TYPE: "skcipher", Attr.NAME: "xts(toy)"},
    {Attr.TYPE: "aead", Attr.NAME: "gcm(toy)", Attr.KEY: bytes(16)},
    {Attr.TYPE: "rng", Attr.NAME: "toyrng"},
    {},
)
"""What the context is configured with, by the first byte; nothing for the last."""
_TWO_WRITES, _BURNS, _TEXT = 0x08, 0x10, 0x20


class Finding(Exception):
    """An invariant that does not hold."""


def one_input(data: bytes) -> None:
    """Judge one input."""
    if not data:
        return
    choice, body = data[0], data[1:]
    if choice & _TEXT:
        _, wrong = check_line(body)
        if wrong is not None:
            raise Finding(wrong)
        return
    verdict, wrong = check_parser(body, ask=len(body) < 2000)
    if wrong is not None:
        raise Finding(f"{verdict}: {wrong}")
    try:
        parse_responses(body)
    except CryptofsError:
        pass
    except Exception as error:
        raise Finding(f"{type(error).__name__} is no typed error") from error
    drive(choice, body)


def drive(choice: int, body: bytes) -> None:
    """Write `body` to a context, read all answers, and look for anything that is left."""
    engine = FakeEngine()
    table = cryptofs.contexts.ContextTable((engine,))
    context = table.open(1000, 1000, 1, False)
    attributes = ALGORITHMS[choice & 7]
    if attributes:
        submit(context, build(Record(Operation.CONFIGURE, 0, 0, 0, attributes)), "ok")
    if choice & _BURNS:
        engine.fuses = {"update", "crypt", "digest"}
    half = len(body) // 2 if choice & _TWO_WRITES else 0
    for piece in (body[:half], body[half:]) if half else (body,):
        submit(context, piece, "burns" if choice & _BURNS else "")
    table.close(context)
    if engine.open_runs or engine.transforms:
        raise Finding(f"{engine.open_runs} runs and {len(engine.transforms)} transforms are left open")
    if len(table):
        raise Finding("a context is left")


def submit(context: cryptofs.contexts.Context, data: bytes, mode: str) -> None:
    """One write, by the short way or the general one as the file does it, and all reads."""
    exchange = context.exchange
    before = (exchange.outstanding, exchange.bytes)
    try:
        write(context, data)
    except CryptofsError:
        if (exchange.outstanding, exchange.bytes) != before:
            raise Finding("a refused write has left something") from None
        return
    if not acceptable(data):
        raise Finding("accepted what the definition refuses")
    expected = Counter((operation, identity, flags & MORE) for operation, flags, identity, _, _ in walk(data))
    answers: Counter[tuple[int, int, int]] = Counter()
    while (response := take(context, RECORD_MAX)) is not None:
        for record in parse_responses(bytes(response)):
            answers[record.operation, record.id, record.flags & MORE] += 1
            check_answer(record, mode)
    if answers != expected:
        raise Finding(f"answers {answers} to {expected}")
    kept = sum(lane.message.kept for lane in exchange.lanes.values() if lane.message is not None)
    if exchange.in_flight or exchange.outstanding or not exchange.bytes == exchange.kept == kept:
        raise Finding("all is answered and read, and more is counted than messages in parts keep")


def check_answer(record: Record, mode: str) -> None:
    """Errors have a message, the toys never fail by themselves, and what they say is never shown."""
    message = str(record.attributes.get(Attr.MESSAGE, ""))
    if record.status and not message:
        raise Finding(f"status {record.status} without a message")
    if record.status == errno.EIO and mode != "burns":
        raise Finding(f"the engine was called as it must not be: {record}")
    if CANARY in message:
        raise Finding("the engine's own words are shown")
    if mode == "ok" and record.status:
        raise Finding(f"configure failed: {message}")


# Seeds and mutation


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: each operation on each algorithm, in one part and more, and lines."""
    data = (Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE)
    for choice, attributes in enumerate(ALGORITHMS):
        for operation in data:
            given: dict[int, Value] = {}
            if operation is Operation.GENERATE:
                given[Attr.LENGTH] = 20
            elif attributes.get(Attr.TYPE) in ("skcipher", "aead"):
                given[Attr.IV] = bytes({"ctr(toy)": 8, "gcm(toy)": 12}.get(str(attributes[Attr.NAME]), 16))
            whole = Record(operation, 0, 1, 0, given, bytes(32))
            parts = [Record(operation, MORE, 2, 0, given, bytes(16)), Record(operation, 0, 2, 0, {}, bytes(16))]
            yield bytes([choice]) + build(whole)
            yield bytes([choice | _TWO_WRITES]) + build_many([whole, whole])
            yield bytes([choice]) + build_many([*parts, Record(Operation.CANCEL, 0, 3, 0, {Attr.TARGET: 2})])
            yield bytes([choice | _BURNS]) + build_many(parts)
    for operation, given in (
        (Operation.INFO, {}),
        (Operation.RESET, {Attr.OPERATION: "decrypt"}),
        (Operation.SET, {Attr.NONBLOCKING: 1}),
        (Operation.SET_KEY, {Attr.KEY: bytes(32)}),
        (Operation.CLONE, {Attr.TARGET: 2, Attr.CONTEXT: 1}),
        # names of several lengths, and so padding of several sizes
        *((Operation.CONFIGURE, attributes) for attributes in ALGORITHMS),
    ):
        yield bytes([7]) + build(Record(operation, 0, 9, 0, given))
    for line in (b"configure type=hash name=toysum key=hex:00", b"set nonblocking=1\n", b"cancel target=7", b"info"):
        yield bytes([_TEXT]) + line


def mend(data: bytearray) -> bytearray:
    """Put the sizes of the records right, so that a mutation gets past them."""
    at = 1
    while at + HEADER_SIZE <= len(data):
        size, _, _, _, _, _, attributes_size = struct.unpack_from("<IBBHQII", data, at)
        if not HEADER_SIZE <= size <= len(data) - at:
            size = len(data) - at
            struct.pack_into("<I", data, at, size)
        data[at + 4] = 1
        if attributes_size > size - HEADER_SIZE or attributes_size % 4:
            struct.pack_into("<I", data, at + 20, 0)
        at += size
    return data


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation, and every other time the sizes put right; at times what is wrong on purpose: luck alone
    finds some of it (a byte of padding that is not zero) too seldom.
    """
    if seed % 8 == 0 and len(data) > HEADER_SIZE:
        rng = Random(seed)
        change = hostile.MUTATIONS[rng.choice(tuple(hostile.MUTATIONS))]
        return (data[:1] + bytes(change(rng, bytearray(data[1:]))))[:max_size]
    mutated = bytearray(atheris.Mutate(data, max_size))
    return bytes(mend(mutated) if seed % 2 and len(mutated) > HEADER_SIZE else mutated)


# Planted bugs


def _answer_twice() -> None:
    inner = Exchange.answer

    def answer(self: Exchange, response: Buffer, cost: int, failed: bool = False, call: Call | None = None) -> None:
        inner(self, response, cost, failed, call)
        if HEADER_SIZE < cost // 2 < HEADER_SIZE + 16:
            inner(self, response, cost, failed, call)

    Exchange.answer = answer  # type: ignore[method-assign]


def _lose_answer() -> None:
    inner = Exchange.answer

    def answer(self: Exchange, response: Buffer, cost: int, failed: bool = False, call: Call | None = None) -> None:
        if failed and len(response) % 16 == 12:
            self.in_flight -= 1
        else:
            inner(self, response, cost, failed, call)

    Exchange.answer = answer  # type: ignore[method-assign]


def _loose_padding() -> None:
    cryptofs.records.codec.any = lambda view: False  # type: ignore[attr-defined]


def _untyped() -> None:
    class Strict(dict[int, Operation]):
        def get(self, key: int, default: object = None) -> Operation:  # type: ignore[override]
            return self[key]

    cryptofs.records.codec.OPERATION_NUMBERS = Strict(cryptofs.records.codec.OPERATION_NUMBERS)


BREAKS: dict[str, Callable[[], None]] = {
    "answer-twice": _answer_twice,
    "lose-answer": _lose_answer,
    "loose-padding": _loose_padding,
    "untyped": _untyped,
}


def main() -> None:
    """Write the seeds where no corpus is given, and fuzz."""
    logging.disable(logging.CRITICAL)
    if planted := os.environ.get("CRYPTOFS_FUZZ_BREAK"):
        BREAKS[planted]()
    directory = tempfile.mkdtemp(prefix="cryptofs-fuzz-")
    child = os.fork()
    if not child:
        # libFuzzer ends its process in a way of its own: somebody else has to clean up
        _fuzz(Path(directory))
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    if status:
        print(f"the input that was found is in {directory}")
    else:
        shutil.rmtree(directory)
    sys.exit(1 if status else 0)


def _fuzz(directory: Path) -> None:
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    # new inputs go to the first directory that is named
    given = [each for each in sys.argv[1:] if not each.startswith("-")]
    options = [each for each in sys.argv[1:] if each.startswith("-")]
    options = ["-max_len=4096", "-timeout=10", f"-artifact_prefix={directory}/", *options]
    atheris.Setup([sys.argv[0], *options, *given, str(corpus)], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
