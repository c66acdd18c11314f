"""The harness finds a fault that is put in on purpose, on real links."""

from __future__ import annotations

import pytest

from bench import faults, harness
from bench.scenarios import SCENARIOS
from bench.scenarios.concurrent import ARTICLE, Concurrent
from bench.scenarios.false_free import ADAPTIVE, FalseFree

SEED = 1


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
