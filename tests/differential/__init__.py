"""The same random requests to two engines, each behind a context of its own; every answer must be the same.

`draw` makes the requests, `Duel` asks both and compares, `known` has the differences that cannot be helped.
"""

from .campaign import Campaign, run
from .draw import Drawn, open_names
from .duel import Difference, Duel
from .known import KNOWN, Known

__all__ = ["KNOWN", "Campaign", "Difference", "Drawn", "Duel", "Known", "open_names", "run"]
