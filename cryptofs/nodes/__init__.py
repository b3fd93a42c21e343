"""The tree and its open handles: everything that a program sees, without FUSE."""

from .base import Caller, Directory, File, Handle, Node, Pending
from .devices import DEVICE_STREAM
from .stats import preload
from .tree import ROOT_INODE, Tree

__all__ = ["DEVICE_STREAM", "ROOT_INODE", "Caller", "Directory", "File", "Handle", "Node", "Pending", "Tree", "preload"]
