"""A containerd that is asked for pods as a kubelet asks: by the container runtime interface (CRI) of Kubernetes.

Debian has containerd and grpc, and no kubelet. Messages are those of Kubernetes' api.proto, runtime.v1.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from helpers.hidden_daemon import HiddenDaemon
from helpers.sources import Packages
from helpers.waiting import PATIENCE

IMAGE = "localhost/cryptofs-test:1"
ON_THE_NODE = 2
"""A namespace of a pod that is the node's."""
DEFAULT, LOCALHOST = 0, 2
"""Kinds of seccomp profiles: RuntimeDefault, and Localhost with a file."""
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2
"""mountPropagation."""
Mount = tuple[Path | str, str, int]
"""A volume: the directory on the node, in the container, and the propagation. One that is private is read-only."""
_CALL = """
import grpc, sys
socket, name, request = sys.argv[1:]
with grpc.insecure_channel("unix:" + socket) as channel:
    print(channel.unary_unary("/runtime.v1.RuntimeService/" + name)(bytes.fromhex(request), timeout=60).hex())
"""
_PAUSE = "int pause(void); int main(void) { for (;;) pause(); }"
_SETTINGS = """
version = 2
root = "{0}/root"
state = "{0}/state"
[grpc]
address = "{0}/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{1}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"""

Value = int | str | bytes | list["Value"] | dict[int, "Value"]


def packed(message: dict[int, Value]) -> bytes:
    """A message of protobuf, by the numbers of its fields. A list stands for a repeated one."""
    done = b""
    for number, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int):
                done += _varint(number << 3) + _varint(each)
            else:
                assert not isinstance(each, list)
                data = packed(each) if isinstance(each, dict) else each.encode() if isinstance(each, str) else each
                done += _varint(number << 3 | 2) + _varint(len(data)) + data
    return done


def unpacked(data: bytes) -> dict[int, int | bytes]:
    """The fields of a message; of a repeated one the last."""
    found: dict[int, int | bytes] = {}
    file = io.BytesIO(data)
    while file.tell() < len(data):
        key = _read_varint(file)
        value = _read_varint(file)
        found[key >> 3] = file.read(value) if key & 7 else value
    return found


def _varint(value: int) -> bytes:
    done = bytearray()
    while value > 127:
        done.append(value & 127 | 128)
        value >>= 7
    return bytes([*done, value])


def _read_varint(file: io.BytesIO) -> int:
    value = shift = 0
    while True:
        (byte,) = file.read(1)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


class Result(NamedTuple):
    """Of a program in a container. status: negative never."""

    stdout: str
    stderr: str
    status: int


class Pod(NamedTuple):
    """A pod with its one container, by their names for the runtime."""

    sandbox: str
    container: str


class Cri(HiddenDaemon):
    """A containerd that is ready, with the image. root: of the image's files, which get a program that waits."""

    def __init__(self, directory: Path, packages: Packages, root: Path) -> None:
        packages.need("containerd", "runc")
        packages.need("python3-grpcio")
        super().__init__(directory, packages)
        modules = packages.root / "usr/lib/python3/dist-packages"
        self.environment = {**self.environment, "PYTHONPATH": str(modules)}
        (directory / "settings.toml").write_text(_SETTINGS.format(directory, IMAGE))
        try:
            self.start(packages.program("containerd"), "--config", directory / "settings.toml")
            subprocess.run(["cc", "-static", "-xc", "-", "-o", root / "pause"], input=_PAUSE, text=True, check=True,
                           timeout=60 * PATIENCE)  # fmt: skip
            archive = directory / "image.tar"
            archive.write_bytes(_image(root))
            client = (packages.program("ctr"), "--address", directory / "socket", "--namespace", "k8s.io")
            done = self.call(*self.inside(*client, "images", "import", "--snapshotter", "native", archive))
            assert not done.returncode, done.stderr
        except BaseException:
            self.close()
            raise

    def is_ready(self) -> bool:
        with suppress(AssertionError):
            return (self.directory / "socket").exists() and bool(self.ask("Version", {}))
        return False

    def ask(self, name: str, message: dict[int, Value]) -> dict[int, int | bytes]:
        """A call of the runtime's service."""
        line = ("/usr/bin/python3", "-c", _CALL, self.directory / "socket", name, packed(message).hex())
        done = self.call(*line)
        assert not done.returncode, done.stderr
        return unpacked(bytes.fromhex(done.stdout))

    def begin(
        self, name: str, *mounts: Mount, profile: Path | None = None, privileged: bool = False,
        program: Sequence[str] = ("/pause",),
    ) -> Pod:  # fmt: skip
        """Start a pod on the node's network. profile: of seccomp, else the runtime's default one."""
        kind, file = (DEFAULT, "") if profile is None else (LOCALHOST, str(profile))
        pod: dict[int, Value] = {
            1: {1: name, 2: name, 3: "default"}, 3: str(self.directory),
            8: {1: f"/{self.group}", 2: {1: {1: ON_THE_NODE}, 6: int(privileged), 9: {1: DEFAULT}}},
        }  # fmt: skip
        sandbox = _text(self.ask("RunPodSandbox", {1: pod})[1])
        bound: list[Value] = [
            {1: inside, 2: str(outside), 3: int(propagation == PRIVATE), 5: propagation}
            for outside, inside, propagation in mounts
        ]
        container: dict[int, Value] = {
            1: {1: name}, 2: {1: IMAGE}, 3: list(program), 7: bound, 11: f"{name}.log",
            15: {2: {2: int(privileged), 3: {1: ON_THE_NODE}, 15: {1: kind, 2: file}}},
        }  # fmt: skip
        made = _text(self.ask("CreateContainer", {1: sandbox, 2: container, 3: pod})[1])
        self.ask("StartContainer", {1: made})
        return Pod(sandbox, made)

    def execute(self, pod: Pod, *program: str) -> Result:
        """Run a program in the pod's container to its end."""
        said = self.ask("ExecSync", {1: pod.container, 2: list(program), 3: 60})
        status = said.get(3, 0)
        assert isinstance(status, int)
        return Result(_text(said.get(1, b"")), _text(said.get(2, b"")), status)

    def end(self, pod: Pod, seconds: int = 0) -> None:
        """Remove a pod. seconds: until its program is killed."""
        self.ask("StopContainer", {1: pod.container, 2: seconds})
        self.ask("StopPodSandbox", {1: pod.sandbox})
        self.ask("RemovePodSandbox", {1: pod.sandbox})


def _text(value: int | bytes) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def _image(root: Path) -> bytes:
    """An image of these files, as `docker save` writes one."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(root, ".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    settings = {
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": json.dumps(settings).encode()}
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, data in {**files, "layer.tar": layer.getvalue()}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return whole.getvalue()
