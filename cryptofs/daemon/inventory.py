"""The keys of a configuration's devices, for people: where each is, how old, and a fingerprint; never a key."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, ConfigError, DeviceModel, load
from ..devices import fingerprint
from ..engines.base import Engine
from ..errors import CryptofsError, InvalidValue, NotPermitted, printable
from ..keys import KeySet, KeySource
from ..keys.making import Form
from .declared import Access, check_engines_of, key_set, make_device

_DAY = 86_400


@dataclass(frozen=True)
class Entry:
    """One version of a device's key. days: since its file has been as it is; None for other sources. fingerprint: empty
    if there is none here, and `why` says why. failed: it cannot be used."""

    device: str
    version: int | None
    algorithm: str
    days: int | None
    fingerprint: str
    why: str
    source: str
    failed: bool = False

    def __str__(self) -> str:
        version = "-" if self.version is None else self.version
        age = "-" if self.days is None else f"{self.days} days"
        shown = self.fingerprint or f"({self.why})"
        return "  ".join((self.device, str(version), self.algorithm, age, shown, self.source)).rstrip()


def inventory(path: Path, wanted: Collection[str], serving: int | None) -> Iterator[Entry]:
    """Each version of the keys of these devices (none: of all), the newest first.

    serving: the uid of the account that will serve, which may own key files, too. Errors: ConfigError, NotOffered;
    InvalidValue for a device that is not declared.
    """
    config = load(path)
    unknown = sorted(set(wanted) - {str(name) for name in config.devices})
    if unknown:
        raise InvalidValue(f"{printable(path)}: no device {printable(unknown[0])}")
    engines = check_engines_of(path, config)
    for name, model in config.devices.items():
        if not wanted or name in wanted:
            yield from _of_device(path, name, model, engines, serving)


def _of_device(
    path: Path, name: str, model: DeviceModel, engines: tuple[Engine, ...], serving: int | None
) -> Iterator[Entry]:
    algorithm = f"{model.type} {model.name}"
    try:
        keys = key_set(path, name, model, Access({}, serving))
    except CryptofsError as error:
        yield Entry(name, None, algorithm, None, "", str(error), "", failed=True)
        return
    for number, source in sorted(keys.sources.items(), reverse=True):
        digits = why = ""
        failed = False
        try:
            why = source.unchecked()
            if why:
                why = f"not looked at here: {why}"
            else:
                digits = _fingerprint(path, name, model, KeySet({number: source}), engines)
                why = "its operations permit no fingerprint"
        except CryptofsError as error:
            failed, why = True, str(error)
        yield Entry(name, number, algorithm, _days(source), digits, why, source.describe(), failed)


def _fingerprint(path: Path, name: str, model: DeviceModel, keys: KeySet, engines: tuple[Engine, ...]) -> str:
    """Empty if the key permits no operation that would show it. Errors: those of `make_device`."""
    device = make_device(path, name, model, keys, engines)
    try:
        return fingerprint(device, device.versions.newest)
    except NotPermitted:
        return ""
    finally:
        device.retire()


def _days(source: KeySource) -> int | None:
    written = source.written_at()
    return None if written is None else max(0, int((time.time() - written) // _DAY))


@dataclass(frozen=True)
class Rotated:
    """A key set that a configuration names. form: how its files are written."""

    directory: Path
    type: str
    name: str
    form: Form


def find_key_set(path: Path, device: str | None, directory: Path | None) -> Rotated:
    """The key set of a device, or the one in a directory. Errors: ConfigError, InvalidValue."""
    config: Config = load(path)
    for name, model in config.devices.items():
        its = None if model.key is None else model.key.directory
        if name != device if directory is None else its != directory:
            continue
        if model.key is None or its is None:
            how = (
                "add a version to its `keys`"
                if model.key is None
                else "move its file to DIRECTORY/1, and declare key.directory"
                if model.key.file is not None
                else "declare `keys`, with this key as version 1"
            )
            raise ConfigError(f"{printable(path)}: the key of device {name} is no directory: {how}")
        form = Form(model.key.encoding == "hex", Access({}).passphrase(name, model.key))
        return Rotated(its, model.type, model.name.rpartition(":")[2], form)
    wanted = device if directory is None else directory
    raise InvalidValue(f"{printable(path)}: no device has {printable(wanted or '')}; give --type and --name")
