"""The sources of all versions of a device's key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..algorithms import Type
from ..engines.base import Engine, Transform
from ..errors import KeyUnavailable, printable
from .base import KeyForbidden, KeySource
from .files import FileKey, versions_in


@dataclass(frozen=True)
class KeySet:
    """A source for each version of a key. directory: where the versions are the files of one."""

    sources: Mapping[int, KeySource]
    directory: Path | None = None

    def describe(self) -> str:
        """The sources in a few words; never a key."""
        numbers = ", ".join(str(number) for number in sorted(self.sources, reverse=True))
        if self.directory is not None:
            return f"directory {printable(self.directory)} (versions {numbers})"
        if list(self.sources) == [1]:
            return self.sources[1].describe()
        return "; ".join(f"version {number}: {self.sources[number].describe()}" for number in sorted(self.sources))

    def unchecked(self) -> str:
        """The checks that only the daemon itself can make: see `KeySource.unchecked`."""
        return "; ".join(dict.fromkeys(why for source in self.sources.values() if (why := source.unchecked())))

    def open(self, engines: tuple[Engine, ...], type_: Type, name: str, authsize: int | None) -> dict[int, Transform]:
        """A transform with its key for each version: all or none. Errors: those of `KeySource.open`."""
        opened: dict[int, Transform] = {}
        try:
            for number, source in self.sources.items():
                opened[number] = source.open(engines, type_, name, authsize)
        except BaseException:
            for transform in opened.values():
                transform.close()
            raise
        return opened

    def was_replaced(self, serving: int | None) -> bool | None:
        """Whether the paths of files that were passed now have other files; None if a path is hidden.

        serving: as in `versions_in`.
        """
        files = [source for source in self.sources.values() if isinstance(source, FileKey)]
        found = {source.was_replaced() for source in files}
        if self.directory is not None and any(source.descriptor is not None for source in files):
            try:
                found.add(versions_in(self.directory, serving).keys() != self.sources.keys())
            except KeyForbidden:
                found.add(None)
            except KeyUnavailable:
                found.add(True)
        return True if True in found else None if None in found else False
