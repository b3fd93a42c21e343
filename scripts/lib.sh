# shellcheck shell=bash
# Sourced by the other scripts: messages, and the things they need on the machine.
#
#   say, warn, die       messages; die ends the script (status $DIE_STATUS, else 1)
#   quietly COMMAND…     shows COMMAND's output only where it fails
#   need_packages PKG…   Debian packages
#   need_venv            the project and its locked requirements in $VENV
#   need_fuse            a usable /dev/fuse
#   locked_requirements PYTHON NAME…   the lock's part for these: `.` is what running needs, `.EXTRA` an extra of the project
#   private_apt DIR      a configuration of apt in DIR/apt.conf that changes nothing of the machine's
#   debian_mirror DIR    the Debian mirror of this machine; DIR is of private_apt

set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
export ROOT VENV

say() { printf '==> %s\n' "$*"; }
warn() { printf '%s: WARNING: %s\n' "${0##*/}" "$*" >&2; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit "${DIE_STATUS:-1}"
}

quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  ((status == 0)) || tail -n 30 -- "$log" >&2
  rm -f -- "$log"
  return "$status"
}

_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

need_packages() {
  local package missing=() as_root=()
  for package; do
    _installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  type -P apt-get >/dev/null || die "this machine has no apt-get: install these packages first: ${missing[*]}"
  if ((EUID != 0)); then
    # Without a terminal a password prompt would look like a hang.
    sudo -n true 2>/dev/null || { [[ -t 0 && -t 2 ]] && sudo -v; } || die "install these packages first, as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  local install=("${apt[@]}" install --no-install-recommends "${missing[@]}")

  say "installing ${missing[*]}" >&2
  # The package lists may be missing or old. Only then is it worth asking the network.
  if ! "${install[@]}" >/dev/null 2>&1 </dev/null; then
    quietly "${apt[@]}" update || die "apt-get update failed; needed packages: ${missing[*]}"
    quietly "${install[@]}" || die "apt-get could not install: ${missing[*]}"
  fi
}

_find_python() {
  local python
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      # Not the name: it may be a version manager's shim, or in the venv made anew.
      "$python" -c 'import sys; print(sys._base_executable)'
      return
    fi
  done
  die "Python 3.11 or newer is missing: install it, and put python3 into PATH"
}

need_venv() {
  local python stamp lock file version
  python=$(_find_python)
  for file in requirements.lock pyproject.toml; do
    [[ -f $ROOT/$file ]] || die "$file is missing in $ROOT: use a complete checkout"
  done
  # ROOT: the editable install and the venv's scripts hold absolute paths.
  stamp=$({
    "$python" -VV
    printf '%s\n' "$python" "$ROOT"
    cat -- "$ROOT/requirements.lock" "$ROOT/pyproject.toml" "$ROOT/cryptofs/runner/shim.c"
  } | sha256sum)

  # Locking the directory itself leaves no lock file behind.
  exec {lock}<"$ROOT"
  flock "$lock"
  if [[ ! -f $VENV/stamp || $(<"$VENV/stamp") != "$stamp" ]]; then
    # A guest has no network, and would delete the host's .venv.
    [[ -z ${CRYPTOFS_GUEST-} ]] || die "$VENV is not up to date: run ./scripts/test --host outside the guest first"
    need_packages gcc libc6-dev libfuse3-dev liblzo2-dev pkg-config fuse3
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # Debian splits Python into several packages. A Python that was built by hand is complete.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages "python$version-venv"
    "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null ||
      need_packages "python$version-dev"

    say "making $VENV" >&2
    # Clear an older one: a requirement that was removed must not stay installed.
    quietly "$python" -m venv --clear "$VENV" {lock}<&- || die "could not make $VENV with $python"
    local pip=("$VENV/bin/python" -m pip --disable-pip-version-check install -q --no-input)
    quietly "${pip[@]}" --require-hashes -r "$ROOT/requirements.lock" {lock}<&- ||
      die "pip could not install requirements.lock (see above)"
    quietly "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT" {lock}<&- ||
      die "pip could not install the project itself (see above)"
    printf '%s\n' "$stamp" >"$VENV/stamp"
  fi
  exec {lock}<&-
}

# What a requirement needs is found by the lock's own "via" notes.
locked_requirements() {
  "$1" - "$ROOT" "${@:2}" <<'PYTHON'
import re
import sys
import tomllib
from pathlib import Path

root = Path(sys.argv[1])
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


wanted = set()
for given in sys.argv[2:]:
    extra = given.removeprefix(".")
    listed = project["dependencies"] if given == "." else project["optional-dependencies"][extra] if extra != given else [given]
    wanted |= {name_of(text) for text in listed}
blocks = {}
for block in re.split(r"\n(?=[A-Za-z0-9])", (root / "requirements.lock").read_text()):
    if "==" in block:
        via = re.search(r"# via(.*)", block, re.DOTALL)
        blocks[name_of(block)] = (block, set(re.findall(r"[A-Za-z0-9._-]+", via[1] if via else "")))
while True:
    more = {name for name, (_, via) in blocks.items() if via & wanted} - wanted
    if not more:
        break
    wanted |= more
missing = wanted - set(blocks)
if missing:
    sys.exit(f"requirements.lock lacks {', '.join(sorted(missing))}")
print("\n".join(blocks[name][0] for name in sorted(wanted)))
PYTHON
}

need_fuse() {
  type -P fusermount3 >/dev/null || need_packages fuse3
  if [[ ! -c /dev/fuse ]] && ((EUID == 0)); then
    modprobe fuse 2>/dev/null || :
  fi
  [[ -c /dev/fuse ]] || die "/dev/fuse is missing: load the kernel module fuse (a container needs --device /dev/fuse)"
  # Opening is the test: a container may show the device and still refuse it.
  { : <>/dev/fuse; } 2>/dev/null || die "/dev/fuse cannot be opened: run this as a user who has access (a container needs --device /dev/fuse)"
}

# Everything of apt that changes is private; mirrors, proxies and certificates
# stay the machine's own, so that no host needs to be named here.
private_apt() {
  mkdir -p "$1"/apt/{lists,archives}/partial
  cat >"$1/apt.conf" <<-CONF
	Dir::State "$1/apt";
	Dir::State::status "/var/lib/dpkg/status";
	Dir::Cache "$1/apt";
	Acquire::Languages "none";
	APT::Update::Error-Mode "any";
	APT::Sandbox::User "$(id -un)";
	#clear APT::Update::Post-Invoke;
	#clear APT::Update::Post-Invoke-Success;
	CONF
}

_debian_source() {
  # shellcheck disable=SC2016  # apt's variables
  apt-get "$@" indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "Debian" && !n++ { print $3 }'
}

debian_mirror() {
  local mirror
  mirror=$(_debian_source)
  if [[ -z $mirror ]]; then
    # The origin of a source is known only once its lists are there.
    quietly apt-get -c "$1/apt.conf" update || return
    mirror=$(_debian_source -c "$1/apt.conf")
  fi
  [[ -n $mirror ]] && printf '%s\n' "$mirror"
}
