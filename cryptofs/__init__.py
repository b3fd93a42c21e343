"""cryptofs: the Linux kernel's cryptography, for every program that can open a file."""


def __getattr__(name: str) -> str:
    # Computed on request, because most starts never need it.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pathlib import Path

    from .version import find_version

    return find_version(Path(__file__).parent)
