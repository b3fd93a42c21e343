"""The tree: its names and their inodes."""

import os
import time

from .. import __version__
from ..algorithms import Type
from ..contexts import ContextTable
from ..errors import NoSuchTarget
from ..policy import Usage
from .algorithms import FIRST_ALGORITHM, AlgorithmNodes, TypeDirectory
from .base import Caller, Node, Owner, StaticDirectory, TextFile, shared_inode
from .contexts import FIRST_CONTEXT, ContextsDirectory
from .crypto import CryptoFile
from .devices import DeviceNodes, DevicesDirectory
from .stats import LastReload, StatsFile

ROOT_INODE = 1
_CRYPTO, _CONTEXTS, _ALGORITHMS, _STATS, _VERSION, _DEVICES = range(2, 8)
_FIRST_TYPE = 16


class Tree:
    """All nodes, by inode and by path."""

    def __init__(self, table: ContextTable) -> None:
        owner = Owner(os.getuid(), os.getgid())
        self._table = table
        self.last_reload = LastReload()
        """What `stats` says of the configuration."""
        self._contexts = ContextsDirectory(inode=_CONTEXTS, owner=owner, table=table)
        self._devices = DeviceNodes(table, owner)
        self._algorithms = AlgorithmNodes(table, owner)
        types: dict[str, Node] = {
            str(type_): TypeDirectory(inode=_FIRST_TYPE + index, owner=owner, type=type_, nodes=self._algorithms)
            for index, type_ in enumerate(Type)
        }
        names: dict[str, Node] = {
            "crypto": CryptoFile(inode=_CRYPTO, owner=owner, table=table),
            "contexts": self._contexts,
            "algorithms": StaticDirectory(inode=_ALGORITHMS, owner=owner, children=types),
            "devices": DevicesDirectory(inode=_DEVICES, owner=owner, nodes=self._devices),
            "stats": StatsFile(
                inode=_STATS, owner=owner, table=table, reload=self.last_reload, started=time.monotonic()
            ),
            "version": TextFile(inode=_VERSION, owner=owner, make=lambda: f"cryptofs {__version__}\n"),
        }
        root = StaticDirectory(inode=ROOT_INODE, owner=owner, children=names)
        self._static = {node.inode: node for node in (root, *names.values(), *types.values())}

    def usage(self, caller: Caller) -> Usage:
        """What a caller holds, to count open files and directories."""
        return self._table.usage(caller.uid, caller.gid, caller.pid)

    def node(self, inode: int) -> Node:
        """The node with this inode, which may be a user's own. Errors: NoSuchTarget for one that has gone."""
        inode = shared_inode(inode)
        node = self._static.get(inode)
        if node is None:
            if inode >= FIRST_CONTEXT:
                node = self._contexts.get(inode)
            elif inode >= FIRST_ALGORITHM:
                node = self._algorithms.get(inode)
            else:
                node = self._devices.get(inode)
        if node is None:
            raise NoSuchTarget(f"inode {inode}: gone")
        return node
