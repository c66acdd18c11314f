"""A pytest plugin for mutation runs: few examples of each property, the same ones each time, and no slow test."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# A mutant is judged by one run: a property that draws other examples each time would give another verdict each time.
settings.register_profile(
    "mutation",
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutation")
os.environ.setdefault("ARPIPAM_SEED", "1")  # for those that take their seed from tests/support/profile.py

# A break may make a loop endless: it must not take the memory of the machine with it.
MOST_MEMORY = 3 << 30
resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))

SLOW = (
    "tests/leases/test_contract_steps.py",
    "test_a_killed_process_lets_go_but_its_child_holds_on",
    "test_a_process_that_is_killed_while_it_writes_loses_nothing_it_was_told",
    "test_eight_processes_",
    "test_a_flood_of_",
    "test_a_folder_that_cannot_be_written_is_named_with_the_remedy",  # runs as another user, who cannot read mutmut
    "test_races_of_eight_for_one_address_have_one_owner_at_most",
    "test_a_used_address_is_never_called_free",
    "test_the_stated_chance",
    "test_different_owners_seldom_meet",
    "test_eight_searches_of_one_host_take_no_longer_than_on_eight_hosts_and_half_the_frames",
    "test_no_frame_makes_it_crash_or_give_out_a_used_address",
    "test_nor_by_searches_that_share_their_witness",
    "test_sixty_four_at_once_get_sixty_four_addresses_even_when_there_are_no_more",
    "test_sixty_four_at_once_take_at_most_twice_the_time_of_one",
    "test_two_claimers_of_the_standards_own_timing_never_share",
)
"""Each mutant that lives runs every test that reaches it, and through the trampolines of mutmut a long simulation takes
five times as long: these would take more time than all others together."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = [item for item in items if any(name in item.nodeid for name in SLOW)]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
