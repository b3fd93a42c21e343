"""The parts of a daemon's service, assembled by its configuration: engines, workers, contexts, devices and the tree.

The daemon makes an assembly before it gives up its privileges, because only its starter may be able to read the keys.
Later it asks the assembly to reload.
"""

import logging
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..config import Config, DeviceModel, DeviceName, load
from ..contexts import ContextTable, Scheduler
from ..devices import Counts, Device, fingerprint, same_keys
from ..engines.opening import ENGINES, open_engines
from ..errors import CryptofsError, KeyUnavailable
from ..keys import KeyForbidden
from ..nodes import Tree
from ..policy import Policy
from ..policy.audit import tell_held_back
from .declared import Access, check_engines_of, differ_in_versions, key_set, make_device, path_of
from .service import Handed
from .state import hold, state_directory

log = logging.getLogger("cryptofs")

_ONLY_ROOT = (
    "the daemon has given up root: restart it; for a service, use `systemctl reload`, which opens key files as root"
)


class Assembly:
    """Everything below the mount. Making one opens the engines and reads the configuration and the keys."""

    def __init__(
        self,
        engines: tuple[str, ...] = (),
        config: Path | None = None,
        handed: Mapping[str, int] | None = None,
        may_lack: bool = False,
        serving: int | None = None,
    ) -> None:
        """engines: their order; empty: the configuration's, else the default. handed: key files that are already open,
        by the names that `declared.path_of` takes. may_lack: the configuration need not exist. serving: the uid of the
        account that will serve, which may own key files, too; None: this process's.

        Errors: ConfigError, KeyUnavailable, NotOffered, InvalidValue.
        """
        self._path = config
        self._serving = serving
        self._handed: dict[str, Handed] = {}
        self._loaded: Config | None = None
        self._may_lack = may_lack
        self.last_reload = ""
        """What the last reload has done, or why it was refused. The manager shows it until the next one."""
        loaded = self._load()
        if loaded is not None:
            self._handed = {
                stored: _kept(Handed(descriptor, path))
                for stored, descriptor in (handed or {}).items()
                if (path := path_of(loaded, stored)) is not None
            }
        opened = open_engines(engines or (loaded and loaded.daemon.engines) or tuple(ENGINES))
        for engine in opened:
            # Do this before the first client waits for it.
            engine.warm_up()
        self.scheduler = Scheduler()
        self.table = ContextTable(opened, self.scheduler)
        self.tree = Tree(self.table)
        state = state_directory(loaded.daemon.state if loaded is not None else None, serving)
        self._state_keeper = None if state is None else _Keeper(hold(state))
        self.counts = Counts(state)
        if loaded is not None:
            self.take(self._prepared(loaded, _Changes(self._handed, privileged=True, at_start=True)))

    def _load(self) -> Config | None:
        if self._path is None or (self._may_lack and not self._path.exists()):
            return None
        return load(self._path)

    @property
    def with_audit(self) -> bool | None:
        """Whether to record audit events: with a configuration, unless it says no; None without one."""
        return self._loaded.daemon.audit if self._loaded is not None else None

    def start(self) -> None:
        """Start the workers. Call it in the event loop, after privileges were given up."""
        self.scheduler.start()

    def reload(self, handed: Mapping[str, Handed] | None = None) -> str:
        """`prepare` and `take` in one, for a caller without an event loop."""
        return self.take(self.prepare(handed))

    def prepare(self, handed: Mapping[str, Handed] | None = None) -> "Prepared | None":
        """Read the configuration and the keys again, for `take`; None without a configuration file.

        It may run in a thread while the event loop serves, because derivations of keys and logins to tokens take long.
        One at a time. handed: key files that a step with more rights has just opened, by the names that
        `declared.path_of` takes; they are closed here. None: no such step. Errors: ConfigError, KeyUnavailable,
        NotOffered, InvalidValue; then nothing changes.
        """
        given = self._handed if handed is None else {name: _kept(each) for name, each in handed.items()}
        config = self._load()
        return None if config is None else self._prepared(config, _Changes(given, privileged=handed is not None))

    def _prepared(self, config: Config, changes: "_Changes") -> "Prepared":
        assert self._path is not None
        if self._loaded is not None and config.daemon != self._loaded.daemon:
            # It is not used now, but it must not make the next start fail.
            check_engines_of(self._path, config)
            changes.of_daemon = True
        policy = config.policy.policy()
        return Prepared(config, policy, self._open_devices(config, changes), changes)

    def take(self, prepared: "Prepared | None") -> str:
        """Switch to what was prepared, in the event loop; returns a line with the current state and the changes.

        Open contexts keep their keys and rules. A device whose declaration and key are unchanged stays, also one whose
        key only has other versions. No step of this can fail.
        """
        if prepared is None:
            return "no configuration file: the old configuration stays"
        config, policy, devices, changes = prepared
        for device, made in changes.versions:
            device.take_versions(made)
            log.info("device %s: key versions %s", device.settings.name, device.versions)
        before = self.table.devices
        changes.gone = sorted(set(before) - set(devices))
        self.table.policy = policy
        self.table.devices = devices
        self._loaded = config
        # The old files close with the last source that reads them: a PIN's file stays open for another login.
        self._handed = changes.handed
        for name, device in before.items():
            if devices.get(name) is not device:
                device.retire()
        rules = len(config.policy.users) + len(config.policy.groups)
        return f"configuration: {len(config.devices)} devices, {rules} rules of users and groups{changes}"

    def _open_devices(self, config: Config, changes: "_Changes") -> dict[str, Device]:
        devices: dict[str, Device] = {}
        opened: list[Device] = []
        try:
            for name, model in config.devices.items():
                device = devices[name] = self._open_device(name, model, changes)
                if device is not self.table.devices.get(name):
                    opened.append(device)
        except BaseException:
            for device in (*opened, *(made for _, made in changes.versions)):
                device.retire()
            raise
        return devices

    def _open_device(self, name: DeviceName, model: DeviceModel, changes: "_Changes") -> Device:
        """The device with the current key of its source; the existing device, if it is unchanged."""
        assert self._path is not None
        known = self.table.devices.get(name)
        before = None if self._loaded is None else self._loaded.devices.get(name)
        declared_so = before == model
        replaced: bool | None = False
        try:
            source = key_set(self._path, name, model, Access(changes.handed, self._serving))
            if not changes.privileged and known is not None:
                replaced = source.was_replaced(self._serving)
                if replaced:
                    source = key_set(self._path, name, model, Access({}, self._serving))
            made = make_device(self._path, name, model, source, self.table.engines)
            self._count(made)
        except KeyForbidden as error:
            if known is not None and declared_so and not replaced:
                changes.hidden.append(name)
                return known
            if changes.at_start:
                raise
            raise KeyUnavailable(f"{error.message}: {_ONLY_ROOT}") from None
        if replaced is None:
            changes.hidden.append(name)
        same = same_keys(known, made) if known is not None and _is_alike(known, made) else {}
        if known is not None and before is not None and differ_in_versions(before, model):
            # Where the source is another one, the key must be seen to be the same.
            unchanged = False not in same.values() if declared_so else all(same.values())
            if unchanged and declared_so and str(known.versions) == str(made.versions):
                made.retire()
                return known
            if unchanged and known.can_take(made):
                changes.versions.append((known, made))
                return known
        if known is None:
            changes.new.append(name)
        elif declared_so:
            changes.keys.append(name)
        else:
            changes.declared.append(name)
        log.info("device %s: %s from %s", name, made.transform.description.name, source.describe())
        return made

    def _count(self, device: Device) -> None:
        """Give each key its count. The bound belongs to the key, whatever device or version it is. Errors: those of
        `Counts.of`; the device is retired then."""
        if device.nonces is None:
            return
        try:
            for version in device.versions.all:
                try:
                    key = fingerprint(device, version)
                except CryptofsError:
                    # A key that does not show itself is known by its place.
                    key = f"{device.settings.name}@{version.number}"
                version.count = self.counts.of(key, device.messages_max or None)
        except BaseException:
            device.retire()
            raise

    def close(self) -> None:
        """Stop the workers and close every context; keys are wiped."""
        self.scheduler.stop()
        self.table.close_all()
        for device in self.table.devices.values():
            device.retire()
        self.counts.close()
        self._state_keeper = None
        self._handed = {}
        tell_held_back()


