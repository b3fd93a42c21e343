"""What a daemon serves, put together: engines, workers, contexts, devices and the tree, by its configuration.

The daemon makes one before it gives up its privileges (keys may be readable by its starter only) and asks it to
reload when told to.
"""

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from .algorithms import Type
from .audit import tell_held_back
from .contexts import ContextTable, Device, DeviceSettings, Workers, device_operations
from .engines import ENGINES, open_engines
from .engines.base import resolve
from .errors import CryptofsError, NotOffered
from .keys import CredentialKey, FileKey, KeyringKey, KeySource, TokenKey
from .nodes import Tree
from .service import KEY_PREFIX

if TYPE_CHECKING:
    from .config import Config, DeviceModel

log = logging.getLogger("cryptofs")


def device_settings(name: str, model: "DeviceModel", source: KeySource) -> DeviceSettings:
    """A device's settings as its contexts know them."""
    type_ = Type(model.type)
    return DeviceSettings(
        name,
        type_,
        model.name.rpartition(":")[2],
        frozenset(model.operations or device_operations(type_)),
        model.user,
        model.group,
        model.mode,
        model.nonce == "caller",
        model.authsize,
        source.describe(),
    )


def key_source(name: str, model: "DeviceModel", handed: Mapping[str, int]) -> KeySource:
    """Where a device's key comes from; handed: descriptors by name that the starter opened."""
    key = model.key
    hexadecimal = key.encoding == "hex"
    if key.file is not None:
        return FileKey(key.file, hexadecimal, handed.get(KEY_PREFIX + name))
    if key.credential is not None:
        return CredentialKey(key.credential, hexadecimal)
    if key.keyring is not None:
        return KeyringKey(key.keyring, key.type or "user")
    assert key.pkcs11 is not None
    assert key.module is not None
    assert key.token is not None
    if key.pin_file is not None:
        return TokenKey(key.module, key.token, key.pkcs11, FileKey(key.pin_file))
    assert key.pin_credential is not None
    return TokenKey(key.module, key.token, key.pkcs11, CredentialKey(key.pin_credential))


def check_devices(path: Path) -> "tuple[Config, list[str]]":
    """A configuration and a line for each of its devices, made as far as that goes without its key.

    What a token offers is not asked. Errors: ConfigError with all that is wrong, NotOffered for an engine; each with
    file, line and key.
    """
    from .config import ConfigError, load

    config = load(path)
    try:
        engines = open_engines(config.daemon.engines or tuple(ENGINES))
    except NotOffered as error:
        raise _placed(path, error, "daemon", "engines") from None
    lines: list[str] = []
    wrong: list[str] = []
    for name, model in config.devices.items():
        try:
            source = key_source(name, model, {})
            settings = device_settings(name, model, source)
            if not isinstance(source, TokenKey):
                found = resolve(engines, settings.type, settings.algorithm)
                if found is None:
                    raise NotOffered(f"{settings.type} {settings.algorithm!r}: no engine offers it here")
                with closing(found[0].open(found[1], settings.authsize)) as transform:
                    Device(settings, transform)
            lines.append(f"device {name}: {model.type} {model.name}, key from {source.describe()}")
        except CryptofsError as error:
            wrong.append(_placed(path, error, "devices", name).message)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config, lines


def _placed(path: Path, error: CryptofsError, *place: str) -> CryptofsError:
    """The error with file, line and key before it."""
    from .config import locate

    return type(error)(f"{locate(path, *place)}: {error.message}")


class Assembly:
    """Everything below the mount. Making one opens the engines and reads the configuration and the keys."""

    def __init__(
        self,
        engines: tuple[str, ...] = (),
        config: Path | None = None,
        handed: Mapping[str, int] | None = None,
        may_lack: bool = False,
    ) -> None:
        """engines: their order, the configuration's or the usual one if empty. handed: key files opened already.
        may_lack: the configuration need not be there.

        Errors: ConfigError, KeyUnavailable, NotOffered, InvalidValue.
        """
        self._path = config
        self._handed = dict(handed or {})
        self._declared: dict[str, DeviceModel] = {}
        self._may_lack = may_lack
        self._audit: bool | None = None
        loaded = self._load()
        # a descriptor is that of the file that was named at the start, whatever is named later
        declared = loaded.devices if loaded is not None else {}
        self._handed_paths: dict[str, Path | None] = {name: model.key.file for name, model in declared.items()}
        opened = open_engines(engines or (loaded and loaded.daemon.engines) or tuple(ENGINES))
        for engine in opened:
            # before the first client waits for it
            engine.warm_up()
        self.workers = Workers()
        self.table = ContextTable(opened, self.workers)
        self.tree = Tree(self.table)
        if loaded is not None:
            self._apply(loaded)

    def _load(self) -> "Config | None":
        if self._path is None or (self._may_lack and not self._path.exists()):
            return None
        # only those who use it pay for what checks it
        from .config import load

        return load(self._path)

    @property
    def with_audit(self) -> bool | None:
        """Whether audit events are to be recorded: with a configuration, unless it says no; None without one."""
        return self._audit

    def start(self) -> None:
        """Start the workers; called in the event loop, after privileges were given up."""
        self.workers.start()

    def reload(self) -> str:
        """Read the configuration again; returns a line that says what holds now.

        Contexts that are open stay as they are, with their keys and rules. A device whose declaration has not changed
        keeps its key. Errors: ConfigError, KeyUnavailable, NotOffered, InvalidValue; what held before holds on then.
        """
        config = self._load()
        if config is None:
            return "no configuration file: what held before holds on"
        self._apply(config)
        rules = len(config.policy.users) + len(config.policy.groups)
        return f"configuration: {len(config.devices)} devices, {rules} rules of users and groups"

    def _apply(self, config: "Config") -> None:
        policy = config.policy.policy()
        devices = self._open_devices(config)
        # from here on nothing fails
        before = self.table.devices
        self.table.policy = policy
        self.table.devices = devices
        self._declared = {str(name): model for name, model in config.devices.items()}
        self._audit = config.daemon.audit
        for name, device in before.items():
            if devices.get(name) is not device:
                device.retire()

    def _open_devices(self, config: "Config") -> dict[str, Device]:
        devices: dict[str, Device] = {}
        opened: list[Device] = []
        try:
            for name, model in config.devices.items():
                if self._declared.get(name) == model:
                    devices[name] = self.table.devices[name]
                    continue
                devices[name] = self._open_device(name, model)
                opened.append(devices[name])
        except BaseException:
            for device in opened:
                device.retire()
            raise
        return devices

    def _open_device(self, name: str, model: "DeviceModel") -> Device:
        handed = self._handed if self._handed_paths.get(name) == model.key.file else {}
        source = key_source(name, model, handed)
        settings = device_settings(name, model, source)
        try:
            transform = source.open(self.table.engines, settings.type, settings.algorithm, settings.authsize)
            try:
                device = Device(settings, transform)
            except BaseException:
                transform.close()
                raise
        except CryptofsError as error:
            assert self._path is not None
            raise _placed(self._path, error, "devices", name) from None
        log.info("device %s: %s from %s", name, transform.description.name, source.describe())
        return device

    def close(self) -> None:
        """Stop the workers and close every context; keys are wiped."""
        self.workers.stop()
        self.table.close_all()
        for device in self.table.devices.values():
            device.retire()
        tell_held_back()
