"""Millions of mutated records and lines through the parsers, in processes of their own."""

import os
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import hostile, oracle
from .kinds import ALL_KINDS

ASK_EVERY = 50
"""One buffer in so many is compared with the construct definition, too."""
LINE_EVERY = 10
"""One input in so many is a control line."""
_REFRESH = 20_000
_SHOWN = 10


@dataclass
class ParserResult:
    """What came of it: how many inputs got which verdict, how many were compared, what was wrong."""

    inputs: int = 0
    compared: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "ParserResult") -> None:
        """Take another process's result into account."""
        self.inputs += other.inputs
        self.compared += other.compared
        self.verdicts += other.verdicts
        self.wrong += other.wrong


def attack_parser(seed: str, inputs: int, done: Any) -> ParserResult:
    """Make and check so many inputs. done: a shared counter for the progress bar."""
    rng = Random(seed)
    result = ParserResult()
    kinds = tuple(ALL_KINDS.values())
    pool: list[bytes] = []
    for index in range(inputs):
        if index % _REFRESH == 0:
            pool = hostile.pool(rng, rng.choice(kinds), 500)
            # large ones are for the mount: here they would only be copied
            pool = [record for record in pool if len(record) < 10_000]
        if index % LINE_EVERY == 0:
            data = hostile.line(rng)
            verdict, wrong = oracle.check_line(data)
        else:
            _, data = hostile.hostile(rng, rng.choice(pool), 0.9)
            while rng.random() < 0.2:
                data += hostile.hostile(rng, rng.choice(pool), 0.5)[1]
            ask = index % ASK_EVERY == 1
            verdict, wrong = oracle.check_parser(data, ask)
            result.compared += ask
        result.verdicts[verdict] += 1
        if wrong is not None and len(result.wrong) < _SHOWN:
            result.wrong.append(f"input {index} of {seed}: {wrong}: {data[:200].hex()}")
        if index % 1000 == 999:
            with done.get_lock():
                done.value += 1000
    with done.get_lock():
        done.value += inputs % 1000
    result.inputs = inputs
    return result


def processes() -> int:
    """How many processes are worth it."""
    return max(1, min(4, len(os.sched_getaffinity(0))))
