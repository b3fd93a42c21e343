"""The version tells commits apart: in a checkout, in an editable installation, and in what is built."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cryptofs.version import UNKNOWN, checked_out, find_version

ROOT = Path(__file__).resolve().parents[2]
_PRINT = "import cryptofs; print(cryptofs.__version__)"
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def git(directory: Path, *arguments: str) -> str:
    """What git prints, there."""
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main")
    command = ["git", *identity, "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def version_in(directory: Path) -> str:
    """What the package in a directory says of itself, in a process of its own."""
    # without site: an editable installation would lend its version file
    command = [sys.executable, "-S", "-B", "-c", _PRINT]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def commit(directory: Path) -> str:
    """Another commit; its name."""
    git(directory, "commit", "-q", "--allow-empty", "-m", "Change nothing")
    return git(directory, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with this tree's files, as it stands, in one commit."""
    path = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard", "--", ":!tests"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if listed.returncode:
        pytest.skip("NOT RUN: this is no checkout of git, or git is missing")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, path / name)
    git(tmp_path, "init", "-q", str(path))
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "Begin")
    return path


def test_commits_have_versions_of_their_own(checkout: Path) -> None:
    """Without a build: each commit's begins alike and ends in the commit; one that is checked out again has its own."""
    first = git(checkout, "rev-parse", "HEAD")
    assert version_in(checkout) == f"{UNKNOWN}+g{first[:9]}"
    second = commit(checkout)
    assert version_in(checkout) == f"{UNKNOWN}+g{second[:9]}"
    git(checkout, "checkout", "-q", first)
    assert version_in(checkout) == f"{UNKNOWN}+g{first[:9]}"


def test_a_commit_is_found_wherever_git_keeps_it(checkout: Path, tmp_path: Path) -> None:
    """On a branch, packed, detached, in a work tree of its own; no repository and an unreadable one are none."""
    (checkout / "none").mkdir()
    head = commit(checkout)
    assert checked_out(checkout) == head
    git(checkout, "pack-refs", "--all")
    assert checked_out(checkout) == head
    git(checkout, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "topic")
    other = commit(tmp_path / "tree")
    assert checked_out(tmp_path / "tree") == other != head
    git(checkout, "worktree", "add", "-q", "--detach", str(tmp_path / "detached"))
    assert checked_out(tmp_path / "detached") == head
    assert checked_out(tmp_path) is None
    assert checked_out(checkout / "none") is None
    (checkout / ".git" / "HEAD").write_bytes(b"\xff")
    assert checked_out(checkout) is None
    assert find_version(checkout / "cryptofs")


def test_what_is_built_keeps_its_version(checkout: Path, tmp_path: Path) -> None:
    """A source distribution has the commit's version, and a wheel that is made of it, without git, the same."""
    head = commit(checkout)

    def build(what: str, directory: Path) -> Path:
        command = [sys.executable, "-c", _BUILD, what, str(tmp_path)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=100)
        return tmp_path / done.stdout.splitlines()[-1]

    with tarfile.open(build("build_sdist", checkout)) as archive:
        # the argument came with Python 3.11.4
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "sources", **safely)  # type: ignore[arg-type]
    (sources,) = (tmp_path / "sources").iterdir()
    built = re.search(r"^Version: (.*)$", (sources / "PKG-INFO").read_text(), re.MULTILINE)
    assert built is not None
    assert re.fullmatch(rf"0\.1\.dev2\+g{head[:7]}\w*", built[1])
    assert version_in(sources) == built[1]
    with zipfile.ZipFile(build("build_wheel", sources)) as wheel:
        wheel.extractall(tmp_path / "installed")
    assert version_in(tmp_path / "installed") == built[1]


def test_an_editable_installation_follows_the_checkout(checkout: Path) -> None:
    """The version file is the build's; once another commit is checked out, the version ends in that one."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "cryptofs" / "_version.py").write_text(f"version = '0.1.dev1+g{head[:9]}'\ncommit_id = 'g{head[:9]}'\n")
    assert version_in(checkout) == f"0.1.dev1+g{head[:9]}"
    other = commit(checkout)
    assert version_in(checkout) == f"0.1.dev1+g{other[:9]}"
