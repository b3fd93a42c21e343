"""What a test asks of a context without a mount: what a write, a read and an open of `ctl` do."""

from typing import Any

from cryptofs.contexts import Context, FastWay, control, requests
from cryptofs.errors import CryptofsError
from cryptofs.records import Buffer, Record, parse_requests


def submit(context: Context, data: Any) -> None:
    """Write records, by the general way."""
    requests.accept(context, parse_requests(data))


def write(context: Context, data: bytes) -> None:
    """Write records as the handle of `crypto` does."""
    view = memoryview(bytearray(data))
    if not FastWay(context).answer(view):
        submit(context, view)


def take(context: Context, size: int) -> Buffer | None:
    """Read answers."""
    return requests.take(context, size)


def perform(context: Context, record: Record) -> control.Reply:
    """Do a control call, and what a worker of the test's own does of it. Errors: the call's."""
    outcomes: list[control.Outcome] = []
    outcome = control.run(context, record, outcomes.append)
    if outcome is None:
        finish: Any = context.shared.scheduler
        finish.finish()
        (outcome,) = outcomes
    if isinstance(outcome, CryptofsError):
        raise outcome
    return outcome
