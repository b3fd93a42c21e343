"""The tree: its names, their inodes, and the users who see them."""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import __version__
from ..algorithms import Type
from ..contexts import Context, ContextTable
from ..engines.base import Engine, resolve
from ..errors import Gone, NoSuchTarget, NotPermitted
from ..policy import Rule
from .base import (
    BIG_PIECES,
    DIRECTORY,
    READ_ONLY,
    Caller,
    Directory,
    File,
    Handle,
    Node,
    StaticDirectory,
    TextFile,
    missing,
    shared_inode,
)
from .control import ControlFile
from .crypto import CryptoFile
from .devices import DeviceNodes, DevicesDirectory
from .stats import format_stats
from .stream import StreamFile

ROOT_INODE = 1
_CRYPTO, _CONTEXTS, _ALGORITHMS, _STATS, _VERSION, _DEVICES = range(2, 8)
_FIRST_TYPE = 16
_FIRST_ALGORITHM = 1 << 32  # above the devices
_FIRST_CONTEXT = 1 << 40
_PER_CONTEXT = 8
_ALGORITHMS_REMEMBERED = 4096

_OWNER_DIRECTORY = stat.S_IFDIR | 0o500
_OWNER_READ = stat.S_IFREG | 0o400
_OWNER_FILE = stat.S_IFREG | 0o600


@dataclass(frozen=True)
class OwnedFile(File):
    """A file of a context. Only the context's opener and root may open it, whatever the mount options check."""

    inner: File | None = None

    def concerns(self) -> dict[str, str | int]:
        return {"owner": self.uid}

    def size(self) -> int:
        assert self.inner is not None
        return self.inner.size()

    def open(self, flags: int, caller: Caller) -> Handle:
        assert self.inner is not None
        if caller.uid not in (0, self.uid):
            raise NotPermitted(f"uid {caller.uid}: this context is uid {self.uid}'s")
        return self.inner.open(flags, caller)


class Tree:
    """All nodes, by inode and by path."""

    def __init__(self, table: ContextTable) -> None:
        self._table = table
        self._uid, self._gid = os.getuid(), os.getgid()
        self._started = time.monotonic()
        self._algorithms = AlgorithmNodes(table.engines, self._node)
        self._static: dict[int, Node] = {}
        crypto = self._keep(
            CryptoFile(
                _CRYPTO, stat.S_IFREG | 0o666, self._uid, self._gid, block_size=BIG_PIECES, own=True, table=table
            )
        )
        contexts = self._keep(ContextsDirectory(_CONTEXTS, DIRECTORY, self._uid, self._gid, own=True, tree=self))
        types = tuple(
            (
                str(type_),
                self._keep(TypeDirectory(_FIRST_TYPE + index, DIRECTORY, self._uid, self._gid, type=type_, tree=self)),
            )
            for index, type_ in enumerate(Type)
        )
        algorithms = self._keep(StaticDirectory(_ALGORITHMS, DIRECTORY, self._uid, self._gid, children=types))
        self._devices = DeviceNodes(table, self._uid, self._gid)
        devices = self._keep(DevicesDirectory(_DEVICES, DIRECTORY, self._uid, self._gid, nodes=self._devices))
        stats = self._text(_STATS, lambda: format_stats(table, time.monotonic() - self._started), True)
        version = self._text(_VERSION, lambda: f"cryptofs {__version__}\n")
        self._keep(
            StaticDirectory(
                ROOT_INODE,
                DIRECTORY,
                self._uid,
                self._gid,
                children=(
                    ("crypto", crypto),
                    ("contexts", contexts),
                    ("algorithms", algorithms),
                    ("devices", devices),
                    ("stats", stats),
                    ("version", version),
                ),
            )
        )

    def node(self, inode: int) -> Node:
        """The node with this inode, which may be a user's own. Errors: NoSuchTarget for one that has gone."""
        inode = shared_inode(inode)
        node = self._static.get(inode)
        if node is not None:
            return node
        if inode >= _FIRST_CONTEXT:
            number, index = divmod(inode - _FIRST_CONTEXT, _PER_CONTEXT)
            context = self._table.get(number)
            if context is None:
                raise Gone(f"context {number} was closed")
            if index < len(nodes := self.context_nodes(context)):
                return nodes[index][1]
        node = self._algorithms.get(inode) if inode >= _FIRST_ALGORITHM else self._devices.get(inode)
        if node is None:
            raise NoSuchTarget(f"inode {inode}: gone")
        return node

    def rule(self, caller: Caller) -> Rule:
        """What a caller may use."""
        return self._table.policy.rule(caller.uid, caller.gid, caller.pid)

    def algorithm(self, type_: Type, name: str) -> Node:
        """The file of one algorithm. Errors: NoSuchTarget if no engine offers it."""
        return self._algorithms.lookup(type_, name)

    def algorithm_names(self, type_: Type, rule: Rule) -> list[str]:
        """The names that the engines offer for a type and a rule allows; no engine is asked for any other."""
        return self._algorithms.names(type_, rule)

    def contexts_of(self, caller: Caller) -> list[Context]:
        """The open contexts that a caller may see."""
        return [context for context in self._table if caller.uid in (0, context.uid)]

    def context(self, number: int) -> Context | None:
        return self._table.get(number)

    def context_nodes(self, context: Context) -> list[tuple[str, Node]]:
        """The directory of a context and its files, by index within its inodes."""
        first = _FIRST_CONTEXT + context.number * _PER_CONTEXT
        who = (context.uid, context.gid, 0.0)

        def owned(index: int, mode: int, inner: File) -> Node:
            return OwnedFile(first + index, mode, *who, block_size=inner.block_size, changes=inner.changes, inner=inner)

        files = (
            ("ctl", owned(1, _OWNER_FILE, ControlFile(first + 1, _OWNER_FILE, context=context))),
            ("status", owned(2, _OWNER_READ, TextFile(first + 2, _OWNER_READ, changes=True, make=context.status))),
            (
                "stream",
                owned(3, _OWNER_FILE, StreamFile(first + 3, _OWNER_FILE, block_size=BIG_PIECES, context=context)),
            ),
        )
        directory = StaticDirectory(first, _OWNER_DIRECTORY, *who, children=files)
        return [(str(context.number), directory), *files]

    def _keep(self, node: Node) -> Node:
        self._static[node.inode] = node
        return node

    def _node(self, inode: int, make: Callable[[], str]) -> Node:
        return TextFile(inode, READ_ONLY, self._uid, self._gid, make=make)

    def _text(self, inode: int, make: Callable[[], str], changes: bool = False) -> Node:
        return self._keep(TextFile(inode, READ_ONLY, self._uid, self._gid, changes=changes, make=make))


