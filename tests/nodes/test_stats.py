"""`stats`: what is in it, what it counts, and who sees a device's figures."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from helpers import device_mount
from helpers.configs import declare, write_private
from helpers.daemons import serving_config
from helpers.device_mount import DIGEST, KEYS, refused
from helpers.figures import families, figure
from helpers.other_user import GROUP, MEMBER, OWNER, STRANGER, as_user, let_in, needs_root
from helpers.stream_devices import open_stream, read_all
from helpers.waiting import wait_until

from cryptofs import __version__
from cryptofs.client import Context
from cryptofs.contexts.tally import SAMPLED
from cryptofs.devices import MESSAGES_MAX
from cryptofs.records import Operation, Record, build

pytestmark = pytest.mark.mount
daemon = device_mount.daemon

COUNTERS = ("requests", "requests_failed", "input_bytes", "output_bytes")


def counted(mount: Path, device: str | None = None) -> list[float]:
    """Requests, failures, bytes in and out: of all, or of one device."""
    found, prefix = families(mount), "cryptofs_" if device is None else "cryptofs_device_"
    labels = {} if device is None else {"device": device}
    return [sample.value for name in COUNTERS for sample in found[prefix + name].samples if sample.labels == labels]


def test_each_family_is_described(mount: Path) -> None:
    """Prometheus' parser reads the file; each family has a type and a help; the build is this one."""
    found = families(mount)
    assert all(family.documentation and family.type != "unknown" for family in found.values())
    assert all(name.startswith("cryptofs_") for name in found)
    (build_info,) = found["cryptofs_build_info"].samples
    assert build_info.labels["version"] == __version__
    assert build_info.labels["kernel"] == os.uname().release
    assert "openssl" in build_info.labels["engines"].split(",")
    with (mount / "stats").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == len(file.read())


@pytest.mark.parametrize("by_parts", [False, True])
def test_what_a_device_counts(mount: Path, by_parts: bool) -> None:
    """Requests, refusals and bytes, while its context is open and afterwards; the totals count the same."""
    before, all_before = counted(mount, "hmac"), counted(mount)
    with Context.of_device("hmac", mount=mount) as context:
        if by_parts:
            message = context.message(DIGEST)
            message.update(bytes(1000))
            message.finish(bytes(500))
        else:
            context.digest(bytes(1500))
        refused(95, lambda: context.encrypt(b"x"))
        during = counted(mount, "hmac")
        assert figure(mount, "cryptofs_device_contexts_open", device="hmac") == 1
    # the client's info, a digest in one or two parts, a refusal with a byte of data
    expected = [3.0 + by_parts, 1.0, 1501.0, 32.0]
    assert [now - then for now, then in zip(during, before, strict=True)] == expected
    assert counted(mount, "hmac") == during
    assert [now - then for now, then in zip(counted(mount), all_before, strict=True)] == expected
    lines = (mount / "devices/hmac/status").read_text().splitlines()
    status = dict(line.split(": ") for line in lines)
    assert [float(status[name]) for name in ("requests", "failed", "input-bytes", "output-bytes")] == during


def test_a_stream_counts_as_one_request(mount: Path) -> None:
    """One message, whatever it is written in; and one that fails."""
    before = counted(mount, "gcm")
    descriptor = open_stream(mount, "gcm", "encrypt")
    for _ in range(3):
        os.write(descriptor, bytes(1000))
    sealed = read_all(descriptor)
    os.close(descriptor)
    after = counted(mount, "gcm")
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 0, 3000, len(sealed)]
    descriptor = open_stream(mount, "gcm", "decrypt")
    refused(74, lambda: os.write(descriptor, bytes(1000)))
    os.close(descriptor)
    assert counted(mount, "gcm")[:2] == [after[0] + 1, after[1] + 1]


def test_messages_and_their_bound(mount: Path) -> None:
    """What a key has encrypted under nonces of the daemon's, and how much it may."""
    before = figure(mount, "cryptofs_device_messages_total", device="gcm")
    with Context.of_device("gcm", mount=mount) as context:
        context.encrypt(b"x")
        context.encrypt(b"x")
    assert figure(mount, "cryptofs_device_messages_total", device="gcm") == before + 2
    assert figure(mount, "cryptofs_device_messages_limit", device="gcm") == MESSAGES_MAX
    with pytest.raises(KeyError):
        figure(mount, "cryptofs_device_messages_limit", device="xts")


def test_durations(mount: Path) -> None:
    """A cumulative histogram whose last bucket is its count. A sample of short requests stands for all of them, many in
    one write count each, and so do long ones."""

    def samples() -> dict[str, float]:
        family = families(mount)["cryptofs_request_duration_seconds"]
        return {sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value for sample in family.samples}

    before = samples()
    rounds = 20 * SAMPLED
    with Context("hash", "sha256", mount=mount) as context:
        for _ in range(rounds):
            context.digest(b"x")
        os.write(context.fileno(), build(Record(Operation.DIGEST, 0, 900, 0, {}, b"x")) * 100)
        os.read(context.fileno(), 1 << 20)
        context.digest(bytes(1_000_000))
    after = samples()
    buckets = [value for name, value in after.items() if name not in ("count", "sum")]
    assert buckets == sorted(buckets)
    assert after["+Inf"] == after["count"]
    assert abs(after["count"] - before["count"] - rounds - 101) <= SAMPLED
    assert after["sum"] > before["sum"]


