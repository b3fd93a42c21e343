"""The filter, instruction by instruction: what it hands over, on each architecture."""

import glob
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.errors import CryptofsError
from cryptofs.runner.calls import HANDLERS
from cryptofs.runner.filter import assemble
from cryptofs.runner.numbers import MACHINES, X32, Machine, machine
from cryptofs.runner.rules import PROBE, rules
from cryptofs.runner.shim import ALIAS, ALIAS_PROTOCOL

ALLOW, NOTIFY, ENOSYS = 0x7FFF0000, 0x7FC00000, 0x00050000 | 38


def judge(code: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a call: its interpreter of classic BPF, as far as a filter uses it."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    program = list(struct.iter_unpack("=HBBI", code))
    at, value = 0, 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x54:
            value &= constant
        elif operation == 0x06:
            return int(constant)
        else:
            holds = value == constant if operation == 0x15 else value >= constant
            assert operation in (0x15, 0x35)
            at += if_true if holds else if_false


HEADERS = {
    "x86_64": ("/usr/include/*/asm/unistd_64.h", "/usr/include/*/asm/unistd_32.h", "/usr/include/*/asm/unistd_x32.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}


def declared(pattern: str) -> dict[str, int]:
    """The numbers of system calls in a header of the kernel."""
    found = [Path(each).read_text() for each in glob.glob(pattern)]
    if not found:
        pytest.skip(f"NOT RUN: no {pattern} (apt-get install linux-libc-dev)")
    lines = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\(__X32_SYSCALL_BIT \+ )?(\d+)\)?$", found[0], re.M)
    return {name: int(number) | (X32 if bit else 0) for name, bit, number in lines}


@pytest.mark.parametrize("here", MACHINES.values(), ids=list(MACHINES))
def test_the_kernels_headers(here: Machine) -> None:
    """Each number, on every architecture: aarch64 has the generic ones."""
    own, *others = (declared(pattern) for pattern in HEADERS[here.name])
    assert {name: own[name] for name in here.numbers} == here.numbers
    assert not {rule.name for rule in rules(True, True, True)} & own.keys() - here.numbers.keys()
    assert [each["socket"] for each in others] == [number for _, number in here.others][: len(others)]


@pytest.mark.parametrize("here", MACHINES.values(), ids=list(MACHINES))
def test_what_is_handed_over(here: Machine) -> None:
    """Ours, and nothing else; every call that is handed over has a handler."""
    for wide in (False, True):
        for devices in (False, True):
            code = assemble(here, rules(wide, devices, devices), 38)
            assert {rule.name for rule in rules(wide, devices, devices) if rule.errno is None} <= HANDLERS.keys()

            def told(name: str, *arguments: int, code: bytes = code) -> int:
                return judge(code, here.audit, here.numbers[name], *arguments)

            low = NOTIFY if wide else ALLOW
            for name in ("read", "write", "sendmsg", "recvfrom", "accept4", "setsockopt", "dup", "dup3"):
                assert told(name, 512) == told(name, 0xFFFFFFFF) == told(name, 5 << 32 | 600) == NOTIFY
                assert told(name, 511) == told(name, 0) == told(name, 5 << 32) == low
            assert told("socket", 38, 5, 0) == told("socketpair", 38, 5, 0) == NOTIFY
            assert told("socket", 1, 5, 0) == told("socket", 16, 3, 0) == ALLOW
            assert told("socket", 16, 3, 21) == NOTIFY
            assert told("fcntl", 600, 0) == told("fcntl", 600, 1030) == NOTIFY
            assert told("fcntl", 600, 1) == told("fcntl", 600, 3) == ALLOW
            assert told("splice", 600, 0, 3) == told("splice", 3, 0, 600) == NOTIFY
            assert told("splice", 3, 0, 4) == low
            assert told("io_submit") == told("io_getevents") == NOTIFY
            assert told("io_uring_setup") == ENOSYS
            for protocol in (ALIAS_PROTOCOL, ALIAS_PROTOCOL + 1, PROBE):
                assert told("socket", ALIAS, 5, protocol) == (NOTIFY if devices else ALLOW)
            assert told("socket", ALIAS, 5, ALIAS_PROTOCOL + 2) == told("socket", ALIAS, 5, 1) == ALLOW
            assert told("openat") == (NOTIFY if devices else ALLOW)
            assert told("ioctl", 600, 0xC0306366) == (NOTIFY if devices else ALLOW)
            assert told("ioctl", 600, 0x5401) == ALLOW
            for audit, number in here.others:
                assert judge(code, audit, number, 38, 5, 0) == judge(code, audit, number, 5 << 32 | 38) == NOTIFY
                assert judge(code, audit, number, 1, 5, 0) == ALLOW
            other = next(audit for audit, _ in here.others if audit != here.audit)
            for number in range(512):
                if (other, number) not in here.others:
                    assert judge(code, other, number, 600) == judge(code, other, number, 38) == ALLOW
            assert judge(code, 0xC00000F3, here.numbers["read"], 600) == ALLOW
            assert judge(code, here.audit, X32 | 45, 600) == ALLOW


@settings(deadline=None)
@given(number=st.integers(0, 1000), arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_it_never_runs_off(number: int, arguments: tuple[int, ...]) -> None:
    """Every call has a verdict."""
    here = MACHINES["x86_64"]
    assert judge(assemble(here, rules(False, True, True), None), here.audit, number, *arguments) in (
        ALLOW,
        NOTIFY,
        ENOSYS,
    )


def test_another_machine() -> None:
    """It is refused by name."""
    with pytest.raises(CryptofsError, match="riscv64"):
        machine("riscv64")
