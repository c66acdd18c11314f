"""A network that falls apart while containers come and go, and that heals; claims of one address that meet then."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from arpipam.lab.capture import who_have
from tests.lab import fabrics
from tests.lab.agents import AgentOn, Load, assert_one_holder_each, last_lines
from tests.lab.fabrics import ARPIPAM, edit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from subprocess import CompletedProcess

    from arpipam.lab import Host, Lab, Wire
    from launcher.agent.views import Event

READY = 4
SHARED = "172.16.42.77"


def whole(lab: Lab, count: int, **network: object) -> tuple[Wire, list[AgentOn]]:
    """So many hosts with engines and agents, and a network with ready addresses on each."""
    wire, hosts = fabrics.declare(lab, count, engine=True, bridge="lan0")
    agents = [AgentOn(host, agent={"quarantine": 2, "compare": 2}, ready=READY, **network).start() for host in hosts]
    for agent in agents:
        agent.make_network()
    for agent in agents:
        agent.wait_ready(READY)
    return wire, agents


def status(agent: AgentOn) -> CompletedProcess[str]:
    return agent.host.command(ARPIPAM, "agent", "status", "--socket", str(agent.socket))


def state(agent: AgentOn) -> str:
    [network] = agent.client.status().networks
    return network.state


def events(agent: AgentOn, kind: str) -> list[Event]:
    """Those of this kind so far."""
    with agent.client.events(recent=True) as stream:
        found = []
        for event in stream:
            found.append(event)
            if len(found) == len(recent(agent)):
                break
    return [event for event in found if event.kind == kind]


@pytest.mark.parametrize("count", [2, 3])
def test_each_part_hands_out_what_was_ready_and_then_names_the_silent_hosts(lab: Lab, count: int) -> None:
    """Two hosts, and two against one."""
