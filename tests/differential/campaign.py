"""Many scenarios: a context each, a few messages side by side in it, keys replaced in between."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptofs.algorithms import Type
from cryptofs.contexts import ContextTable
from cryptofs.engines.base import Engine
from cryptofs.records import RECORD_MAX, Attr, Operation, Record

from .draw import MORE, Drawn, open_names
from .duel import Difference, Duel
from .known import KNOWN

FAILURES_MAX = 20
_WRITE_MAX = RECORD_MAX - 65_536
# what has more ways of being wrong comes more often
_WEIGHTS = {Type.HASH: 30, Type.SKCIPHER: 30, Type.AEAD: 40, Type.RNG: 3}


@dataclass
class Campaign:
    """What came of it. cases: configure calls, set-keys and messages, however many parts they had."""

    seed: int
    cases: int = 0
    scenarios: int = 0
    types: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def run(
    engines: Sequence[Engine], cases: int, seed: int, only: int | None = None, names_of: Sequence[str] = ()
) -> Campaign:
    """At least so many cases on two engines, or only the scenario of one number. names_of: only these, if any."""
    done = Campaign(seed)
    names: dict[Type, list[str]] = {}
    for type_, name in open_names(engines):
        if names_of and name not in names_of:
            continue
        if type_ in _WEIGHTS:
            names.setdefault(type_, []).append(name)
    types = list(names)
    weights = [_WEIGHTS[type_] for type_ in types]
    tables = [ContextTable((engine,)) for engine in engines]
    number = only or 0
    while only is not None or (done.cases < cases and len(done.failures) < FAILURES_MAX):
        rng = random.Random(f"{seed}/{number}")
        (type_,) = rng.choices(types, weights)
        # in turns, so that none is left out
        of_type = names[type_]
        difference = Scenario(rng, tables, engines, (type_, of_type[number % len(of_type)]), done).run()
        done.scenarios += 1
        if difference is not None:
            reasons = [known for known in KNOWN if known.holds(difference)]
            if reasons:
                done.known[reasons[0].name] += 1
            else:
                done.failures.append(f"seed {seed}, scenario {number}: {difference}")
        number += 1
        if only is not None:
            break
    return done


class Scenario:
    """One context of each engine, and what it is asked."""

    def __init__(
        self,
        rng: random.Random,
        tables: Sequence[ContextTable],
        engines: Sequence[Engine],
        name: tuple[Type, str],
        done: Campaign,
    ) -> None:
        description = engines[0].describe(*name)
        assert description is not None
        self.drawn = Drawn(rng, description)
        self.done = done
        self.duel = Duel(tables, random=name[0] is Type.RNG)
        self.difference: Difference | None = None

    def run(self) -> Difference | None:
        """The first difference, or None."""
        drawn = self.drawn
        try:
            self.write([drawn.configure()])
            if not self.duel.configured:
                # a refused call leaves a context as new; what needs one is tried before a second call, now and then
                if drawn.chance(0.1):
                    self.messages(1)
                self.write([drawn.configure(right=True)])
            for _ in range(drawn.rng.choice((1, 2, 2, 3, 4, 6))):
                if self.difference is not None:
                    break
                if drawn.chance(0.15):
                    self.write([drawn.set_key()])
                    continue
                self.messages(drawn.rng.choice((1, 1, 1, 1, 2, 3)))
        finally:
            self.duel.close()
        return self.difference

    def count(self, cases: int) -> None:
        self.done.cases += cases
        self.done.types[self.drawn.type.value] += cases
        self.done.names[self.drawn.description.name] += cases

    def write(self, records: list[Record], counted: bool = True) -> dict[int, bytes]:
        """One write; returns the output by id of messages that went well, and notes a difference."""
        if self.difference is not None:
            return {}
        answers, pair = self.duel.write(records)
        self.done.statuses.update(answer.status for answer in answers)
        if counted:
            self.count(len(records))
        if pair is not None:
            seen = pair[0] or pair[1]
            assert seen is not None
            request = next((each for each in records if (each.operation, each.id) == (seen.operation, seen.id)), None)
            self.difference = Difference(
                self.drawn.type, self.drawn.description.name, self.drawn.key, request or records[0], pair
            )
        outputs: dict[int, bytes] = {}
        for answer in answers:
            if not answer.status:
                outputs[answer.id] = outputs.get(answer.id, b"") + answer.payload
        return outputs

    def messages(self, count: int) -> None:
        """Some messages whose parts come in turns; then what was encrypted is decrypted."""
        drawn = self.drawn
        plain = [drawn.plain() for _ in range(count)]
        queues = [drawn.message(*each) for each in plain]
        ids = [queue[0].id for queue in queues]
        if drawn.type is Type.HASH and drawn.chance(0.2):
            queues.append(self.with_clone(queues[0]))
        outputs = self.interleave(queues)
        back = []
        for (operation, attributes, data), identity in zip(plain, ids, strict=True):
            if operation is Operation.ENCRYPT and identity in outputs:
                back.append(drawn.message(Operation.DECRYPT, *drawn.turned_round(attributes, data, outputs[identity])))
        if back:
            self.interleave(back)

    def with_clone(self, queue: list[Record]) -> list[Record]:
        """A clone of a message, to be put after one of its parts, and the clone's own end."""
        drawn = self.drawn
        identity = drawn.next_id()
        at = drawn.rng.randrange(len(queue) + 1)
        queue.insert(at, Record(Operation.CLONE, 0, identity, 0, {Attr.TARGET: queue[0].id}))
        return [Record(Operation.DIGEST, 0, identity, 0, {}, drawn.bytes_of(drawn.rng.randrange(200)))]

    def interleave(self, queues: list[list[Record]]) -> dict[int, bytes]:
        """The records of several messages in a random order that keeps each one's own, in writes of random sizes."""
        rng = self.drawn.rng
        self.count(len(queues))
        outputs: dict[int, bytes] = {}
        pending: list[Record] = []
        size = 0
        while any(queues) and self.difference is None:
            queue = rng.choice([each for each in queues if each])
            record = queue.pop(0)
            if pending and (size + len(record.payload) > _WRITE_MAX or rng.random() < 0.5):
                self.collect(outputs, pending)
                pending, size = [], 0
            pending.append(record)
            size += len(record.payload)
            if record.flags & MORE and rng.random() < 0.01:
                pending.append(Record(Operation.CANCEL, 0, self.drawn.next_id(), 0, {Attr.TARGET: record.id}))
            elif rng.random() < 0.003:
                pending.append(Record(Operation.RESET, 0, self.drawn.next_id(), 0, {}))
        if pending:
            self.collect(outputs, pending)
        return outputs

    def collect(self, outputs: dict[int, bytes], records: list[Record]) -> None:
        for identity, output in self.write(records, counted=False).items():
            outputs[identity] = outputs.get(identity, b"") + output
