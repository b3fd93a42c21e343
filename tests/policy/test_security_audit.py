"""The audit trail holds whatever name a client gives, on one line and beside the right values."""

import ast
import errno
import logging
import os
import re
import time
from pathlib import Path

import pytest
from helpers import security_mount
from helpers.daemons import Daemon
from helpers.raw import Raw
from helpers.security_mount import NO, refuses
from hypothesis import given
from hypothesis import strategies as st

from cryptofs.policy.audit import audit
from cryptofs.records import Attr, Operation, Record, Value, build

daemon = security_mount.daemon

WORD = re.compile(r"(\w[\w-]*)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^ \"'=\\]+)(?: |$)")


def fields(line: str) -> dict[str, str]:
    """What a reader makes of a line: the event, then values, quoted where they are more than one plain word."""
    event, _, rest = line.partition(" ")
    found, at = {"event": event}, 0
    while at < len(rest):
        match = WORD.match(rest, at)
        assert match is not None, line
        assert match[1] not in found, line
        found[match[1]] = ast.literal_eval(match[2]) if match[2][0] in "'\"" else match[2]
        at = match.end()
    return found


HOSTILE = [
    "x\nopen uid=0 pid=1",
    "x\r\nopen uid=0",
    'a" uid="0',
    "a' uid='0",
    "'\"",
    "uid=0",
    "\\",
    "\\'",
    "x\x00y",
    "\x1b[2J",
    "\u2028open",
    "\u202e",
    "",
    " ",
    "n" * 199 + "'=",
    "n" * 300,
]


def one_line(name: str) -> None:
    """Check that a name comes back out of the trail as it went in, on one line, beside the right values."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("cryptofs.audit")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        audit("configure", 1000, 7, type="hash", name=name, engine="openssl")
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    (line,) = lines
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    expected = {"event": "configure", "uid": "1000", "pid": "7", "type": "hash", "engine": "openssl"}
    assert fields(line) == expected | {"name": name[:200]}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_in_the_trail(name: str) -> None:
    """Newlines, quotes, `=`, backslashes, control characters, too long."""
    one_line(name)


@given(st.text(max_size=300))
def test_any_name_in_the_trail(name: str) -> None:
    """Whatever it is."""
    one_line(name)


@pytest.mark.mount
def test_a_hostile_name_over_the_mount(mount: Path, daemon: Daemon) -> None:
    """What a client names in records and lines: no line of the log begins with what it wrote or has its uid."""
    before = len(daemon.log)
    forged = "x\" uid=4294967294 pid=1 refused=NO'"
    for name in (forged, "x\ncryptofs: open uid=4294967294 pid=1", "x\rcryptofs: open uid=4294967294", "a'b=c", "\\'"):
        for attribute in (Attr.TYPE, Attr.NAME, Attr.ENGINE, Attr.DRIVER):
            with Raw(mount) as raw:
                attributes: dict[int, Value] = {Attr.TYPE: "hash", Attr.NAME: "sha256", attribute: "q" * len(name[:31])}
                # the codec would not write such a name
                record = build(Record(Operation.CONFIGURE, id=1, attributes=attributes))
                assert record.count(b"q" * len(name[:31])) == 1
                record = record.replace(b"q" * len(name[:31]), name[:31].encode())
                if name.isprintable():
                    os.write(raw.fd, record)
                    assert raw.read()[0].status in NO
                else:
                    with pytest.raises(OSError) as caught:
                        os.write(raw.fd, record)
                    assert caught.value.errno == errno.EINVAL
                refuses(raw.directory / "ctl", f"configure type={name}\n", *NO)
                # refusals are recorded once a second, so each is told of by the next, too
    time.sleep(0.3)
    lines = daemon.log[before:].splitlines()
    assert len(lines) >= 20
    for line in lines:
        prefix, _, rest = line.partition("cryptofs: ")
        assert prefix == "", line
        if rest.split(" ", 1)[0] in ("open", "configure"):
            found = fields(rest)
            assert found["uid"] == str(os.getuid()), line
            assert found["pid"] == str(os.getpid()), line
