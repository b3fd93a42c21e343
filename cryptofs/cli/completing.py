"""Completion in shells: what a word can be. Nothing here waits long or prints an error, because a user is typing."""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

VARIABLE = "_CRYPTOFS_COMPLETE"
"""In the environment, it makes `cryptofs` print what the words in COMP_WORDS can go on with."""
_PATIENCE = 0.7
"""Seconds for what asks a mount: its daemon may have stopped."""
_MOUNT_OPTIONS = ("mountpoint", "where")

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def files(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem[str]]:
    """A path, which the shell itself completes."""
    return [CompletionItem(word, type="file")]


def directories(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem[str]]:
    """A directory, which the shell itself completes."""
    return [CompletionItem(word, type="dir")]


def one_of(listed: Callable[[click.Context], Iterable[str]]) -> Completion:
    """One of the words that `listed` gives for a context. No word if it fails, or takes long."""

    def complete(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem[str]]:
        found: list[str] = []

        def find() -> None:
            # Any error: a shell can show none.
            with suppress(Exception):
                found.extend(sorted(each for each in listed(context) if each.startswith(word)))

        # Only a thread can be left behind when a mount does not answer.
        asking = threading.Thread(target=find, daemon=True)
        asking.start()
        asking.join(_PATIENCE)
        return [CompletionItem(each) for each in found]

    return complete


def names(*types: str) -> Completion:
    """Algorithm names of the catalogue; without types: of all types, and the types themselves."""

    def listed(context: click.Context) -> Iterable[str]:
        from ..algorithms import Type, names

        return {name for type_, name in names() if not types or type_ in types} | (set() if types else set(Type))

    return one_of(listed)


def _devices(context: click.Context) -> Iterable[str]:
    from ..client import find_mount

    given = [context.params[each] for each in _MOUNT_OPTIONS if context.params.get(each)]
    return os.listdir(find_mount(given[0] if given else None) / "devices")


devices = one_of(_devices)
"""The devices of the mount that the command would use, as far as the user may see them."""


def _mounts(context: click.Context) -> Iterable[str]:
    from ..client.mounts import mounted

    return map(str, mounted())


mounts = one_of(_mounts)


def _users(context: click.Context) -> Iterable[str]:
    import pwd

    return [entry.pw_name for entry in pwd.getpwall()]


def _groups(context: click.Context) -> Iterable[str]:
    import grp

    return [entry.gr_name for entry in grp.getgrall()]


users, groups = one_of(_users), one_of(_groups)


def engines(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem[str]]:
    """The next engine of a list that commas separate."""
    from ..engines import NAMES

    given = word.split(",")[:-1]
    listed = [",".join([*given, each]) for each in NAMES if each not in given]
    return [CompletionItem(each) for each in listed if each.startswith(word)]


def programs(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem[str]]:
    """A program of $PATH, then its arguments, which are files more often than anything else."""
    if context.params.get(parameter.name or "") or "/" in word or not word:
        return files(context, parameter, word)

    def listed(context: click.Context) -> Iterable[str]:
        for directory in os.get_exec_path():
            with suppress(OSError):
                yield from (each.name for each in Path(directory).glob(f"{word}*") if os.access(each, os.X_OK))

    return one_of(lambda context: set(listed(context)))(context, parameter, word)
