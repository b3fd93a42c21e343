"""One context's protocol state, without I/O: its lanes and calls (`lanes`), and all that moves them (`state`)."""

from .lanes import CALLED, Call, Job, Lane, cost_of, lane_number
from .state import (
    KEPT_BYTES,
    MORE,
    OPEN_MESSAGES,
    QUEUE_BYTES,
    QUEUE_REQUESTS,
    UNFINISHED_MESSAGES,
    Exchange,
)

__all__ = [
    "CALLED",
    "KEPT_BYTES",
    "MORE",
    "OPEN_MESSAGES",
    "QUEUE_BYTES",
    "QUEUE_REQUESTS",
    "UNFINISHED_MESSAGES",
    "Call",
    "Exchange",
    "Job",
    "Lane",
    "cost_of",
    "lane_number",
]
