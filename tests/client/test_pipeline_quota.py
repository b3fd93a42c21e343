"""The pipeline under a policy that allows less than it would have in flight."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config

from cryptofs.cli.commands import commands
from cryptofs.client import Context, Pipeline, RequestError
from cryptofs.records import Operation, Record, build

pytestmark = pytest.mark.mount

POLICY = """
[policy]
requests = 3
queue-bytes = 1_200_000
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device for everybody and little room for anybody."""
    directory = tmp_path_factory.mktemp("quota")
    config = POLICY + declare("d", "aead", "gcm(aes)", "{secret}")
    with serving_config(directory, config, secret=bytes(range(32))) as daemon:
        yield daemon


def test_less_in_flight(mount: Path) -> None:
    """What the policy refuses is sent again when answers have come: nothing is lost, and every answer is its own's."""
    with Context("hash", "sha256", mount=mount) as context:
        expected = {index: context.digest(b"%d" % index) for index in range(300)}
        with Pipeline(context) as pipeline:
            pending = {index: pipeline.digest(b"%d" % index) for index in range(300)}
            assert {index: each.result(20) for index, each in pending.items()} == expected


def test_what_never_fits_is_said(mount: Path) -> None:
    """One request that is over the bound alone: EDQUOT for it, and the others are served."""
    with Context("hash", "sha256", mount=mount) as context, Pipeline(context) as pipeline:
        before = pipeline.digest(b"before")
        large = pipeline.digest(bytes(1_000_000))
        after = pipeline.digest(b"after")
        with pytest.raises(RequestError) as caught:
            large.result(20)
        assert caught.value.errno == errno.EDQUOT
        assert (before.result(20), after.result(20)) == (context.digest(b"before"), context.digest(b"after"))


def test_files_through_a_device(mount: Path, tmp_path: Path) -> None:
    """`cryptofs encrypt --device`, which has many segments in flight, goes through as well."""
    data = os.urandom(5_000_000)
    (tmp_path / "plain").write_bytes(data)
    for command, source, sink in (("encrypt", "plain", "sealed"), ("decrypt", "sealed", "opened")):
        arguments = [command, "--device", "d", "--mount", mount, "-i", tmp_path / source, "-O", tmp_path / sink]
        done = CliRunner().invoke(commands, [str(each) for each in arguments], catch_exceptions=True)
        assert done.exit_code == 0, (done.output, done.exception)
    assert (tmp_path / "opened").read_bytes() == data


def test_a_stream_that_is_refused_gives_no_shorter_message(mount: Path) -> None:
    """`cat large > stream` beyond queue-bytes: the writer is told, and the reader gets the error, not a whole look."""
    with Context("skcipher", "ctr(aes)", bytes(16), mount=mount) as context:
        (context.directory / "ctl").write_text(f"reset operation=encrypt iv=hex:{bytes(16).hex()}")
        reader = os.open(context.directory / "stream", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(context.directory / "stream", os.O_WRONLY)
        with Context("hash", "sha256", mount=mount) as other:
            # an answer that nobody has read yet takes most of what the user may queue
            os.write(other.fileno(), build(Record(Operation.DIGEST, id=1, payload=bytes(500_000))))
            assert error_of(lambda: os.write(writer, bytes(50_000))) == errno.EDQUOT
        os.close(writer)
        assert error_of(lambda: os.read(reader, 1 << 20) or 1 / 0) == errno.EDQUOT
        os.close(reader)


def error_of(call: Callable[[], object]) -> int:
    """The errno with which a call fails that goes well at first."""
    for _ in range(100):
        try:
            call()
        except OSError as error:
            return error.errno or 0
    return 0
