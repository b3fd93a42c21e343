"""What a daemon serves, put together: engines, workers, contexts and the tree, by its settings and configuration."""

from pathlib import Path

from .contexts import ContextTable, Workers
from .engines import open_engines
from .nodes import Tree


class Assembly:
    """Everything below the mount."""

    def __init__(self, engines: tuple[str, ...], config: Path | None = None) -> None:
        opened = open_engines(engines)
        for engine in opened:
            engine.warm_up()
        self._config = config
        self.workers = Workers()
        self.table = ContextTable(opened, self.workers)
        self.tree = Tree(self.table)

    def start(self) -> None:
        """Start the workers."""
        self.workers.start()

    def close(self) -> None:
        """Stop the workers and close every context."""
        self.workers.stop()
        self.table.close_all()
