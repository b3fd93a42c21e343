"""The files of a container: a static program, and this machine's interpreter."""

import shutil
import sys
from pathlib import Path

from helpers.compiling import compiled
from helpers.machine import TESTS


def make_rootfs(directory: Path) -> Path:
    """`rootfs` below a directory: clients/alg.c as /alg, and nothing else."""
    root = directory / "rootfs"
    for name in ("proc", "tmp", "dev", "sys", "etc", "run"):
        (root / name).mkdir(parents=True)
    shutil.move(compiled("alg", directory, options=("-pthread", "-static")), root / "alg")
    return root


def interpreter() -> tuple[str, ...]:
    """Directories of this machine, with this interpreter and the project, to be mounted at the same places."""
    system = [str(each) for each in map(Path, ("/usr", "/lib", "/lib64", "/bin")) if each.exists()]
    places = {str(Path("/", *Path(each).parts[1:2])) for each in (sys.prefix, sys.base_prefix, str(TESTS))}
    return (*system, *sorted(places - {*system, "/tmp"}))
