"""The shape of the code: which module may import which, how long a file is, and that what is public is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryptofs

PACKAGE = Path(cryptofs.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_version.py")
"""All but what the build writes."""
LINES_MAX = 400

LOW = {"wiping", "errors", "algorithms", "records", "formats"}
BELOW_ENGINES = LOW | {"policy"}
ENGINE_PARTS = BELOW_ENGINES | {"engines.base", "engines.kinds", "engines.public", "engines.der", "engines.rsa_key"}
ENGINES = {
    "engines.af_alg",
    "engines.openssl",
    "engines.codecs",
    "engines.keyctl",
}  # and engines.pkcs11, which only keys/ opens
BELOW_NODES = ENGINE_PARTS | {"engines", "devices", "contexts"}
BELOW_DAEMON = BELOW_NODES | {"nodes", "fuse", "config", "keys", "keyfiles", "mountinfo"}

# what each unit may import of the package, beside itself and the version
ALLOWED: dict[str, set[str]] = {
    "wiping": set(),
    "errors": set(),
    "algorithms": {"errors"},
    "records": {"wiping", "errors", "algorithms"},
    "formats": {"wiping", "errors", "algorithms", "records"},
    "policy": LOW,
    "engines.base": BELOW_ENGINES,
    "engines.kinds": BELOW_ENGINES | {"engines.base"},
    "engines.public": BELOW_ENGINES | {"engines.base", "engines.kinds"},
    "engines.der": LOW,
    "engines.rsa_key": LOW | {"engines.der"},
    "engines.af_alg": ENGINE_PARTS,
    "engines.openssl": ENGINE_PARTS,
    "engines.codecs": ENGINE_PARTS,
    "engines.keyctl": ENGINE_PARTS | {"keyctl"},
    "engines.pkcs11": ENGINE_PARTS,
    "engines": ENGINE_PARTS | ENGINES,
    "devices": ENGINE_PARTS,
    "contexts": ENGINE_PARTS | {"engines", "devices"},
    "nodes": BELOW_NODES,
    "fuse": BELOW_NODES | {"nodes"},
    "cuse": LOW | {"runner", "fuse"},
    "config": LOW | {"policy", "keyfiles"},
    "keyctl": set(),
    "keyfiles": {"errors"},
    "keys": ENGINE_PARTS | {"engines", "engines.keyctl", "engines.pkcs11", "keyctl", "keyfiles"},
    "mountinfo": set(),
    "listening": {"errors"},
    "daemon": BELOW_DAEMON,
    "client": LOW | {"mountinfo"},
    "runner": ENGINE_PARTS | {"engines", "client", "engines.keyctl", "listening"},
    "faces": {"algorithms", "client", "listening"},
    "benchmark": LOW,
    "benchmark.empty": set(),
    "benchmark.bare": set(),
    "cli": BELOW_DAEMON | {"daemon", "client", "runner", "faces", "cuse", "benchmark"},
    "__main__": {"cli"},
    "version": set(),
    "": {"version"},
}
# the floors of the benchmark are file systems of their own, and nothing of this one
SEES_FUSE = {"fuse", "daemon", "benchmark.empty"}


def module_name(path: Path) -> str:
    """`engines.base` for engines/base.py, `engines` for engines/__init__.py, nothing for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """The unit that a module of the package belongs to: its longest known prefix."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ALLOWED:
            return ".".join(parts[:length])
    raise AssertionError(f"module {module!r} belongs to no layer: give it one")


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Full names of all that a module imports, wherever in it; `cryptofs.x.y` for `from .x import y`."""
    here = ["cryptofs", *(module.split(".") if module else [])]
    if not is_package:
        here = here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{target}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module imports and must not."""
    unit = unit_of(module)
    found = []
    for name in imports(source, module, is_package):
        first, _, inner = name.partition(".")
        if first == "pyfuse3" and unit not in SEES_FUSE:
            found.append(name)
        if first != "cryptofs" or inner == "__version__" or inner.startswith("_version."):
            continue
        imported = unit_of(inner)
        if imported != unit and imported not in ALLOWED[unit]:
            found.append(name)
    return found


LAZY = {
    "": {"version"},
    "version": {"_version"},
    "cli": {"commands", "steps"},
    "cli.completing": {"algorithms", "client", "client.mounts", "engines"},
    "cli.mount": {"daemon.serve"},
    "cli.pieces": {"bars"},
    "cli.steps": {"formats.token_uri"},
    "cli.computing": {"client.mounts"},
    "engines.opening": {"af_alg", "openssl", "codecs", "keyctl"},
    "engines.openssl": {"keypairs"},
    "runner.launch": {"answers"},
    "runner.answers": {"mounted", "devcrypto", "devcrypto.endpoint"},
    "nodes.stats": {"figures"},
    "keys.token": {"engines.pkcs11"},
    "runner.calls.sockets": {"keyring"},
}
"""What is imported within a function: for a quick start, or because it may be missing. Never to hide a circle."""


def late_imports(source: str) -> list[str]:
    """Imports of the package within a function."""
    return [
        node.module or ""
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def hidden_imports(source: str, module: str) -> list[str]:
    """Imports of the package that its shape does not show: under TYPE_CHECKING, or within a function."""
    names = (getattr(node, "id", None) or getattr(node, "attr", None) for node in ast.walk(ast.parse(source)))
    found = ["TYPE_CHECKING"] if "TYPE_CHECKING" in names else []
    return found + [each for each in late_imports(source) if each not in LAZY.get(module, set())]


def test_lazy_imports_are_there() -> None:
    """The table names nothing that a module imports at its top, or not at all."""
    found = {module_name(path): set(late_imports(path.read_text())) for path in FILES}
    assert {module: each for module, each in found.items() if each} == LAZY


def undocumented(source: str) -> list[str]:
    """Public classes and functions of a module that have no docstring, and the module itself."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(node.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file(path: Path) -> None:
    """Each file imports only from layers below its own, is short, and documents what is public."""
    source = path.read_text()
    module = module_name(path)
    assert violations(source, module, path.name == "__init__.py") == []
    assert hidden_imports(source, module) == []
    assert len(source.splitlines()) <= LINES_MAX
    assert undocumented(source) == []


