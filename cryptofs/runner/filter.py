"""The seccomp filter: which system calls of the program are handed to the supervisor.

It is a program in classic BPF over the number and the arguments of each call. What no rule names goes to the kernel at
no more cost than the filter itself. Of other architectures, only a socket(2) that would make a socket of ours is handed
over: the supervisor refuses it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .numbers import Machine

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""
_ALLOW, _NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_INSTRUCTION = struct.Struct("=HBBI")
_Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Argument:
    """A condition on the low half of an argument, which is all that the kernel takes of a descriptor or a command.

    position: 0 to 5. value: what it equals under `mask`, or, with at_least, its smallest value.
    """

    position: int
    value: int
    mask: int = 0xFFFFFFFF
    at_least: bool = False


def is_at_least(position: int, value: int) -> Argument:
    """The condition on a descriptor."""
    return Argument(position, value, at_least=True)


@dataclass(frozen=True)
class Rule:
    """A call that is handed over if all conditions hold. number: None; an errno: the answer, without the supervisor."""

    name: str
    conditions: tuple[Argument, ...] = ()
    errno: int | None = None


def assemble(machine: Machine, rules: Sequence[Rule], refused: int | None) -> bytes:
    """The filter. Calls that the architecture does not have are left out; the first rule that fits decides.

    refused: a family whose sockets are handed over for other architectures, too, or None.
    """
    foreign: list[_Instruction] = []
    same: list[_Instruction] = []
    for audit, number in machine.others:
        if refused is None:
            break
        sockets: list[_Instruction] = [
            (_IF_EQUAL, 0, 3, number),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_IF_EQUAL, 0, 1, refused),
            (_RETURN, 0, 0, _NOTIFY),
        ]
        if audit == machine.audit:
            same += sockets
        else:
            foreign += [(_IF_EQUAL, 0, len(sockets) + 1, audit), (_LOAD, 0, 0, _NUMBER), *sockets]
    foreign.append((_RETURN, 0, 0, _ALLOW))
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, len(foreign), 0, machine.audit),
        *foreign,
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name in dict.fromkeys(rule.name for rule in rules):
        if name in machine.numbers:
            body = [each for rule in rules if rule.name == name for each in _compiled(rule)]
            body.append((_RETURN, 0, 0, _ALLOW))
            code.append((_IF_EQUAL, 0, len(body), machine.numbers[name]))
            code += body
    code += same
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


def _compiled(rule: Rule) -> list[_Instruction]:
    """One rule: a condition that does not hold jumps behind it."""
    sizes = [3 if each.mask != 0xFFFFFFFF else 2 for each in rule.conditions]
    code: list[_Instruction] = []
    for position, each in enumerate(rule.conditions):
        code.append((_LOAD, 0, 0, _ARGUMENTS + 8 * each.position))
        if each.mask != 0xFFFFFFFF:
            code.append((_AND, 0, 0, each.mask))
        behind = sum(sizes[position + 1 :]) + 1
        code.append((_IF_AT_LEAST if each.at_least else _IF_EQUAL, 0, behind, each.value))
    code.append((_RETURN, 0, 0, _NOTIFY if rule.errno is None else _ERRNO | rule.errno))
    return code
