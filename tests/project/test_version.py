"""What is built: its version, which tells commits apart, and its files. Checkouts and editable installations too."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.sources import extract

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


def copy_tree(path: Path) -> Path:
    """A repository there with this tree's files, as it stands, in one commit."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if listed.returncode:
        pytest.skip("NOT RUN: this is no checkout of git, or git is missing")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "Begin")
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with this tree's files."""
    return copy_tree(tmp_path / "checkout")


class Built(NamedTuple):
    """What is built of a commit: the sources' directory, and wheels, one of the checkout and one of these sources."""

    commit: str
    tracked: set[str]
    sources: Path
    wheel: Path
    wheel_of_sources: Path


def build(what: str, directory: Path, target: Path) -> Path:
    """Build it as pip does, by the same backend."""
    target.mkdir()
    command = [sys.executable, "-c", _BUILD, what, str(target)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=100)
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A build of everything."""
    path = tmp_path_factory.mktemp("built")
    checkout = copy_tree(path / "checkout")
    head = commit(checkout)
    tracked = set(git(checkout, "ls-files").splitlines())
    sources = extract(build("build_sdist", checkout, path / "sdist"), path / "sources")
    wheel = build("build_wheel", checkout, path / "wheel")
    return Built(head, tracked, sources, wheel, build("build_wheel", sources, path / "wheel-of-sources"))


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


def test_what_is_built_keeps_its_version(built: Built, tmp_path: Path) -> None:
    """A source distribution has the commit's version, and a wheel that is made of it, without git, the same."""
    version = re.search(r"^Version: (.*)$", (built.sources / "PKG-INFO").read_text(), re.MULTILINE)
    assert version is not None
    assert re.fullmatch(rf"0\.1\.dev2\+g{built.commit[:7]}\w*", version[1])
    assert version_in(built.sources) == version[1]
    with zipfile.ZipFile(built.wheel_of_sources) as wheel:
        wheel.extractall(tmp_path / "installed")
    assert version_in(tmp_path / "installed") == version[1]


def test_the_source_distribution_is_complete(built: Built) -> None:
    """Every file of git: tests, scripts, documents, what CI runs. Beside them only what the build itself writes."""
    found = {str(path.relative_to(built.sources)) for path in built.sources.rglob("*") if path.is_file()}
    # The wheel was built here.
    made = {each for each in found if each.startswith(("build/", "cryptofs.egg-info/"))}
    assert built.tracked - found == set()
    assert found - built.tracked - made == {"PKG-INFO", "setup.cfg", "cryptofs/_version.py"}
    assert {".ci/run", "scripts/test", "docs/protocol.md", "tests/conftest.py"} <= found
    assert (built.sources / "scripts" / "test").stat().st_mode & 0o111


def test_the_wheel_is_complete(built: Built) -> None:
    """Modules, types, the library of `run --shim`, units, header, completion, manual; the same from the sources."""
    lists = []
    for path in (built.wheel, built.wheel_of_sources):
        with zipfile.ZipFile(path) as wheel:
            lists.append({name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")})
    assert lists[0].keys() == lists[1].keys()
    shim = next(name for name in lists[0] if name.startswith("cryptofs/runner/_shim."))
    # The linker's build id alone may differ.
    assert [name for name in lists[0] if name != shim and lists[0][name] != lists[1][name]] == []
    data = {re.sub(r"^cryptofs-[^/]*\.data/data/", "", name) for name in lists[0]}
    modules = {each for each in built.tracked if each.startswith("cryptofs/")}
    pages = {
        f"share/man/man{each[-1]}/{Path(each).name}" for each in built.tracked if re.search(r"man/.*\.[17]$", each)
    }
    units = {f"share/cryptofs/system/{Path(each).name}" for each in built.tracked if each.startswith("scripts/system/")}
    assert len(pages) > 20
    assert len(units) > 5
    wanted = modules | pages | units | {"include/cryptofs.h", "share/zsh/site-functions/_cryptofs"}
    wanted |= {"share/bash-completion/completions/cryptofs.bash", "share/fish/vendor_completions.d/cryptofs.fish"}
    assert wanted - data == set()
    left = {each for each in data - wanted if ".dist-info/" not in each}
    assert left == {"cryptofs/_version.py", shim}


def test_an_editable_installation_follows_the_checkout(checkout: Path) -> None:
    """The version file is the build's; once another commit is checked out, the version ends in that one."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "cryptofs" / "_version.py").write_text(f"version = '0.1.dev1+g{head[:9]}'\ncommit_id = 'g{head[:9]}'\n")
    assert version_in(checkout) == f"0.1.dev1+g{head[:9]}"
    other = commit(checkout)
    assert version_in(checkout) == f"0.1.dev1+g{other[:9]}"


def test_a_tag_is_the_version(checkout: Path) -> None:
    """A release has its tag's version, and a commit after it begins the next one."""

    def version() -> str:
        command = [sys.executable, "-m", "setuptools_scm"]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    git(checkout, "tag", "-a", "v0.1.0", "-m", "0.1.0")
    assert version() == "0.1.0"
    later = commit(checkout)
    assert re.fullmatch(rf"0\.1\.1\.dev1\+g{later[:7]}\w*", version())
