"""The attacks of the stress program: a daemon that holds others up is found, one that does not is not."""

from pathlib import Path

import pytest
from helpers.other_user import ROOT
from stress import attacks
from stress.attacks import GROWTH_MAX, Attacked
from stress.bystander import Beats, Waits

needs_users = pytest.mark.skipif(not ROOT, reason="NOT RUN: only root can be several users")


def figures(seconds: float = 0.001, alone: float = 0.001, echo: float = 0.001, late: float = 0.0) -> Attacked:
    """An attack beside which each request took so long, and the last one `late` more."""
    return Attacked(
        "some",
        Waits([alone] * 9, []),
        Waits([seconds] * 8 + [seconds + late], []),
        Waits([echo] * 9, []),
        done=100,
        silence=1.0,
    )


def verdict(attacked: Attacked, log: str = "", *died: int) -> str:
    """What is judged."""
    attacked.judge(log, list(died))
    return attacked.verdict


def test_verdicts() -> None:
    """Each bound, what lies within, and a machine that is too busy to tell."""
    assert verdict(figures()) == "ok"
    assert verdict(figures(0.019, late=0.2)) == "ok"
    assert verdict(figures(0.030, echo=0.015)) == "ok"
    assert verdict(figures(0.025)) == "median 24 ms more, at most 20"
    assert verdict(figures(late=0.3)) == "worst 300 ms more, at most 250"
    assert "NOT JUDGED: two processes" in verdict(figures(late=0.6, echo=0.3))
    assert "NOT JUDGED: without an attack" in verdict(figures(late=0.6, alone=0.3))
    silent, grown, idle = figures(), figures(), figures()
    silent.silence, grown.growth, idle.done = Beats.SECONDS + 0.5, GROWTH_MAX + 1, 0
    assert verdict(silent) == "no beat for 2.5 s"
    assert verdict(grown).startswith("grew by ")
    assert "did not go on" in verdict(idle)
    assert "did not go on" in verdict(figures(), "", 1)
    assert "NOT JUDGED: this machine" in verdict(figures(), "", attacks.NOT_HERE, attacks.NOT_HERE)
    assert "traceback" in verdict(figures(), "Traceback (most recent call last)")
    wrong = figures()
    wrong.beside.wrong.append("digest 3 is wrong")
    assert verdict(wrong) == "digest 3 is wrong"


@needs_users
@pytest.mark.mount
@pytest.mark.parametrize("slow", [False, True])
def test_a_daemon_that_holds_others_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """One that sleeps in its event loop whenever somebody reads stats, and one that does not."""
    monkeypatch.setattr(attacks, "SECONDS", 1.0)
    if slow:
        (tmp_path / "sitecustomize.py").write_text(
            "import time\nfrom cryptofs.nodes.stats import StatsFile\nopen_it = StatsFile.open\n"
            "def late(*arguments):\n    time.sleep(0.4)\n    return open_it(*arguments)\n"
            "StatsFile.open = late\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (found,) = attacks.run(["status files"], lambda name: None)
    assert found.name == "status files"
    assert found.done > 0
    if slow and not found.unjudged:
        assert "ms more, at most" in found.verdict, found
    if not slow and not found.unjudged:
        assert not found.wrong, found
