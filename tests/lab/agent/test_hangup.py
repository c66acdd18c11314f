"""A caller that hangs up in the midst of its request leaves nothing behind, at whatever moment."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from launcher.lab.agents import AgentOn
from tests.support.profile import by_day, count
from tests.support.until import LONG

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from arpipam.lab import Lab

TRIES = count("HANGUPS", day=30, night=60)
"""Requests, each cut off a little later than the one before: from at once until after the answer."""
LONGER = 1.3
"""The last cut comes after so many times the duration of a whole request."""


class Cut(NamedTuple):
    """A request that its caller left."""

    address: str
    """What the answer says, where there was one in time."""
    seconds: float


def hang_up(agent: AgentOn, path: str, body: Mapping[str, object], after: float | None) -> Cut:
    """Ask, wait so many seconds or until the answer comes, and go."""
    data = json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(agent.socket))
        sock.settimeout(LONG)
        started = time.monotonic()
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        if after is None:
            select.select([sock], [], [], LONG)
        else:
            time.sleep(after)
        seconds = time.monotonic() - started
        sock.shutdown(socket.SHUT_WR)  # the agent hears the end, and what it answered before can still be read
        head, _, answer = b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")
        found = re.search(r"\d+\.\d+\.\d+\.\d+", answer.decode())
        assert bool(found) == head.startswith(b"HTTP/1.1 200"), head + answer
        return Cut(found[0] if found else "", seconds)


CALLERS = [(by, ready) for by in ("docker", "arpipam-run") for ready in (0, 8)]


@pytest.mark.parametrize(("by", "ready"), by_day(CALLERS, ("docker", 0), ("arpipam-run", 8)))
def test_a_caller_that_hangs_up_leaves_nothing_behind(lab: Lab, by: str, ready: int) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    lab.station("witness", wire, "172.16.42.2/24")
    settings = {"ready": ready, "most_ready": 2 * ready, "witness": ["172.16.42.2"]}
    with AgentOn(host, agent={"quarantine": 0}, **settings) as agent:
        status, said = agent.ask("IpamDriver.RequestPool", Pool="172.16.42.0/24", SubPool="", Options={}, V6=False)
        assert status == 200, said

        def cut(turn: int, after: float | None) -> Cut:
            if by == "docker":
                mac = {"com.docker.network.endpoint.macaddress": f"02:42:00:00:00:{turn:02x}"}
                body = {"PoolID": said["PoolID"], "Address": "", "Options": mac}
                return hang_up(agent, "/IpamDriver.RequestAddress", body, after)
            wish = {"interface": "lan0", "subnet": "172.16.42.0/24", "owner": f"run{turn}"}
            return hang_up(agent, "/arpipam/claims", wish, after)

        def settle(*cuts: Cut) -> None:
            """Docker has the addresses that it got; those of a run end with its connection."""
            kept.update(one.address for one in cuts if by == "docker")
            agent.wait(lambda: not left(agent, kept), told=lambda: "\n".join(left(agent, kept)))

        kept: set[str] = set()
        agent.wait_ready(ready)
        settle(cut(TRIES + 3, None))  # the first one also waits for the engine to show its new network
        whole = [cut(TRIES + number, None) for number in range(3)]
        settle(*whole)
        longest = LONGER * max(one.seconds for one in whole)
        cuts = [cut(turn, longest * turn / TRIES) for turn in range(TRIES)]
        settle(*cuts)
        # Enough of them came in the midst of the work: after a third of its shortest time, and before the answer.
        begun = min(one.seconds for one in whole) / 3
        assert sum(one.seconds > begun and not one.address for one in cuts) > TRIES / 4, cuts


def left(agent: AgentOn, kept: Collection[str]) -> list[str]:
    leases = [lease for lease in agent.client.leases() if lease.owner != "ready" and lease.address not in kept]
    return [str(lease) for lease in leases if lease.state != "quarantined"]