def arrows() -> set[tuple[str, str]]:
    """Which top-level room of the package imports which other one; the version apart, which everybody may ask for."""
    found = set()
    for path in FILES:
        module = module_name(path)
        room = unit_of(module).split(".")[0]
        for name in imports(path.read_text(), module, path.name == "__init__.py"):
            first, _, inner = name.partition(".")
            if first == "cryptofs" and inner != "__version__" and not inner.startswith("_version."):
                found.add((room, unit_of(inner).split(".")[0]))
    return {(room, other) for room, other in found if other not in (room, "version")}


def test_rooms_and_arrows() -> None:
    """A reader can hold them: few rooms, few arrows, and no circle."""
    found = arrows()
    rooms = {room for arrow in found for room in arrow}
    assert len(rooms) <= 25
    assert len(found) <= 102
    left = set(found)
    while left:
        lowest = {other for _, other in left} - {room for room, _ in left}
        assert lowest, f"a circle: {sorted(left)}"
        left = {(room, other) for room, other in left if other not in lowest}


def test_every_layer_has_files() -> None:
    """The table above is of this package: no layer is left that has no file."""
    assert {unit_of(module_name(path)) for path in FILES} == set(ALLOWED)


# The checks can fail


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("records.codec", "from ..contexts import Context", ["cryptofs.contexts.Context"]),
        ("records.codec", "from .. import contexts", ["cryptofs.contexts"]),
        ("records.codec", "import cryptofs.nodes.tree", ["cryptofs.nodes.tree"]),
        ("errors", "def late():\n    from . import records", ["cryptofs.records"]),
        ("algorithms.names", "from ..records import Attr", ["cryptofs.records.Attr"]),
        ("engines.af_alg.hash", "from ..openssl.hash import x", ["cryptofs.engines.openssl.hash.x"]),
        ("engines.openssl.hash", "from ...policy import Rule", []),
        ("engines.openssl.hash", "from .. import af_alg", ["cryptofs.engines.af_alg"]),
        ("engines.openssl.hash", "from ...engines import open_engines", ["cryptofs.engines.open_engines"]),
        ("engines.base", "from .kinds import HashTransform", ["cryptofs.engines.kinds.HashTransform"]),
        ("engines.kinds", "from .base import Transform\nfrom ..records import Buffer", []),
        ("contexts.context", "from ..engines.openssl import x", ["cryptofs.engines.openssl.x"]),
        ("contexts.context", "from ..engines.base import Engine\nfrom .stream import Stream", []),
        ("nodes.tree", "import pyfuse3", ["pyfuse3"]),
        ("nodes.tree", "from pyfuse3 import FUSEError", ["pyfuse3.FUSEError"]),
        ("nodes.tree", "from .. import __version__", []),
        ("fuse.operations", "import pyfuse3\nfrom .nodes import Tree", []),
        ("fuse.operations", "from ..daemon import serve", ["cryptofs.daemon.serve"]),
        ("client.context", "from ..contexts import Context", ["cryptofs.contexts.Context"]),
        ("client.context", "from ..records import build\nimport os", []),
        ("cli.files", "from ..client import Context\nfrom ..daemon import serve", []),
        ("daemon", "from .client import Context", ["cryptofs.client.Context"]),
    ],
)
def test_imports_of_made_up_modules(module: str, source: str, found: list[str]) -> None:
    """The check finds what it must in modules made up for it, and nothing else."""
    assert violations(source, module) == found


def test_imports_of_made_up_packages() -> None:
    """One dot means another thing in an __init__.py."""
    assert violations("from .af_alg import x", "engines", is_package=True) == []
    assert violations("from ..contexts import x", "engines", is_package=True) == ["cryptofs.contexts.x"]
    assert violations("from .contexts import x", "engines", is_package=False) == ["cryptofs.contexts.x"]
    assert violations("import pyfuse3", "", is_package=True) == ["pyfuse3"]


def test_a_module_without_a_layer_is_noticed() -> None:
    """A new top-level module has to be given a place first."""
    with pytest.raises(AssertionError, match="no layer"):
        violations("", "helpers")


def test_hidden_imports_are_noticed() -> None:
    """For types alone, and within a function."""
    assert hidden_imports("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import B", "x") == [
        "TYPE_CHECKING"
    ]
    assert hidden_imports("import typing\nif typing.TYPE_CHECKING:\n    pass", "x") == ["TYPE_CHECKING"]
    assert hidden_imports("def late():\n    from .a import B", "x") == ["a"]
    assert hidden_imports("from .a import B\ndef late():\n    import os", "x") == []
    assert hidden_imports("def late():\n    from .steps import run", "cli") == []


def test_missing_docstrings_are_noticed() -> None:
    """The docstring check finds a bare module, class, function and coroutine, and leaves private ones alone."""
    bare = "class A:\n    pass\ndef b():\n    pass\nasync def c():\n    pass\ndef _d():\n    pass"
    assert undocumented(bare) == ["the module", "A", "b", "c"]
    assert undocumented('"""Doc."""\ndef b():\n    """Doc."""') == []