SEEN = """
import re, sys
mount = sys.argv[1]
text = open(mount + "/stats").read()
print(*sorted(set(re.findall('device="(.*?)"', text))))
found = []
for name in sys.argv[2:]:
    try:
        open(f"{mount}/devices/{name}/status").close()
        found.append(name)
    except PermissionError:
        pass
print(*found)
"""


@needs_root
def test_who_sees_a_device(mount: Path) -> None:
    """Those who may read its status, and nobody else: what others do with their devices is theirs."""
    let_in(mount)
    names = sorted(os.listdir(mount / "devices"))
    for uid, gid, groups, some in (
        (OWNER, OWNER, [], ["owned", "public"]),
        (MEMBER, GROUP, [], ["public", "shared"]),
        (MEMBER, MEMBER, [GROUP], ["public", "shared"]),
        (STRANGER, STRANGER, [], ["public"]),
        (0, 0, [], names),
    ):
        in_stats, readable = (line.split() for line in as_user(uid, gid, groups, SEEN, mount, *names))
        assert in_stats == readable == some


def test_reload_is_shown(tmp_path: Path) -> None:
    """When the configuration was loaded, and whether it could be; counts of a device outlive its declaration."""
    text = declare("mac", "hash", "hmac(sha256)", "{mac}")
    with serving_config(tmp_path, text, mac=KEYS["hmac"]) as daemon:
        mount, config = daemon.mountpoint, tmp_path / "cryptofs.toml"
        at = figure(mount, "cryptofs_config_last_reload_timestamp_seconds")
        with Context.of_device("mac", mount=mount) as context:
            context.digest(b"x")
        count = counted(mount, "mac")

        def reload(more: str) -> bool:
            nonlocal at
            config.write_text(declared + more)
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: figure(mount, "cryptofs_config_last_reload_timestamp_seconds") > at, 10)
            at = figure(mount, "cryptofs_config_last_reload_timestamp_seconds")
            return bool(figure(mount, "cryptofs_config_last_reload_successful"))

        declared = config.read_text()
        assert figure(mount, "cryptofs_config_last_reload_successful")
        assert not reload("nonsense")
        assert reload('mode = "0640"\n')
        assert counted(mount, "mac") == count


def test_versions_of_a_key(tmp_path: Path) -> None:
    """The newest one's number and messages, and how many are kept."""
    keys = tmp_path / "keys"
    keys.mkdir(0o700)
    for number in (1, 3):
        write_private(keys / str(number), bytes([number]) * 32)
    text = f'[devices.set]\ntype = "aead"\nname = "gcm(aes)"\nkey.directory = "{keys}"\nuser = {os.getuid()}\n'
    with serving_config(tmp_path, text) as daemon:
        mount = daemon.mountpoint
        with Context.of_device("set", mount=mount) as context:
            context.encrypt(b"x")
        names = ("key_version", "key_versions_kept", "messages_total")
        assert [figure(mount, f"cryptofs_device_{name}", device="set") for name in names] == [3, 2, 1]


def test_others_cannot_write_it(mount: Path) -> None:
    """As for any text of the tree."""
    with pytest.raises(OSError, match="stats") as caught:
        os.open(mount / "stats", os.O_WRONLY)
    assert caught.value.errno == 13


# What is written about them

DOCS = Path(__file__).parents[2] / "docs"


def test_the_document_names_each_family(mount: Path) -> None:
    """Those of the table, and no others."""
    lines = (DOCS / "monitoring.md").read_text().partition("## Prometheus")[0].splitlines()
    rows = [line for line in lines if line.startswith("| `cryptofs_")]
    documented = {name: row.split("|")[2].strip() for row in rows for name in re.findall("`(cryptofs_.*?)`", row)}
    ends = {"counter": "_total"}
    assert documented == {name + ends.get(each.type, ""): each.type for name, each in families(mount).items()}


def test_the_dashboard_names_what_exists(mount: Path) -> None:
    """Its queries use names and labels that `stats` has, and each family is on it."""
    with Context("hash", "sha256", mount=mount):
        families_here = families(mount)
    samples = {sample.name: set(sample.labels) for each in families_here.values() for sample in each.samples}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    used = set()
    for query in queries:
        names = re.findall(r"\bcryptofs_\w+", query)
        assert names, query
        labels = set(re.findall(r"[{,](\w+)=~", query)) - {"instance"}
        for name in names:
            assert name in samples, query
            assert labels <= samples[name], query
        used |= set(names)
    families_used = {name for name, each in families_here.items() if used & {sample.name for sample in each.samples}}
    assert families_used == set(families_here)
