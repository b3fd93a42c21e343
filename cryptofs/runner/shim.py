"""The library that asks for an alias of AF_ALG, where the filter of a container refuses AF_ALG itself: shim.c.

The alias is a socket of the family AF_UNIX, which every container has, with a protocol that this family does not have.
Filters look at the family alone, and newer ones allow only those families that Linux has.
"""

import errno
import os
import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from ..errors import SystemFault, printable

ALIAS = 1
"""The family of the alias: AF_UNIX."""
ALIAS_PROTOCOL = 0x63666C00
"""Its protocol; one more stands for every protocol that AF_ALG does not have. shim.c has the number, too."""
_BUILT = Path(__file__).with_name("_shim" + EXTENSION_SUFFIXES[0])


def library() -> Path:
    """The library, which is built with the project if there is a C compiler.

    Errors: SystemFault (ENOENT) if it was not built; SystemFault (EINVAL) where LD_PRELOAD cannot name it.
    """
    if not os.access(_BUILT, os.R_OK):
        raise SystemFault(
            f"--shim: {printable(_BUILT)} is not there. It is built when you install cryptofs where `cc` is: "
            "install gcc and libc6-dev, and then cryptofs again",
            errno.ENOENT,
        )
    if re.search(r"[\s:]", str(_BUILT)):
        raise SystemFault(
            f"--shim: {printable(_BUILT)}: LD_PRELOAD takes no space or colon: install cryptofs elsewhere",
            errno.EINVAL,
        )
    return _BUILT


def preload(path: Path) -> None:
    """Have the programs that this process executes load it. It comes last, so that it hides no other such library."""
    others = os.environ.get("LD_PRELOAD", "")
    os.environ["LD_PRELOAD"] = f"{others}:{path}" if others else str(path)
