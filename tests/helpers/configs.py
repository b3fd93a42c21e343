"""Configurations of daemons, and the files of keys that they name."""

import os
from pathlib import Path


def write_private(path: Path, data: bytes) -> Path:
    """A file as keys and configurations have to be: of a mode that lets nobody else in."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_bytes(data)
    return path


def declare(name: str, kind: str, algorithm: str, key: Path | str, *more: str) -> str:
    """A device's section. It is the tests' own user's, unless `more` names another one."""
    lines = [f"[devices.{name}]", f'type = "{kind}"', f'name = "{algorithm}"', f'key.file = "{key}"', *more]
    if not any(line.startswith("user") for line in more):
        lines += [f"user = {os.getuid()}", f"group = {os.getgid()}"]
    return "\n".join((*lines, ""))


def configured(directory: Path, text: str, **keys: bytes) -> tuple[str, str]:
    """What a daemon is given to have this configuration; with keys, `{name}` in it is the file of the key `name`."""
    files = {name: write_private(directory / f"{name}.key", key) for name, key in keys.items()}
    config = write_private(directory / "cryptofs.toml", (text.format(**files) if files else text).encode())
    return "--config", str(config)
