"""The harness finds a fault that is put in on purpose, on real links."""

from __future__ import annotations

import re

import pytest

from bench import faults, harness
from bench.scenarios import SCENARIOS
from bench.scenarios.concurrent import ARTICLE, Concurrent
from bench.scenarios.false_free import ADAPTIVE, FalseFree

SEED = 1
FREE = r"arpipam.* called free"
TWICE = r"^[1-9]\d* of arpipam's claimers have an address that is not theirs alone"
WITHOUT = r"^[1-9]\d* more claimers than expected got nothing"  # one probe misses the bound: no verdict
UNANSWERED = r"at worst \d+ ms without an answer after the claim"


@pytest.mark.parametrize(
    ("fault", "scenario", "found"),
    [
        ("one-probe", "false-free", FREE),
        ("one-probe", "concurrent", WITHOUT),
        ("no-witness", "false-free", FREE),
        ("no-witness", "concurrent", TWICE),
        ("no-defence", "concurrent", TWICE),
        ("no-defence", "handover", UNANSWERED),
    ],
)
def test_a_fault_turns_the_check_red_that_looks_for_it(
    fault: str, scenario: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FalseFree, "cases", lambda self: [_only(case, ADAPTIVE) for case in _cases(self)])
    monkeypatch.setattr(Concurrent, "cases", lambda self: [_without(case, ARTICLE) for case in _cases(self)])
    with faults.FAULTS[fault]():
        outcome = harness.run(SCENARIOS[scenario](quick=True), SEED)
    red = [finding.text for finding in outcome.findings if finding.red]
    assert any(re.search(found, text) for text in red), outcome.findings
    assert [sample.error for sample in outcome.samples if sample.error] == []  # it is a verdict, not a broken run


_FALSE_FREE, _CONCURRENT = FalseFree.cases, Concurrent.cases


def _cases(scenario: FalseFree | Concurrent) -> list[harness.Case]:
    return list(_FALSE_FREE(scenario) if isinstance(scenario, FalseFree) else _CONCURRENT(scenario))


def _only(case: harness.Case, subject: str) -> harness.Case:
    """That subject alone: what the peers do takes time and is not in question."""
    others = {"arpipam, lan", "arpipam, rfc5227", "arping -D -c 1 -w 1", "arp-scan"} - {subject}
    return harness.Case(case.vary, case.turns, {**case.fewer, **dict.fromkeys(others, 0)})


def _without(case: harness.Case, subject: str) -> harness.Case:
    return harness.Case(case.vary, case.turns, {**case.fewer, subject: 0})
