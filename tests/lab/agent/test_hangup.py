"""A caller that hangs up in the midst of its request leaves nothing behind, at whatever moment."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from launcher.lab.agents import AgentOn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arpipam.lab import Lab

TRIES, STEP = 60, 0.0003
"""Requests, each cut off so many seconds later than the one before."""


def hang_up(agent: AgentOn, path: str, body: Mapping[str, object], after: float) -> None:
    """Ask, wait, and go."""
    data = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(agent.socket))
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        time.sleep(after)


@pytest.mark.parametrize("ready", [0, 8])
@pytest.mark.parametrize("by", ["docker", "arpipam-run"])
def test_a_caller_that_hangs_up_leaves_nothing_behind(lab: Lab, by: str, ready: int) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    lab.station("witness", wire, "172.16.42.2/24")
    settings = {"ready": ready, "most_ready": 2 * ready, "witness": ["172.16.42.2"]}
    with AgentOn(host, agent={"quarantine": 0}, **settings) as agent:
        status, said = agent.ask("IpamDriver.RequestPool", Pool="172.16.42.0/24", SubPool="", Options={}, V6=False)
        assert status == 200, said
        for turn in range(TRIES):
            if by == "docker":
                mac = {"com.docker.network.endpoint.macaddress": f"02:42:00:00:00:{turn:02x}"}
                body = {"PoolID": said["PoolID"], "Address": "", "Options": mac}
                hang_up(agent, "/IpamDriver.RequestAddress", body, turn * STEP)
            else:
                wish = {"interface": "lan0", "subnet": "172.16.42.0/24", "owner": f"run{turn}"}
                hang_up(agent, "/arpipam/claims", wish, turn * STEP)

        def left() -> list[str]:
            leases = [lease for lease in agent.client.leases() if lease.owner != "ready"]
            return [str(lease) for lease in leases if lease.state != "quarantined"]

        agent.wait(lambda: not left(), told=lambda: "\n".join(left()))
