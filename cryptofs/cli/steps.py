"""`cryptofs hand-over`, `reload` and `take-back`: the service's steps that need root, before, during and after it.

These run at each start, and a restart must be quick. So they import nothing large, not even click.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..daemon.privileges import (
    SERVICE_USER,
    Account,
    find_account,
    join_first_namespace,
    mount_fuse,
    protect_mountpoint,
    take_away,
)
from ..daemon.service import (
    CONTROL,
    FUSE,
    KEY_PREFIX,
    PASSPHRASE_PREFIX,
    PIN_PREFIX,
    VERSION_MARK,
    Handed,
    ServiceError,
    ask_to_reload,
    control_path,
    listen,
    store,
)
from ..errors import CryptofsError, InvalidValue, printable
from ..keyfiles import list_versions, open_key_file, why_not, why_unopened

_FILES = ((KEY_PREFIX, "file"), (PIN_PREFIX, "pin-file"), (PASSPHRASE_PREFIX, "passphrase-file"))


def run(arguments: Sequence[str]) -> None:
    """Run the step in the first argument. Errors: PrivilegeError, ServiceError; SystemExit(2) for bad usage."""
    given = _parser().parse_args(arguments)
    mountpoint = given.mountpoint.absolute()
    if given.step == "take-back":
        take_back(mountpoint)
        return
    # A key on the command line overrides the one in the configuration of its device.
    files = key_files(given.config, find_account(given.user).uid) if given.config else {}
    files |= {KEY_PREFIX + device: file for device, file in given.key}
    if given.step == "reload":
        reload(mountpoint, given.user, files)
    else:
        hand_over(mountpoint, given.user, files)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cryptofs", allow_abbrev=False)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser(
        "hand-over",
        allow_abbrev=False,
        description="Mount at MOUNTPOINT, and store the descriptor in systemd until the unprivileged service takes it. "
        "For ExecStartPre=+ of a unit with FileDescriptorStoreMax= and NotifyAccess=all. This removes what an earlier "
        "daemon left. Until the service serves, programs that use the mount wait.",
    )
    _add_common(step)
    step = steps.add_parser(
        "reload",
        allow_abbrev=False,
        description="Make the service at MOUNTPOINT read its configuration and its keys again, with the key files "
        "that this command opens. It waits for the answer. If the service refuses, the status is 1, the error has the "
        "reason, and the old configuration stays. For ExecReload=+ of a unit.",
    )
    _add_common(step)
    step = steps.add_parser(
        "take-back",
        allow_abbrev=False,
        description="Unmount MOUNTPOINT, even if it is in use, with or without a live daemon, and give the directory "
        "to root with mode 0000.",
    )
    step.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    return parser


def _add_common(step: argparse.ArgumentParser) -> None:
    step.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    step.add_argument("--user", default=SERVICE_USER, metavar="NAME", help=f"the user who serves ({SERVICE_USER})")
    step.add_argument(
        "--key",
        action="append",
        default=[],
        type=_key,
        metavar="DEVICE=FILE",
        help="a file that only root may read, with the key of a device; may be given several times",
    )
    step.add_argument(
        "--config", type=Path, metavar="FILE", help="also open the key files of its devices, if it exists"
    )


def _key(text: str) -> tuple[str, Path]:
    device, equals, file = text.partition("=")
    if not (device and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r}: DEVICE=FILE")
    return device, Path(file)


def key_files(config: Path, serving: int) -> dict[str, Path]:
    """The files of keys and PINs that a configuration names, by the names under which they are passed on.

    serving: the uid of the service's user, who may own them. The service itself reports what is wrong in the
    configuration. Errors: ServiceError for a directory of keys that cannot be used.
    """
    # Only now: the step without a configuration is quicker by a tenth.
    import tomllib

    try:
        with config.open("rb") as file:
            devices = tomllib.load(file).get("devices", {})
        keys = {
            name + mark: key
            for name, device in devices.items()
            for mark, key in (
                ("", device.get("key", {})),
                *((VERSION_MARK + version, key) for version, key in device.get("keys", {}).items()),
            )
        }
        files = {prefix + name: Path(key[what]) for name, key in keys.items() for prefix, what in _FILES if what in key}
        for name, key in keys.items():
            if "directory" in key:
                files |= _versions(name, Path(key["directory"]), serving)
        return files | _pins_of_uris({name: key.get("pkcs11", "") for name, key in keys.items()})
    except FileNotFoundError:
        return {}
    except OSError as error:
        why = error.strerror
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidValue):
        # In our own words, because the interpreter's change from version to version.
        why = "it is not a valid configuration; the service reports where and why"
    print(f"cryptofs: {printable(config)}: opening no key file: {why}", file=sys.stderr)
    return {}


def _pins_of_uris(keys: dict[str, str]) -> dict[str, Path]:
    """The files of PINs that the URIs of tokens name."""
    uris = {name: uri for name, uri in keys.items() if uri.startswith("pkcs11:")}
    if not uris:
        return {}
    # Only now, for a quick start.
    from ..formats.token_uri import TokenObject

    sources = {name: TokenObject.parse(uri).pin_source for name, uri in uris.items()}
    return {PIN_PREFIX + name: Path(source) for name, source in sources.items() if source is not None}


def _versions(device: str, directory: Path, serving: int) -> dict[str, Path]:
    subject = f"key of device {device!r}: "
    try:
        found = list_versions(directory, {serving})
    except OSError as error:
        raise ServiceError(f"{subject}{printable(directory)}: {why_unopened(error)}", error.errno) from None
    except CryptofsError as error:
        raise ServiceError(f"{subject}{error.message}", error.errno) from None
    return {f"{KEY_PREFIX}{device}{VERSION_MARK}{version}": path for version, path in found.items()}


def hand_over(mountpoint: Path, user: str, files: dict[str, Path]) -> None:
    """Mount for `user` and store the descriptor as `fuse`, and those of key files as `key-<device>`.

    Errors: PrivilegeError, ServiceError naming the file that cannot be opened; then nothing stays mounted.
    """
    account = find_account(user)
    join_first_namespace()
    take_away(mountpoint)
    mountpoint.mkdir(mode=0, parents=True, exist_ok=True)
    protect_mountpoint(mountpoint)
    descriptors: dict[str, int] = {}
    try:
        opened = open_files(files, account)
        descriptors |= {name: file.descriptor for name, file in opened.items()}
        descriptors[CONTROL] = listen(mountpoint)
        descriptors[FUSE] = mount_fuse(mountpoint, account)
        store(descriptors)
    except CryptofsError:
        take_away(mountpoint)
        control_path(mountpoint).unlink(missing_ok=True)
        raise
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def reload(mountpoint: Path, user: str, files: dict[str, Path]) -> None:
    """Make the service reload, with these key files. Errors: PrivilegeError, ServiceError, also if it refuses."""
    account = find_account(user)
    join_first_namespace()
    opened = open_files(files, account)
    try:
        print(ask_to_reload(mountpoint, opened))
    finally:
        for file in opened.values():
            os.close(file.descriptor)


def open_files(files: dict[str, Path], account: Account) -> dict[str, Handed]:
    """The files of keys and PINs, opened and checked. Errors: ServiceError naming the device and the file."""
    opened: dict[str, Handed] = {}
    try:
        for name, file in files.items():
            what, _, device = name.partition("-")
            subject = f"{'PIN' if what == 'pin' else what} of device {device!r}: {printable(file)}"
            try:
                opened[name] = Handed(open_key_file(file), file)
            except OSError as error:
                raise ServiceError(f"{subject}: {why_unopened(error)}", error.errno) from None
            reason = why_not(os.fstat(opened[name].descriptor), {account.uid})
            if reason:
                raise ServiceError(f"{subject}: {reason}", errno.EACCES)
    except BaseException:
        for each in opened.values():
            os.close(each.descriptor)
        raise
    return opened


def take_back(mountpoint: Path) -> None:
    """Unmount, even if the mount is in use, with or without a live daemon. Errors: PrivilegeError."""
    join_first_namespace()
    take_away(mountpoint)
    control_path(mountpoint).unlink(missing_ok=True)
    protect_mountpoint(mountpoint)
