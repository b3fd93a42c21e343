"""`cryptofs hand-over` and `cryptofs take-back`: the steps of a service that need root, before and after it.

These run at each start, and a restart has to be quick: nothing large is imported, not even click.
"""

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from ..privileges import (
    SERVICE_USER,
    Account,
    find_account,
    join_first_namespace,
    mount_fuse,
    protect_mountpoint,
    take_away,
)
from ..service import FUSE, KEY_PREFIX, ServiceError, store

_GROUP_AND_OTHERS = 0o077


def run(arguments: Sequence[str]) -> None:
    """Run the step that the first argument names. Errors: PrivilegeError, ServiceError; SystemExit(2) for bad usage."""
    given = _parser().parse_args(arguments)
    mountpoint = given.mountpoint.absolute()
    if given.step == "take-back":
        take_back(mountpoint)
        return
    # a key that is named wins over what the configuration says of its device
    keys = key_files(given.config) if given.config else {}
    hand_over(mountpoint, given.user, keys | dict(given.key))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cryptofs", allow_abbrev=False)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser(
        "hand-over",
        allow_abbrev=False,
        description="Mount at MOUNTPOINT and have systemd keep the descriptor until the unprivileged service takes "
        "it. For ExecStartPre=+ of a unit with FileDescriptorStoreMax= and NotifyAccess=all. What an earlier daemon "
        "left is cleared. Until the service serves, whoever looks at the mount waits.",
    )
    step.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    step.add_argument("--user", default=SERVICE_USER, metavar="NAME", help=f"who will serve ({SERVICE_USER})")
    step.add_argument(
        "--key",
        action="append",
        default=[],
        type=_key,
        metavar="DEVICE=FILE",
        help="a file that only root may read and that holds the key of a device; may be given again",
    )
    step.add_argument(
        "--config", type=Path, metavar="FILE", help="open the key files of its devices, too; if it is there"
    )
    step = steps.add_parser(
        "take-back",
        allow_abbrev=False,
        description="Unmount MOUNTPOINT, whoever uses it and whether its daemon lives or not, and leave it root's "
        "own, mode 0000.",
    )
    step.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    return parser


def _key(text: str) -> tuple[str, Path]:
    device, equals, file = text.partition("=")
    if not (device and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r}: DEVICE=FILE")
    return device, Path(file)


def key_files(config: Path) -> dict[str, Path]:
    """The key files that a configuration names, by device. What is wrong in it is for the service to find and tell."""
    import tomllib

    try:
        with config.open("rb") as file:
            devices = tomllib.load(file).get("devices", {})
        return {
            name: Path(device["key"]["file"]) for name, device in devices.items() if "file" in device.get("key", {})
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        print(f"cryptofs: {config}: no key file is opened: {error}", file=sys.stderr)
        return {}


def hand_over(mountpoint: Path, user: str, keys: dict[str, Path]) -> None:
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
        for device, file in keys.items():
            try:
                descriptors[KEY_PREFIX + device] = os.open(
                    file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
                )
            except OSError as error:
                raise ServiceError(f"key of device {device!r}: {file}: {error.strerror}") from None
            except ValueError as error:
                raise ServiceError(f"key of device {device!r}: {str(file)!r}: {error}") from None
            reason = _why_not(os.fstat(descriptors[KEY_PREFIX + device]), account)
            if reason:
                raise ServiceError(f"key of device {device!r}: {file}: {reason}")
        descriptors[FUSE] = mount_fuse(mountpoint, account)
        store(descriptors)
    except ServiceError:
        take_away(mountpoint)
        raise
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _why_not(status: os.stat_result, account: Account) -> str:
    """What speaks against an opened file as a key's, if anything does."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if mode & _GROUP_AND_OTHERS:
        return f"mode {mode:04o}: it may have none of the bits {_GROUP_AND_OTHERS:04o}"
    if status.st_uid not in (0, account.uid):
        return f"owned by uid {status.st_uid}: root or uid {account.uid} must own it"
    return ""


def take_back(mountpoint: Path) -> None:
    """Unmount, whoever uses it and whether its daemon lives or not. Errors: PrivilegeError."""
    join_first_namespace()
    take_away(mountpoint)
    protect_mountpoint(mountpoint)
