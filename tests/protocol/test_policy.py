"""What follows a conflict: every case of `decide`, and every bound on the date that another claim gives."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.protocol.policy import (
    CLOCK_TOLERANCE,
    FIRST_RELEASE,
    MAX_OLDER_CLAIM,
    Decision,
    Policy,
    decide,
    is_older,
)

DEFEND, REPORT, GIVE_UP = Decision.DEFEND, Decision.REPORT, Decision.GIVE_UP
FACTS = list(product((False, True), (False, True)))
"""Recently defended, and guarding."""
OURS = FIRST_RELEASE + 20 * 365 * 86_400 * 1_000_000
LOW, HIGH = b"\x02" * 6, b"\x06" * 6


@pytest.mark.parametrize(("recently", "guarding"), FACTS)
@pytest.mark.parametrize("policy", Policy)
def test_which_claim_is_older_goes_before_the_policy(policy: Policy, recently: bool, guarding: bool) -> None:  # noqa: FBT001 - from the table
    assert decide(policy, older=True, recently_defended=recently, guarding=guarding) is DEFEND
    younger = REPORT if guarding else GIVE_UP
    assert decide(policy, older=False, recently_defended=recently, guarding=guarding) is younger


@pytest.mark.parametrize("guarding", [False, True])
@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        (Policy.NEVER, GIVE_UP, GIVE_UP),
        (Policy.ONCE, DEFEND, GIVE_UP),
        (Policy.ALWAYS, DEFEND, DEFEND),
        (Policy.REPORT, REPORT, REPORT),
    ],
)
def test_else_the_policy_decides_on_the_first_and_the_second_conflict(
    policy: Policy,
    first: Decision,
    second: Decision,
    guarding: bool,  # noqa: FBT001 - from the table
) -> None:
    assert decide(policy, older=None, recently_defended=False, guarding=guarding) is first
    assert decide(policy, older=None, recently_defended=True, guarding=guarding) is second


def test_the_earlier_date_is_older_and_of_two_alike_the_lower_mac() -> None:
    assert is_older((OURS, HIGH), (OURS + 1, LOW)) is True
    assert is_older((OURS, LOW), (OURS - 1, HIGH)) is False
    assert is_older((OURS, LOW), (OURS, HIGH)) is True
    assert is_older((OURS, HIGH), (OURS, LOW)) is False


@pytest.mark.parametrize("date", [0, 1, FIRST_RELEASE - 1])
def test_a_date_before_the_first_release_says_nothing_ours_or_theirs(date: int) -> None:
    assert is_older((FIRST_RELEASE, LOW), (date, HIGH)) is None
    assert is_older((date, LOW), (FIRST_RELEASE, HIGH)) is None
    assert is_older((FIRST_RELEASE + 1, LOW), (FIRST_RELEASE, HIGH)) is False


def test_a_claim_may_be_older_than_ours_by_ten_years_and_not_by_more() -> None:
    furthest = OURS - round(MAX_OLDER_CLAIM * 1_000_000)
    assert is_older((OURS, LOW), (furthest, HIGH)) is False
    assert is_older((OURS, LOW), (furthest - 1, HIGH)) is None
    assert is_older((OURS, LOW), (OURS - 60_000_000, HIGH), max_older_claim=60) is False
    assert is_older((OURS, LOW), (OURS - 60_000_001, HIGH), max_older_claim=60) is None
    assert is_older((furthest - 1, LOW), (OURS, HIGH)) is True  # what we know of ourselves needs no bound


def test_a_date_in_the_future_says_nothing_where_the_time_is_known() -> None:
    now = OURS / 1_000_000
    latest = OURS + round(CLOCK_TOLERANCE * 1_000_000)
    assert is_older((OURS, LOW), (latest, HIGH), time_of_day=now) is True
    assert is_older((OURS, LOW), (latest + 1, HIGH), time_of_day=now) is None
    assert is_older((OURS, LOW), (latest + 1, HIGH)) is True


CLAIMS = st.tuples(st.integers(FIRST_RELEASE, FIRST_RELEASE + 10**14), st.sampled_from([LOW, HIGH]))


@given(CLAIMS, CLAIMS)
def test_two_claims_that_believe_each_other_agree(one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
    if one != other:
        assert is_older(one, other) is not is_older(other, one)


def test_a_claim_from_the_very_first_moment_counts_and_none_is_older_than_itself() -> None:
    first, second = (FIRST_RELEASE, b"\x02\0\0\0\0\1"), (FIRST_RELEASE + 1, b"\x02\0\0\0\0\1")
    assert is_older(first, second) is True
    assert is_older(second, first) is False
    assert is_older(first, first) is False
