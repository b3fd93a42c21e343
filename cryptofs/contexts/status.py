"""Rows of a status file: what a transform is, and what an exchange holds. Never a key."""

from ..algorithms import Type
from ..engines.base import Transform
from .exchange import Exchange

Rows = list[tuple[str, object]]


def transform_rows(transform: Transform | None) -> Rows:
    """What a context computes with."""
    if transform is None:
        return [("state", "unconfigured")]
    description = transform.description
    rows: Rows = [
        ("state", "configured"),
        ("type", description.type.value),
        ("name", description.name),
        ("engine", description.engine),
        ("driver", description.driver),
        ("key", "(hidden)" if transform.key_set else "(none)"),
    ]
    if description.type is Type.AEAD:
        rows.append(("authsize", transform.authsize))
    if transform.level is not None:
        rows.append(("level", transform.level))
    return rows


def exchange_rows(exchange: Exchange) -> Rows:
    """What waits, and what was done."""
    return [
        ("in-flight", exchange.in_flight),
        ("unread", exchange.outstanding - exchange.in_flight),
        ("queue-bytes", exchange.bytes),
        ("open-messages", sum(lane.is_open for lane in exchange.lanes.values())),
        ("completed", exchange.completed),
        ("failed", exchange.failed),
    ]
