"""The container recipe and the DaemonSet: what they declare, and a mount that reaches the node and its other pods."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "scripts" / "container" / "Containerfile"
DAEMON_SET = ROOT / "scripts" / "container" / "daemonset.yaml"
_TO_JSON = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"


@pytest.fixture(scope="module")
def declared() -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the DaemonSet. Debian's Python reads YAML; no part of the program does."""
    command = ["/usr/bin/python3", "-c", _TO_JSON]
    done = subprocess.run(command, input=DAEMON_SET.read_bytes(), capture_output=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip("NOT RUN: Debian's python3-yaml is not installed")
    config, daemon_set = json.loads(done.stdout)
    assert (config["kind"], daemon_set["kind"]) == ("ConfigMap", "DaemonSet")
    return config, daemon_set


def test_the_daemon_set_may_mount_and_serves_as_another_user(declared: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Root and privileged, because Bidirectional needs it; by --user the daemon gives that up. Memory is bounded."""
    spec = declared[1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {"privileged": True, "runAsUser": 0, "readOnlyRootFilesystem": True}
    arguments = container["args"]
    assert arguments[arguments.index("--user") + 1] == "cryptofs"
    assert "--allow-root" not in arguments
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert spec["automountServiceAccountToken"] is False
    assert (
        declared[1]["spec"]["selector"]["matchLabels"].items()
        <= declared[1]["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_daemon_set_shares_the_parent_of_its_mount(declared: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """With the node, both ways; nothing else of the node but /dev/fuse is there to write."""
    spec = declared[1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    point = Path(container["args"][container["args"].index("mount") + 1])
    assert mounts[str(point.parent)]["mountPropagation"] == "Bidirectional"
    assert volumes[mounts[str(point.parent)]["name"]]["hostPath"]["path"] == str(point.parent)
    assert [each for each in mounts.values() if "mountPropagation" in each] == [mounts[str(point.parent)]]
    host = {each["hostPath"]["path"] for each in volumes.values() if "hostPath" in each}
    assert host == {str(point.parent), "/dev/fuse"}
    (prepare,) = spec["initContainers"]
    assert prepare["image"] == container["image"]
    assert prepare["volumeMounts"] == [{"name": mounts[str(point.parent)]["name"], "mountPath": str(point.parent)}]
    assert str(point) in prepare["command"][2]
    assert prepare["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["cat", f"{point}/version"]


def test_the_daemon_set_has_its_configuration_and_keys(
    declared: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """The configuration is a valid one, and each key of it is a file that only root may read, of a Secret."""
    config, daemon_set = declared
    spec = daemon_set["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    place = container["args"][container["args"].index("--config") + 1]
    assert volumes[mounts[place]["name"]]["configMap"]["name"] == config["metadata"]["name"]
    text = config["data"][mounts[place]["subPath"]]
    key = "/etc/cryptofs/keys/backup"
    assert key in text
    assert mounts[key]["subPath"] == "backup"
    assert volumes[mounts[key]["name"]]["secret"]["defaultMode"] == 0o400
    own = tmp_path / "key"
    own.touch(0o400)
    own.write_bytes(os.urandom(32))
    file = tmp_path / "cryptofs.toml"
    file.write_text(text.replace(key, str(own)))
    command = [sys.executable, "-m", "cryptofs", "check-config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_recipe_runs_what_the_daemon_set_runs(declared: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The image's command and the DaemonSet's arguments are the same, and it is installed for that mount point."""
    lines = RECIPE.read_text().splitlines()
    command = json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    (container,) = declared[1]["spec"]["template"]["spec"]["containers"]
    assert command == container["args"]
    assert any(f"scripts/install --root /image --mountpoint {command[1]}" in line for line in lines)
    assert any("useradd" in line and line.endswith(f" {command[command.index('--user') + 1]}") for line in lines)


NODE = """
mount --make-rprivate /; mount -t tmpfs none "$DIR"; mount --make-shared "$DIR"
# A new node, where the kubelet makes the volume's directory and nothing else.
NODE=$DIR/node/crypto; mkdir -p $NODE $DIR/daemon $DIR/pod
wait_for() { until eval "$1"; do sleep 0.05; done; }
# What a runtime does for a volume with Bidirectional propagation: a namespace whose mounts stay peers of the node's.
serve() {
    bash -c "${PREPARE//'/srv/crypto'/$NODE}"
    unshare --mount --propagation unchanged bash -euc '
        mount --rbind $1 $2; mount --make-rshared $2
        exec $C mount $2/fs --allow-root --engines openssl' - $NODE $DIR/daemon & daemon=$!
    wait_for '[ -e $NODE/fs/version ]'
}
# ... and with HostToContainer, for a pod that uses it.
unshare --mount --propagation slave bash -euc '
    mount --rbind $1 $2; mount --make-rslave $2
    touch $DIR/started
    for turn in first second third; do
        until [ -e $DIR/$turn ]; do sleep 0.05; done
        head -c 8 $2/fs/version; echo
        touch $DIR/$turn.seen
    done' - $NODE $DIR/pod & pod=$!
wait_for '[ -e $DIR/started ]'
for turn in first second third; do
    serve
    head -c 8 $NODE/fs/version; echo
    touch $DIR/$turn; wait_for '[ -e $DIR/$turn.seen ]'
    # The second daemon is killed, as for its memory, and leaves a dead mount.
    if [ $turn = second ]; then kill -KILL $daemon; wait $daemon || :; else kill -TERM $daemon; wait $daemon; fi
    [ ! -e $NODE/fs/version ]; echo gone
done
wait $pod
"""


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: namespaces of mounts need root")
def test_a_daemon_in_a_container_serves_the_node_and_its_pods(
    declared: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    """A mount of one mount namespace reaches the node's and a pod's, goes with the daemon, and comes again."""
    (prepare,) = declared[1]["spec"]["template"]["spec"]["initContainers"]
    assert prepare["command"][:2] == ["sh", "-c"]
    environment = os.environ | {
        "DIR": str(tmp_path),
        "C": f"{sys.executable} -m cryptofs",
        "PREPARE": prepare["command"][2],
    }
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-euc", NODE]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cryptofs", "cryptofs", "gone"] * 3
