"""What the report says of what was noted."""

from __future__ import annotations

import pytest

from launcher.lab.soak.acts import Done
from launcher.lab.soak.journal import Journal
from launcher.lab.soak.judge import Evidence, Report, judge
from launcher.lab.soak.observers import Container, Look, Seen
from launcher.lab.soak.plan import HOSTS, Step
from launcher.lab.soak.world import Trouble

A, ONE, TWO = "172.16.42.40", "02:00:00:00:00:01", "02:00:00:00:00:02"


def noted(*spells: tuple[float, float, str]) -> Journal:
    """Who answered, at every post, from when to when; nobody before and after."""
    journal = Journal(HOSTS)
    for number in range(400):
        at = number * 0.25
        macs = " ".join(macs for since, until, macs in spells if since <= at < until)
        journal.note(at, {A: tuple(frozenset(macs.split()) for _ in HOSTS)})
    return journal


def shown(state: str, since: float, until: float, *, named: str = "") -> Seen:
    """What host1's engine said of one container, once a second."""
    address, mac = (A, ONE) if state == "running" else ("", "")
    container = Container("1", "c1", address, mac, state, named)
    seen = Seen({host: [] for host in HOSTS})
    seen.looks["host1"] = [Look(at, at + 0.1, {"c1": container}) for at in range(int(since), int(until))]
    return seen


def report(journal: Journal, *troubles: Trouble, seen: Seen | None = None, done: tuple[Done, ...] = ()) -> Report:
    return judge(Evidence(journal, seen or Seen({host: [] for host in HOSTS}), troubles, done))


def test_a_duplicate_is_wrong() -> None:
    made = report(noted((1, 9, ONE), (3, 5, TWO)))
    assert len(made.wrong["duplicates"]) == 1
    assert not made.is_clean


@pytest.mark.parametrize(("what", "clean"), [("cut", True), ("agent stopped", True), ("port", False), ("flood", False)])
def test_a_duplicate_that_a_cut_made_and_that_ended_is_named(what: str, *, clean: bool) -> None:
    made = report(noted((1, 90, ONE), (3, 12, TWO)), Trouble(what, "host1", 2, 8))
    assert made.is_clean is clean
    assert bool(made.by_cuts) is clean


def test_a_duplicate_that_outlives_its_cut_is_wrong() -> None:
    assert not report(noted((1, 90, ONE), (3, 60, TWO)), Trouble("cut", "host1", 2, 8)).is_clean


def test_a_station_that_has_lost_its_address_is_harmed() -> None:
    seen = Seen({host: [] for host in HOSTS}, harmed=[(5.0, "pi", A)])
    assert len(report(noted((1, 5, TWO)), seen=seen).wrong["stations harmed"]) == 1


def test_of_two_owners_that_a_cut_made_one_has_to_go() -> None:
    seen = Seen({host: [] for host in HOSTS}, harmed=[(12.0, "pi", A)])
    assert report(noted((1, 90, ONE), (3, 12, TWO)), Trouble("cut", "host1", 2, 8), seen=seen).is_clean


def test_a_container_that_nobody_answers_for_is_missed() -> None:
    quiet = noted((1, 10, ONE), (13, 90, ONE))
    assert len(report(quiet, seen=shown("running", 5, 20)).wrong["answers missing"]) == 1
    assert report(quiet, seen=shown("running", 2, 10)).is_clean


@pytest.mark.parametrize(("step", "clean"), [("stop", True), ("run", False)])
def test_a_container_that_docker_is_about_to_stop_is_not_missed(step: str, *, clean: bool) -> None:
    done = Done(9, 14, Step(9, step, "host1", "c1"))
    assert report(noted((1, 10, ONE)), seen=shown("running", 5, 14), done=(done,)).is_clean is clean


def test_the_agent_has_to_answer_for_the_address_of_a_stopped_container() -> None:
    seen = shown("exited", 5, 40, named=A)
    assert len(report(noted((1, 10, ONE), (20, 90, ONE)), seen=seen).wrong["answers missing"]) == 1
    assert report(noted((1, 90, ONE)), seen=seen).is_clean
    assert report(noted((1, 10, ONE), (20, 90, ONE)), Trouble("agent killed", "host1", 9, 15), seen=seen).is_clean


@pytest.mark.parametrize(
    ("trouble", "said", "is_just"),
    [
        (None, "no address", False),
        (Trouble("cut", "host2", 4, 9), "no answer from host2", True),
        (Trouble("agent killed", "host1", 4, 9), "plugin not found", True),
        (Trouble("agent killed", "host2", 4, 9), "no address", False),
        (Trouble("port", "host1", 4, 9), "no address", False),
        (Trouble("cut", "host2", 50, 59), "no answer from host2", False),
    ],
)
def test_a_refusal_needs_a_cause(trouble: Trouble | None, said: str, *, is_just: bool) -> None:
    done = Done(10, 11, Step(10, "run", "host1", "c1"), said)
    made = report(noted(), *([trouble] if trouble else []), done=(done,))
    assert made.is_clean is is_just
    assert made.refused.total() == 1


@pytest.mark.parametrize("taken", [True, False])
def test_an_address_that_somebody_has_may_be_refused(*, taken: bool) -> None:
    done = Done(10, 11, Step(10, "run named", "host1", "c1", A), f"{A} is in use by {ONE}")
    assert report(noted((8, 12, ONE)) if taken else noted(), done=(done,)).is_clean is taken
