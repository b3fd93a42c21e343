"""Devices as the configuration declares them. Start, reload and `check-config` all use this code.

Every error names file, line and key.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..algorithms import Type
from ..config import Config, ConfigError, DeviceModel, load, locate
from ..devices import Device, DeviceSettings
from ..engines.base import Engine, resolve
from ..engines.opening import ENGINES, open_engines
from ..errors import CryptofsError, KeyUnavailable, NotOffered
from ..keys import CredentialKey, FileKey, KeyRefused, KeyringKey, KeySource, TokenKey
from ..records import DEVICE_OPERATIONS
from .service import KEY_PREFIX, PIN_PREFIX, Handed


@dataclass(frozen=True)
class Access:
    """How to reach key files. handed: files that are already open, by the name under which they are passed on. serving:
    the uid of the account that will serve; None: this process's."""

    handed: Mapping[str, Handed]
    serving: int | None = None

    def file(self, stored: str, path: Path, hexadecimal: bool = False) -> FileKey:
        """The source for a file: the one that was passed on as `stored`, if it was opened by this path."""
        handed = self.handed.get(stored)
        # The descriptor belongs to the file that had the name at that time. The name may now mean another file.
        if handed is None or handed.path != path:
            return FileKey(path, hexadecimal, None, self.serving)
        return FileKey(path, hexadecimal, handed.descriptor, self.serving, handed.keeper)


def files_of(config: Config) -> dict[str, Path]:
    """The files that hold keys and PINs, by the names under which they are passed on."""
    keys = {KEY_PREFIX + name: model.key.file for name, model in config.devices.items()}
    pins = {PIN_PREFIX + name: model.key.pin_path for name, model in config.devices.items()}
    return {stored: path for stored, path in (keys | pins).items() if path is not None}


def device_settings(name: str, model: DeviceModel, source: KeySource) -> DeviceSettings:
    """A device's settings, in the form that its contexts use."""
    type_ = Type(model.type)
    return DeviceSettings(
        name,
        type_,
        model.name.rpartition(":")[2],
        frozenset(model.operations or DEVICE_OPERATIONS[type_]),
        model.user,
        model.group,
        model.mode,
        model.nonce == "caller",
        model.authsize,
        source.describe(),
    )


def key_source(name: str, model: DeviceModel, access: Access) -> KeySource:
    """The source of a device's key."""
    key = model.key
    hexadecimal = key.encoding == "hex"
    if key.file is not None:
        return access.file(KEY_PREFIX + name, key.file, hexadecimal)
    if key.credential is not None:
        return CredentialKey(key.credential, hexadecimal)
    if key.keyring is not None:
        return KeyringKey(key.keyring, key.type or "user")
    module, wanted = key.token_object
    if key.pin_path is not None:
        return TokenKey(module, wanted, access.file(PIN_PREFIX + name, key.pin_path))
    assert key.pin_credential is not None
    return TokenKey(module, wanted, CredentialKey(key.pin_credential))


def make_device(path: Path, name: str, model: DeviceModel, source: KeySource, engines: tuple[Engine, ...]) -> Device:
    """A device with its key. Errors: KeyUnavailable, KeyRefused, NotOffered, InvalidValue, with the place in `path`."""
    settings = device_settings(name, model, source)
    try:
        transform = source.open(engines, settings.type, settings.algorithm, settings.authsize)
        try:
            return Device(settings, transform)
        except BaseException:
            transform.close()
            raise
    except CryptofsError as error:
        raise _placed_in(path, name, model, error) from None


def check_engines_of(path: Path, config: Config) -> tuple[Engine, ...]:
    """The engines that a configuration names. Errors: NotOffered, with the place in `path`."""
    try:
        return open_engines(config.daemon.engines or tuple(ENGINES))
    except NotOffered as error:
        raise _placed(path, error, "daemon", "engines") from None


def check_devices(path: Path, serving: int | None = None) -> tuple[Config, list[str]]:
    """A configuration and a line for each of its devices, made as at a start of this process.

    serving: the uid of the account that will serve. The line names what only the service itself can check; such a
    device is made without its key. Errors: ConfigError with all errors, NotOffered for an engine.
    """
    config = load(path)
    engines = check_engines_of(path, config)
    access = Access({}, serving)
    lines: list[str] = []
    wrong: list[str] = []
    for name, model in config.devices.items():
        line, errors = _check_device(path, name, model, key_source(name, model, access), engines)
        lines.append(line)
        wrong += errors
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config, lines


def _check_device(
    path: Path, name: str, model: DeviceModel, source: KeySource, engines: tuple[Engine, ...]
) -> tuple[str, list[str]]:
    """A line about a device, and its errors, with and without its key."""
    line = f"device {name}: {model.type} {model.name}, key from {source.describe()}"
    wrong: list[str] = []
    try:
        _make_without_key(device_settings(name, model, source), source, engines)
    except CryptofsError as error:
        wrong.append(_placed_in(path, name, model, error).message)
    try:
        hidden = source.unchecked()
    except CryptofsError as error:
        return line, [*wrong, _placed_in(path, name, model, error).message]
    if hidden:
        return f"{line} (not checked here: {hidden})", wrong
    if not wrong:
        try:
            make_device(path, name, model, source, engines).retire()
        except CryptofsError as error:
            wrong.append(error.message)
    return line, wrong


def _make_without_key(settings: DeviceSettings, source: KeySource, engines: tuple[Engine, ...]) -> None:
    if isinstance(source, TokenKey):
        # Only the token knows what it offers.
        return
    found = resolve(engines, settings.type, settings.algorithm)
    if found is None:
        raise NotOffered(f"{settings.type} {settings.algorithm!r}: no engine offers it here")
    with closing(found[0].open(found[1], settings.authsize)) as transform:
        Device(settings, transform)


_SOURCES = ("file", "credential", "keyring", "pkcs11")


def _placed_in(path: Path, name: str, model: DeviceModel, error: CryptofsError) -> CryptofsError:
    """The error with the place of the device, or of its key if the key is wrong."""
    if not isinstance(error, KeyUnavailable | KeyRefused):
        return _placed(path, error, "devices", name)
    source = next(each for each in _SOURCES if getattr(model.key, each) is not None)
    return _placed(path, error, "devices", name, "key", source)


def _placed(path: Path, error: CryptofsError, *place: str) -> CryptofsError:
    """The error, with file, line and key in front."""
    return type(error)(f"{locate(path, *place)}: {error.message}")