class _Changes:
    """The changes that a start or a reload finds.

    handed: key files that a step with more rights opened; privileged: at this reload, not at an earlier start.
    """

    def __init__(self, handed: dict[str, Handed], privileged: bool, at_start: bool = False) -> None:
        self.handed = handed
        self.privileged = privileged
        self.at_start = at_start
        self.new: list[str] = []
        self.declared: list[str] = []
        self.keys: list[str] = []
        self.versions: list[tuple[Device, Device]] = []
        """Devices whose key has other versions, each with one that was made with them."""
        self.gone: list[str] = []
        self.hidden: list[str] = []
        self.of_daemon = False

    def __str__(self) -> str:
        said = (
            ("new devices", self.new),
            ("devices declared again", self.declared),
            ("new keys", self.keys),
            ("key versions", [f"{made.settings.name} ({made.versions})" for _, made in self.versions]),
            ("devices gone", self.gone),
            (f"keys that could not be looked at ({_ONLY_ROOT})", self.hidden),
        )
        parts = [f"; {what}: {', '.join(names)}" for what, names in said if names]
        if self.of_daemon:
            parts.append("; [daemon] has changed: restart the daemon to apply it")
        return "".join(parts)


class Prepared(NamedTuple):
    """A configuration with its rules and its devices, which have their keys."""

    config: Config
    policy: Policy
    devices: dict[str, Device]
    changes: _Changes


def _is_alike(one: Device, other: Device) -> bool:
    return (one.settings.type, one.settings.algorithm) == (other.settings.type, other.settings.algorithm)


class _Keeper:
    """Closes a descriptor when it goes."""

    def __init__(self, descriptor: int) -> None:
        weakref.finalize(self, os.close, descriptor)


def _kept(handed: Handed) -> Handed:
    return handed._replace(keeper=_Keeper(handed.descriptor))