@dataclass(frozen=True)
class ContextsDirectory(Directory):
    """`contexts`: one directory for each open context of the caller's."""

    tree: Tree | None = None

    def lookup(self, name: str, caller: Caller) -> Node:
        assert self.tree is not None
        context = self.tree.context(int(name)) if name.isdecimal() and len(name) < 20 else None
        if context is None or str(context.number) != name or caller.uid not in (0, context.uid):
            raise missing(name)
        return self.tree.context_nodes(context)[0][1]

    def entries(self, caller: Caller) -> list[tuple[str, Node]]:
        assert self.tree is not None
        return [self.tree.context_nodes(context)[0] for context in self.tree.contexts_of(caller)]


@dataclass(frozen=True)
class TypeDirectory(Directory):
    """`algorithms/<type>`: one file for each name that an engine lists; others can be looked up by name."""

    type: Type = Type.HASH
    tree: Tree | None = None

    def lookup(self, name: str, caller: Caller) -> Node:
        assert self.tree is not None
        # looking a name up asks the kernel for it, which may load a module
        if not self.tree.rule(caller).admits(self.type, name):
            raise missing(name)
        return self.tree.algorithm(self.type, name)

    def entries(self, caller: Caller) -> list[tuple[str, Node]]:
        assert self.tree is not None
        names = self.tree.algorithm_names(self.type, self.tree.rule(caller))
        return [(name, self.tree.algorithm(self.type, name)) for name in names]


class AlgorithmNodes:
    """The files below `algorithms/`, made when they are first looked up."""

    def __init__(self, engines: tuple[Engine, ...], make_node: Callable[[int, Callable[[], str]], Node]) -> None:
        self._engines = engines
        self._make_node = make_node
        self._by_name: dict[tuple[Type, str], Node] = {}
        self._by_inode: dict[int, Node] = {}

    def get(self, inode: int) -> Node | None:
        return self._by_inode.get(inode)

    def lookup(self, type_: Type, name: str) -> Node:
        node = self._by_name.get((type_, name))
        if node is not None:
            return node
        found = resolve(self._engines, type_, name)
        # templates nest without end, so names that nobody lists must not fill the memory
        if found is None or len(self._by_name) >= _ALGORITHMS_REMEMBERED:
            raise missing(name)
        inode = _FIRST_ALGORITHM + len(self._by_name)
        node = self._make_node(inode, found[1].tags)
        self._by_name[type_, name] = self._by_inode[inode] = node
        return node

    def names(self, type_: Type, rule: Rule) -> list[str]:
        offered = {
            name
            for engine in self._engines
            for each, name in engine.names()
            if each is type_ and rule.admits(each, name) and engine.describe(each, name) is not None
        }
        return sorted(offered)
