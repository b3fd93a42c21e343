"""The benchmark measures what it says, on real mounts; how fast it is, is not a test's business."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from cryptofs.benchmark import rig
from cryptofs.benchmark.goals import Goals, Result

pytestmark = pytest.mark.mount


def test_a_table_with_json_and_plot(tmp_path: Path) -> None:
    """Every row is there with figures that can be true, in the table, in JSON and in the plot."""
    done = subprocess.run(
        [sys.executable, "-m", "cryptofs", "benchmark", "--seconds", "0.02", "-n", "sha256",
         "--json", str(tmp_path / "run.json"), "--svg", str(tmp_path / "run.svg")],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "run.json").read_text())["rows"]
    assert {"empty file system", "pyca directly", "openssl"} <= {row["what"] for row in rows}
    assert {row["batch"] for row in rows} == {1, 8, 64}
    assert {row["in_flight"] for row in rows} == {1, 8, 64}
    assert {row["clients"] for row in rows} == {1, 2, 4}
    for row in rows:
        assert row["seconds"] > 0
        assert math.isclose(row["throughput"], row["rate"] * row["size"] * row["batch"] * row["in_flight"])
    assert "<svg" in (tmp_path / "run.svg").read_text()
    assert "sha256" in done.stdout


def test_goals_tell_what_holds() -> None:
    """A bound is kept, broken or not measured; nothing that was not measured counts as kept."""
    assert Result("", 1.0, 1.1, True, "").holds
    assert not Result("", 1.2, 1.1, True, "").holds
    assert Result("", 1.2, 1.1, False, "").holds
    assert Result("", None, 1.1, True, "").holds is None


def test_goals_are_measured() -> None:
    """Two of them, quickly: real figures of real round trips, and AF_ALG only where there is one."""
    with Goals(0.2) as goals:
        (batches,) = goals.batches()
        assert batches.figure is not None
        assert batches.figure > 0
        kernel = list(goals.one_record_on_af_alg())
        assert len(kernel) == 4
        assert all((result.figure is not None) == rig.has_af_alg() for result in kernel)
