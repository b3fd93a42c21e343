"""`cryptofs hash`: digests of files, printed and checked as sha256sum does."""

from pathlib import Path
from typing import Any

import click

from ..client import Context
from ..records import Operation
from .files import check_alone, device_option, mount_option
from .keys import key_options, read_key
from .pieces import parts


@click.command("hash")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-n", "--name", default="sha256", show_default=True, help="Hash, in the kernel's terms: sha256, hmac(sha256), …"
)
@key_options(required=False)
@device_option
@mount_option
def hash_(files: tuple[Path, ...], name: str, device: str | None, where: Path | None, **key: Any) -> None:
    """Print the digest of each of FILES (or of standard input) as sha256sum does."""
    if device is not None:
        check_alone("name", "file", "descriptor", "hexadecimal")
        opened = Context.of_device(device, mount=where)
    else:
        opened = Context("hash", name, read_key(**key), mount=where)
    with opened as context:
        for path in files or (Path("-"),):
            with click.open_file(str(path), "rb") as source:
                message = context.message(Operation.DIGEST)
                for piece in parts(source):
                    message.update(piece)
                click.echo(f"{message.finish().hex()}  {path}")
