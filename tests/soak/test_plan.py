"""The plan of a soak: the same from the same seed, and one that hosts can live through."""

from __future__ import annotations

from itertools import combinations

import pytest

from launcher.lab.soak import plan as planning
from launcher.lab.soak.plan import FAULTS, HOSTS, plan

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_makes_the_same_plan(seed: int) -> None:
    assert plan(seed, 120) == plan(seed, 120)
    assert plan(seed, 120) != plan(seed + 1, 120)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_longer_soak_begins_as_a_shorter_one(seed: int) -> None:
    short = plan(seed, 60)
    assert [step for step in plan(seed, 600) if step in short] == short


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_ends_before_the_soak_does(seed: int) -> None:
    assert all(step.at + step.lasts < 120 for step in plan(seed, 120))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_has_one_fault_at_a_time_and_one_host_is_cut_off(seed: int) -> None:
    faults = [step for step in plan(seed, 600) if step.what in FAULTS]
    assert faults
    for one, other in combinations(faults, 2):
        if one.where == other.where or {one.what, other.what} <= {"cut", "cable"}:
            assert one.at + one.lasts < other.at


def test_ten_minutes_have_everything_in_them() -> None:
    steps = plan(1, 600)
    assert {step.what for step in steps} == {*planning.CONTAINERS, *FAULTS, *planning.NEIGHBOURS}
    assert {step.where for step in steps if step.what in FAULTS} == set(HOSTS)
