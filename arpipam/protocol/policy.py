"""What to do when another station uses an address that we hold (RFC 5227, 2.4), and which of two claims is older.

Everything here is a pure function of its arguments. `decide` names one of three decisions; acd.py carries it out.
"""

from __future__ import annotations

from enum import StrEnum

FIRST_RELEASE = 1_767_225_600_000_000
"""2026-01-01 UTC in microseconds since 1970. No claim is older than the program."""
MAX_OLDER_CLAIM = 10 * 365.25 * 86_400
"""Seconds. A claim that says it is older than ours by more than this is not believed."""
CLOCK_TOLERANCE = 86_400.0
"""Seconds by which another host's clock may be ahead of ours."""
_MICROSECONDS = 1_000_000


class Policy(StrEnum):
    """What to do about a conflict over an address that we hold (RFC 5227, 2.4)."""

    NEVER = "never"
    """(a) Give the address up at once."""
    ONCE = "once"
    """(b) Defend it, and give it up at the second conflict within DEFEND_INTERVAL."""
    ALWAYS = "always"
    """(c) Defend it always, with at most one announcement in DEFEND_INTERVAL."""
    REPORT = "report"
    """Neither defend it nor give it up: the caller hears of it and decides."""


class Decision(StrEnum):
    """The answer to one conflict."""

    DEFEND = "defend"
    """Keep the address, and announce it unless that was done within DEFEND_INTERVAL."""
    REPORT = "report"
    """Keep it and send nothing; the caller hears of it."""
    GIVE_UP = "give up"


def decide(policy: Policy, *, older: bool | None, recently_defended: bool, guarding: bool) -> Decision:
    """The decision on one conflict.

    `older`: whether ours is the older of two claims, None where that is not known; it goes before the policy.
    `recently_defended`: we announced the address because of a conflict within DEFEND_INTERVAL.
    `guarding`: the owner uses the address itself, so giving it up would not take it out of use.
    """
    if older is True:
        return Decision.DEFEND
    if older is False:
        return Decision.REPORT if guarding else Decision.GIVE_UP
    if policy is Policy.REPORT:
        return Decision.REPORT
    if policy is Policy.NEVER or (policy is Policy.ONCE and recently_defended):
        return Decision.GIVE_UP
    return Decision.DEFEND


def is_older(
    ours: tuple[int, bytes],
    theirs: tuple[int, bytes],
    *,
    time_of_day: float | None = None,
    max_older_claim: float = MAX_OLDER_CLAIM,
) -> bool | None:
    """Whether our claim is the older one; None where one side does not say since when it has the address.

    A claim is when it was made, in microseconds since 1970 (0: not said), and its MAC; of two from the same microsecond
    the one with the lower MAC is older. `time_of_day`: seconds since 1970, None where it is not known.

    What the other side says is bounded, not proven: a date before FIRST_RELEASE, in the future, or more than
    `max_older_claim` seconds before ours counts as not said, but within these bounds a station may lie.
    """
    (our_date, _), (their_date, _) = ours, theirs
    if our_date < FIRST_RELEASE or their_date < FIRST_RELEASE:
        return None
    if our_date - their_date > max_older_claim * _MICROSECONDS:
        return None
    if time_of_day is not None and their_date > (time_of_day + CLOCK_TOLERANCE) * _MICROSECONDS:
        return None
    return ours < theirs
