"""Rows of a status file: what a transform is, and what an exchange holds. Never a key."""

from ..algorithms import Rows
from ..engines.base import Transform
from .exchange import Exchange


def transform_rows(transform: Transform | None) -> Rows:
    """What a context computes with."""
    if transform is None:
        return [("state", "unconfigured")]
    key = ("key", "(hidden)" if transform.key_set else "(none)")
    return [("state", "configured"), *transform.description.identity, key, *transform.settings]


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
