"""`algorithms/<type>/<name>`: what the engines offer, for each user what policy allows."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ..algorithms import Type
from ..contexts import ContextTable
from ..engines.base import resolve
from ..policy import Rule
from .base import Caller, Directory, Entry, Handle, Node, Owner, TextFile, missing, numbered

FIRST_ALGORITHM = 1 << 32  # Above the devices.
_REMEMBERED = 4096
"""Names whose inodes are known at a time. Templates nest without limit, so they must not fill the memory."""


class AlgorithmNodes:
    """The files below `algorithms/`, made at their first lookup."""

    def __init__(self, table: ContextTable, owner: Owner) -> None:
        self._table = table
        self._owner = owner
        self._inodes = itertools.count(FIRST_ALGORITHM)
        self._by_name: dict[tuple[Type, str], AlgorithmFile] = {}
        self._by_inode: dict[int, AlgorithmFile] = {}

    def get(self, inode: int) -> Node | None:
        """The node with this inode, or None."""
        return self._by_inode.get(inode)

    def rule(self, caller: Caller) -> Rule:
        """The names that a caller may use under the current policy."""
        return self._table.policy.rule(caller.uid, caller.gid, caller.pid)

    def look_up(self, type_: Type, name: str) -> Node:
        """The file of one algorithm, which the caller may see. Errors: NoSuchTarget if no engine offers it."""
        node = self._by_name.pop((type_, name), None) or self._make(type_, name)
        self._by_name[type_, name] = self._by_inode[node.inode] = node
        if len(self._by_name) > _REMEMBERED:
            # The one that was looked up longest ago.
            del self._by_inode[self._by_name.pop(next(iter(self._by_name))).inode]
        return node

    def _make(self, type_: Type, name: str) -> "AlgorithmFile":
        found = resolve(self._table.engines, type_, name)
        if found is None:
            raise missing(name)
        return AlgorithmFile(
            inode=next(self._inodes), owner=self._owner, make=found[1].tags, type=type_, name=name, nodes=self
        )

    def names(self, type_: Type, rule: Rule) -> list[str]:
        """The names that the engines offer for a type and a rule allows; no engine is asked for any other."""
        offered = {
            name
            for engine in self._table.engines
            for each, name in engine.names()
            if each is type_ and rule.admits(each, name) and engine.describe(each, name) is not None
        }
        return sorted(offered)


@dataclass(frozen=True, kw_only=True)
class AlgorithmFile(TextFile):
    """One algorithm. The kernel caches nothing of it, because another user's rule, or the next rule, may deny the
    name."""

    type: Type
    name: str
    nodes: AlgorithmNodes
    timeout: float = 0.0

    def concerns(self) -> dict[str, str | int]:
        return {"type": self.type, "name": self.name}

    def open(self, flags: int, caller: Caller) -> Handle:
        # A descriptor or a bind mount leads here without a lookup.
        self.nodes.rule(caller).check_name(self.type, self.name)
        return super().open(flags, caller)


@dataclass(frozen=True, kw_only=True)
class TypeDirectory(Directory):
    """`algorithms/<type>`: one file for each name that an engine lists; others can be looked up by name."""

    type: Type
    nodes: AlgorithmNodes

    def lookup(self, name: str, caller: Caller) -> Node:
        # Looking a name up asks the kernel for it, which may load a module.
        if not self.nodes.rule(caller).admits(self.type, name):
            raise missing(name)
        return self.nodes.look_up(self.type, name)

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        names = self.nodes.names(self.type, self.nodes.rule(caller))
        return numbered(((name, self.nodes.look_up(self.type, name)) for name in names), after)
