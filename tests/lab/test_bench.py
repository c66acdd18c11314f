"""The harness end to end on real links: the shape of what it writes, and that it finds faults put in on purpose."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bench import faults, harness
from bench.__main__ import main
from bench.results import load
from bench.scenarios import SCENARIOS
from bench.scenarios.concurrent import ARTICLE, Concurrent
from bench.scenarios.false_free import ADAPTIVE, FalseFree

if TYPE_CHECKING:
    from pathlib import Path

SEED = 1


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_quick_run_writes_samples_tables_and_pictures(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [name, "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    run = load(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["format"] == run.format
    assert run.quick
    assert not run.red
    assert {"processors", "kernel", "memory"} <= run.machine.keys()
    assert {"arpipam", "Python", "arping"} <= run.versions.keys()
    [outcome] = run.outcomes
    assert outcome.name == name
    assert [sample.error for sample in outcome.samples if sample.error] == []
    assert outcome.reference in outcome.subjects()
    told = {metric.name for metric in outcome.metrics}
    for sample in outcome.samples:
        assert sample.values
        assert sample.values.keys() <= told
        assert sample.seed > 0
    report = (tmp_path / "report.md").read_text()
    for subject in outcome.subjects():
        assert subject in report
    for plot in SCENARIOS[name].plots:
        drawn = [tmp_path / f"{name}-{plot.name}.{kind}" for kind in ("png", "svg")]
        assert all(picture.exists() for picture in drawn) == (drawn[1].name in report)
    assert list(tmp_path.glob("*.svg"))


@pytest.mark.parametrize(
    ("fault", "scenario"),
    [
        ("one-probe", "false-free"),
        ("one-probe", "concurrent"),
        ("no-witness", "false-free"),
        ("no-witness", "concurrent"),
        ("no-defence", "concurrent"),
        ("no-defence", "handover"),
    ],
)
def test_a_fault_turns_it_red(fault: str, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FalseFree, "cases", lambda self: [_only(case, ADAPTIVE) for case in _cases(self)])
    monkeypatch.setattr(Concurrent, "cases", lambda self: [_without(case, ARTICLE) for case in _cases(self)])
    with faults.FAULTS[fault]():
        outcome = harness.run(SCENARIOS[scenario](quick=True), SEED)
    assert outcome.red, outcome.findings


_FALSE_FREE, _CONCURRENT = FalseFree.cases, Concurrent.cases


def _cases(scenario: FalseFree | Concurrent) -> list[harness.Case]:
    return list(_FALSE_FREE(scenario) if isinstance(scenario, FalseFree) else _CONCURRENT(scenario))


def _only(case: harness.Case, subject: str) -> harness.Case:
    """That subject alone: what the peers do takes time and is not in question."""
    others = {"arpipam, lan", "arpipam, rfc5227", "arping -D -c 1 -w 1", "arp-scan"} - {subject}
    return harness.Case(case.vary, case.turns, {**case.fewer, **dict.fromkeys(others, 0)})


def _without(case: harness.Case, subject: str) -> harness.Case:
    return harness.Case(case.vary, case.turns, {**case.fewer, subject: 0})
