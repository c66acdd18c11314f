"""An agent that has no processor for a while: what it held meanwhile may have been taken by others."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.agents import assert_one_holder_each, running, two_agents

if TYPE_CHECKING:
    from arpipam.lab import Lab


@pytest.mark.slow
def test_what_was_taken_while_it_was_stopped_is_not_handed_out(lab: Lab) -> None:
    """Both sides settle it: the ready addresses are given up, and containers that met an older claim move."""
    with two_agents(lab, 24, ["172.16.42.3"]) as (agents, station):
        stopped, other = agents
        stopped.wait_ready(4)
        ready = [address for address, lease in stopped.leases().items() if lease.state == "ready"]
        assert stopped.process is not None
        os.kill(stopped.process.pid, signal.SIGSTOP)
        for n, address in enumerate(ready):
            other.run(f"taker{n}", "--ip", address)  # nobody answers for it
        taken = {address for address, _ in running(other).values()}
        assert taken == set(ready)
        os.kill(stopped.process.pid, signal.SIGCONT)
        for n in range(len(ready)):
            stopped.run(f"late{n}")
        here = {address for address, _ in running(stopped).values()}
        assert not here & taken
        count = 2 * len(ready)
        other.wait(lambda: len({address for address, _ in running(other).values()} | here) == count)
        assert assert_one_holder_each(agents, station) == count
