"""Devices as the configuration declares them. Start, reload and `check-config` all use this code.

Every error names file, line and key.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..algorithms import Type
from ..config import Config, ConfigError, DeviceModel, KeyModel, load, locate
from ..devices import Device, DeviceSettings
from ..engines.base import Engine, resolve
from ..engines.opening import ENGINES, open_engines
from ..errors import CryptofsError, KeyUnavailable, NotOffered
from ..keys import ByteSource, CredentialKey, FileKey, KeyRefused, KeyringKey, KeySet, KeySource, TokenKey, versions_in
from ..records import DEVICE_OPERATIONS
from .service import KEY_PREFIX, PASSPHRASE_PREFIX, PIN_PREFIX, VERSION_MARK, Handed


@dataclass(frozen=True)
class Access:
    """How to reach key files. handed: files that are already open, by the name under which they are passed on. serving:
    the uid of the account that will serve; None: this process's."""

    handed: Mapping[str, Handed]
    serving: int | None = None

    def file(self, stored: str, path: Path, hexadecimal: bool = False, passphrase: ByteSource | None = None) -> FileKey:
        """The source for a file: the one that was passed on as `stored`, if it was opened by this path."""
        handed = self.handed.get(stored)
        # The descriptor belongs to the file that had the name at that time. The name may now mean another file.
        if handed is None or handed.path != path:
            return FileKey(path, hexadecimal, None, self.serving, passphrase=passphrase)
        return FileKey(path, hexadecimal, handed.descriptor, self.serving, handed.keeper, passphrase)

    def passphrase(self, name: str, key: KeyModel) -> ByteSource | None:
        """The source of the passphrase that protects a key; None for a plain one."""
        if key.passphrase_file is not None:
            return self.file(PASSPHRASE_PREFIX + name, key.passphrase_file)
        return None if key.passphrase_credential is None else CredentialKey(key.passphrase_credential)

    def files_in(self, stored: str, directory: Path) -> dict[int, Path]:
        """The files of a key set by version: those that were passed on as `stored`, else those in the directory.

        Errors: KeyUnavailable, InvalidValue.
        """
        passed = [each for each, handed in self.handed.items() if handed.path.parent == directory]
        mark = stored + VERSION_MARK
        numbers = [int(each.removeprefix(mark)) for each in passed if each.startswith(mark)]
        return {number: directory / str(number) for number in numbers} or versions_in(directory, self.serving)


def path_of(config: Config, stored: str) -> Path | None:
    """The path of a file that is passed on under this name; None for one that the configuration does not have."""
    for prefix in (KEY_PREFIX, PIN_PREFIX, PASSPHRASE_PREFIX):
        if not stored.startswith(prefix):
            continue
        name, mark, version = stored.removeprefix(prefix).partition(VERSION_MARK)
        model = next((model for device, model in config.devices.items() if device == name), None)
        key = None if model is None else model.key
        if model is not None and mark and (key is None or key.directory is None):
            key = next((each for number, each in model.keys.items() if str(number) == version), None)
        if key is None:
            return None
        if prefix == PIN_PREFIX:
            return key.pin_path
        if prefix == PASSPHRASE_PREFIX:
            return key.passphrase_file
        return key.directory / version if key.directory is not None and mark else key.file
    return None


def device_settings(name: str, model: DeviceModel, source: KeySet) -> DeviceSettings:
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


def key_set(path: Path, name: str, model: DeviceModel, access: Access) -> KeySet:
    """The sources of all versions of a device's key. Errors: KeyUnavailable, InvalidValue, with the place in `path`."""
    key = model.key
    if key is None:
        versions = model.keys.items()
        return KeySet({int(each): _source(f"{name}{VERSION_MARK}{each}", its, access) for each, its in versions})
    if key.directory is None:
        return KeySet({1: _source(name, key, access)})
    stored, hexadecimal = KEY_PREFIX + name, key.encoding == "hex"
    try:
        files = access.files_in(stored, key.directory)
    except CryptofsError as error:
        raise _placed(path, error, "devices", name, "key", "directory") from None
    passphrase = access.passphrase(name, key)
    sources = {
        each: access.file(f"{stored}{VERSION_MARK}{each}", file, hexadecimal, passphrase)
        for each, file in files.items()
    }
    return KeySet(sources, key.directory)


def differ_in_versions(one: DeviceModel, other: DeviceModel) -> bool:
    """Whether two declarations of a device are equal, or differ only in the versions that `keys` lists."""
    if one == other:
        return True
    rest = [each for each in DeviceModel.__struct_fields__ if each != "keys"]
    return bool(one.keys and other.keys) and all(getattr(one, each) == getattr(other, each) for each in rest)


def _source(name: str, key: KeyModel, access: Access) -> KeySource:
    """The source of one key. name: under which its files are passed on."""
    hexadecimal = key.encoding == "hex"
    if key.file is not None:
        return access.file(KEY_PREFIX + name, key.file, hexadecimal, access.passphrase(name, key))
    if key.credential is not None:
        return CredentialKey(key.credential, hexadecimal, access.passphrase(name, key))
    if key.keyring is not None:
        return KeyringKey(key.keyring, key.type or "user")
    module, wanted = key.token_object
    if key.pin_path is not None:
        return TokenKey(module, wanted, access.file(PIN_PREFIX + name, key.pin_path))
    assert key.pin_credential is not None
    return TokenKey(module, wanted, CredentialKey(key.pin_credential))


def make_device(path: Path, name: str, model: DeviceModel, source: KeySet, engines: tuple[Engine, ...]) -> Device:
    """A device with its key. Errors: KeyUnavailable, KeyRefused, NotOffered, InvalidValue, with the place in `path`."""
    settings = device_settings(name, model, source)
    try:
        keys = source.open(engines, settings.type, settings.algorithm, settings.authsize)
        try:
            device = Device(settings, keys)
            for version in device.versions.all:
                version.written_at = source.sources[version.number].written_at()
            return device
        except BaseException:
            for transform in keys.values():
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
        try:
            source = key_set(path, name, model, access)
        except CryptofsError as error:
            wrong.append(error.message)
            continue
        line, errors = _check_device(path, name, model, source, engines)
        lines.append(line)
        wrong += errors
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config, lines


def _check_device(
    path: Path, name: str, model: DeviceModel, source: KeySet, engines: tuple[Engine, ...]
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


def _make_without_key(settings: DeviceSettings, source: KeySet, engines: tuple[Engine, ...]) -> None:
    if all(isinstance(each, TokenKey) for each in source.sources.values()):
        # Only the token knows what it offers.
        return
    found = resolve(engines, settings.type, settings.algorithm)
    if found is None:
        raise NotOffered(f"{settings.type} {settings.algorithm!r}: no engine offers it here")
    with closing(found[0].open(found[1], settings.authsize)) as transform:
        Device(settings, {1: transform})


_SOURCES = ("file", "directory", "credential", "keyring", "pkcs11")


def _placed_in(path: Path, name: str, model: DeviceModel, error: CryptofsError) -> CryptofsError:
    """The error with the place of the device, or of its key if the key is wrong."""
    if not isinstance(error, KeyUnavailable | KeyRefused):
        return _placed(path, error, "devices", name)
    if model.key is None:
        return _placed(path, error, "devices", name, "keys")
    source = next(each for each in _SOURCES if getattr(model.key, each) is not None)
    return _placed(path, error, "devices", name, "key", source)


def _placed(path: Path, error: CryptofsError, *place: str) -> CryptofsError:
    """The error, with file, line and key in front."""
    return type(error)(f"{locate(path, *place)}: {error.message}")
