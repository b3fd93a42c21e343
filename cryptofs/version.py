"""The version: the one that the build found in git, or the commit of the current checkout."""

from pathlib import Path

UNKNOWN = "0.1.dev0"
"""For sources that were never built, on a machine where their commit is unknown."""
_SHOWN = 9


def find_version(package: Path) -> str:
    """The version of the package in a directory, as in PEP 440.

    An editable installation is built once and then follows the checkout: its version ends in the commit that is
    checked out now (`0.1.dev530+g1f2e3d4c5`).
    """
    try:
        from ._version import commit_id, version
    except ImportError:
        version, commit_id = UNKNOWN, None
    commit = checked_out(package.parent)
    if commit is None or (commit_id and commit.startswith(commit_id.removeprefix("g"))):
        return version
    return f"{version.partition('+')[0]}+g{commit[:_SHOWN]}"


def checked_out(directory: Path) -> str | None:
    """The current commit, in hexadecimal; None if this is not a checkout, or not a readable one.

    It reads the files, because git may be missing, and refuses the checkouts of other users.
    """
    git = directory / ".git"
    try:
        if git.is_file():
            # For `git worktree` and submodules.
            git = directory / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        shared = git / "commondir"
        common = git / shared.read_text().strip() if shared.is_file() else git
        if (common / name).is_file():
            return (common / name).read_text().strip()
        for line in (common / "packed-refs").read_text().splitlines():
            commit, _, ref = line.partition(" ")
            if ref == name:
                return commit
    except (OSError, ValueError):
        return None
    return None
