"""Runs a hypothesis state machine for so many steps, from a seed that is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.profile import count, seeded

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

STEPS = count("STEPS", day=1000, night=20_000)
"""In all, ..."""
AT_ONCE = 50
"""... in runs of so many."""


def run_steps(machine: type[RuleBasedStateMachine]) -> None:
    """Run it; ARPIPAM_STEPS and ARPIPAM_SEED say how long, and which run again."""
    run_state_machine_as_test(
        seed(seeded().getrandbits(32))(machine),
        settings=settings(
            max_examples=max(1, STEPS // AT_ONCE),
            stateful_step_count=AT_ONCE,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
