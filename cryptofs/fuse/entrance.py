"""The way in: names that are looked up and files that are opened, by their caller."""

from ..errors import NoSuchTarget, NotADirectory, NotPermitted, OverQuota
from ..nodes import Caller, Directory, File, Handle, Tree
from ..policy import Thing, Usage
from ..policy.audit import audit_refusal
from .attributes import Attributes, attributes

_NOBODY = 0xFFFF_FFFF
"""The uid of requests that the kernel makes for itself."""


class Entrance:
    """The way into a tree."""

    def __init__(self, tree: Tree, only: int | None) -> None:
        """only: the uid that may use the mount beside root, or None if the files' modes decide."""
        self._tree = tree
        self._only = only
        self._users: dict[Handle, Usage] = {}

    def lets_in(self, uid: int) -> bool:
        """Whether this user may use the mount."""
        return self._only is None or uid in (0, self._only, _NOBODY)

    def _check(self, caller: Caller) -> None:
        if not self.lets_in(caller.uid):
            raise NotPermitted(f"uid {caller.uid}: this mount is for uid {self._only} and root")

    def look_up(self, parent: int, name: bytes | bytearray, caller: Caller) -> Attributes:
        """The attributes of a name in a directory, as this caller sees it. Errors: NoSuchTarget, NotADirectory."""
        self._check(caller)
        directory = self._tree.node(parent)
        if not isinstance(directory, Directory):
            raise NotADirectory("a file contains no names")
        if name in (b".", b".."):
            return attributes(directory, parent, caller)
        try:
            text = name.decode("ascii")
        except UnicodeDecodeError:
            raise NoSuchTarget("names here are ASCII only") from None
        node = directory.lookup(text, caller)
        return attributes(node, node.inode_for(caller.uid), caller)

    def open(self, inode: int, flags: int, caller: Caller) -> Handle:
        """Open a file. A refusal by policy is recorded. Errors: NotPermitted, OverQuota, those of the file."""
        node = self._tree.node(inode)
        if not isinstance(node, File):
            raise NotPermitted("a directory is listed, not opened as a file")
        try:
            self._check(caller)
            usage = self._tree.usage(caller)
            usage.charge(Thing.HANDLES)
            try:
                handle = node.open(flags, caller)
            except BaseException:
                usage.release(Thing.HANDLES)
                raise
        except (NotPermitted, OverQuota) as error:
            audit_refusal("open", caller.uid, caller.pid, error, **node.concerns())
            raise
        self._users[handle] = usage
        return handle

    def opener(self, handle: Handle) -> int:
        """The uid that has opened a file."""
        return self._users[handle].uid

    def close(self, handle: Handle) -> None:
        """Close what `open` gave."""
        try:
            handle.close()
        finally:
            self._users.pop(handle).release(Thing.HANDLES)
