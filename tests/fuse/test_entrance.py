"""The way in: a mount for one user alone lets nobody else look up or open anything, whatever the files' modes."""

import os
from collections.abc import Iterator

import pytest

from cryptofs.contexts import ContextTable
from cryptofs.engines.opening import open_engines
from cryptofs.errors import NotPermitted
from cryptofs.fuse.entrance import Entrance
from cryptofs.nodes import Caller, Tree
from cryptofs.nodes.base import shared_inode

ONLY, OTHER, KERNEL = (Caller(uid, uid, 1) for uid in (1000, 1001, 0xFFFF_FFFF))
ROOT = Caller(0, 0, 1)


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A tree whose files everybody may open, by their modes."""
    table = ContextTable(open_engines(("openssl",)))
    yield Tree(table)
    table.close_all()


def test_a_mount_for_one_user(tree: Tree) -> None:
    """That user, root and the kernel itself come in; nobody else by any name, or by an inode that is known already."""
    entrance = Entrance(tree, ONLY.uid)
    for caller in (ONLY, ROOT, KERNEL):
        assert entrance.lets_in(caller.uid)
        found = entrance.look_up(1, b"crypto", caller)
        entrance.open(shared_inode(found.inode), os.O_RDWR, caller)
    assert not entrance.lets_in(OTHER.uid)
    for name in (b"crypto", b"version", b"algorithms", b".."):
        with pytest.raises(NotPermitted, match="uid 1001: this mount is for uid 1000 and root"):
            entrance.look_up(1, name, OTHER)
    with pytest.raises(NotPermitted, match="uid 1001: this mount is for uid 1000 and root"):
        entrance.open(shared_inode(found.inode), os.O_RDWR, OTHER)


def test_a_mount_for_everybody(tree: Tree) -> None:
    """The modes decide."""
    entrance = Entrance(tree, None)
    for caller in (ONLY, OTHER, ROOT, KERNEL):
        assert entrance.lets_in(caller.uid)
        found = entrance.look_up(1, b"crypto", caller)
        entrance.open(shared_inode(found.inode), os.O_RDWR, caller)
