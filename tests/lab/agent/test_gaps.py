"""An address that was ready while the link could not be heard, and that somebody took meanwhile: nobody gets it."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from arpipam.lab.host import UPLINK
from launcher.lab.agents import AgentOn
from tests.support.agents import Watching, last_lines
from tests.support.profile import by_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from arpipam.lab import Host, Lab, Wire
    from arpipam.lab.stations import LabStation
    from launcher.agent.contract import NetworkView

SUBNET = "172.16.42.0/24"
READY = 3
WITNESS = "172.16.42.3"
AWAY = 6.0
"""Seconds that the link is away: more than three questions that stay unanswered."""


class Gap:
    """One way to be away and to come back."""

    def __init__(self, wire: Wire, host: Host, agent: AgentOn) -> None:
        self.wire, self.host, self.agent = wire, host, agent
        self.port = wire._ports[host.namespace]

    def rules(self, *rules: str) -> None:
        """Frames that the wire drops."""
        lines = ["table bridge one_way", "delete table bridge one_way"]
        if rules:
            chain = ["chain c {", "type filter hook forward priority 0", *rules, "}"]
            lines += ["table bridge one_way {", *chain, "}"]
        self.wire.namespace.run("nft", "-f", "-", input="\n".join(lines) + "\n")

    def stop(self) -> None:
        assert self.agent.process is not None
        self.agent.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.agent.process is not None
        self.agent.process.send_signal(signal.SIGCONT)


GAPS: dict[str, tuple[Callable[[Gap], None], Callable[[Gap], None]]] = {
    "no carrier": (
        lambda gap: gap.wire.namespace.ip([f"link set {gap.port} down"]),
        lambda gap: gap.wire.namespace.ip([f"link set {gap.port} up"]),
    ),
    "port down": (
        lambda gap: gap.host.namespace.ip([f"link set {UPLINK} down"]),
        lambda gap: gap.host.namespace.ip([f"link set {UPLINK} up"]),
    ),
    "cut with a carrier": (lambda gap: gap.wire.cut(gap.host), lambda gap: gap.wire.heal()),
    "nothing comes in": (lambda gap: gap.rules(f"oifname {gap.port} drop"), lambda gap: gap.rules()),
    "nothing goes out": (lambda gap: gap.rules(f"iifname {gap.port} drop"), lambda gap: gap.rules()),
    "agent stopped": (Gap.stop, Gap.go_on),
}


@contextmanager
def agent_with_ready_addresses(lab: Lab, *, named: bool) -> Iterator[tuple[Gap, LabStation, str]]:
    """An agent without an engine, a station that may be named as its witness, and a pool with ready addresses."""
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    station = lab.station("station", wire, f"{WITNESS}/24")
    settings = {"witness": [WITNESS]} if named else {}
    with AgentOn(host, fabric=False, agent={"quarantine": 0}, ready=READY, most_ready=READY, **settings) as agent:
        status, answer = agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options={}, V6=False)
        assert status == 200, answer
        agent.wait_ready(READY)
        yield Gap(wire, host, agent), station, str(answer["PoolID"])


def ready(agent: AgentOn) -> list[str]:
    return [lease.address for lease in agent.client.leases() if lease.state == "ready"]


def view(agent: AgentOn) -> NetworkView:
    [network] = agent.client.status().networks
    return network


def take(agent: AgentOn, pool: str, number: int) -> str:
    """The address that a container gets; empty where it is refused."""
    options = {"com.docker.network.endpoint.macaddress": f"02:42:00:00:00:{number:02x}"}
    status, answer = agent.ask("IpamDriver.RequestAddress", PoolID=pool, Address="", Options=options)
    return str(answer["Address"]).partition("/")[0] if status == 200 else ""


WITNESSES = ("witness named", "no witness named")
ALL = [(kind, witness) for kind in GAPS for witness in WITNESSES]
BY_DAY = [(kind, WITNESSES[turn % 2]) for turn, kind in enumerate(GAPS)]


@pytest.mark.parametrize(("kind", "witness"), by_day(ALL, *BY_DAY))
def test_what_was_taken_during_a_gap_is_not_handed_out_after_it(lab: Lab, kind: str, witness: str) -> None:
    """At once, while everything is asked for as fast as can be, until none of it is ours any more."""
    begin, end = GAPS[kind]
    with agent_with_ready_addresses(lab, named=witness == WITNESSES[0]) as (gap, station, pool):
        agent = gap.agent
        taken = set(ready(agent))
        assert len(taken) == READY
        begin(gap)
        time.sleep(AWAY)
        station.namespace.ip([f"addr add {address}/24 dev eth0" for address in taken])  # as a plain kernel: silently
        time.sleep(1)
        end(gap)
        got: list[str] = []

        def given_up() -> bool:
            """More than were ready are handed out, and what was taken has no lease, of whatever kind, any more."""
            if address := take(agent, pool, len(got)):
                got.append(address)
            assert not set(got) & taken, f"handed out twice; {last_lines(agent.log)}"
            return len(got) > READY and not taken & agent.leases().keys()

        agent.wait(given_up, told=lambda: f"{taken} {got} {agent.leases()} {last_lines(agent.log)}")


def test_what_nobody_took_is_ready_again(lab: Lab) -> None:
    with agent_with_ready_addresses(lab, named=True) as (gap, _, pool), Watching(gap.agent) as watching:
        agent = gap.agent
        before = set(ready(agent))
        gap.wire.namespace.ip([f"link set {gap.port} down"])
        agent.wait(lambda: view(agent).state == "down", told=lambda: f"{view(agent)}")
        assert "has a carrier and forwards" in view(agent).reason or "no carrier" in view(agent).reason
        assert view(agent).ready == 0
        assert take(agent, pool, 1) == ""
        gap.wire.namespace.ip([f"link set {gap.port} up"])
        healed = time.monotonic()
        agent.wait(lambda: view(agent).ready == READY, told=lambda: f"{view(agent)} {last_lines(agent.log)}")
        assert set(ready(agent)) == before
        assert time.monotonic() - healed < 5  # no new claims, which take 4 to 7 s each
        assert view(agent).state == "up"
        assert take(agent, pool, 1) in before
        assert [event.kind for _, event in watching.seen if event.kind.startswith("link")] == ["link down", "link up"]


def test_a_lease_that_somebody_took_is_told_within_a_second_of_the_links_return(lab: Lab) -> None:
    with agent_with_ready_addresses(lab, named=True) as (gap, station, pool), Watching(gap.agent) as watching:
        agent = gap.agent
        address = take(agent, pool, 1)
        assert address
        gap.wire.namespace.ip([f"link set {gap.port} down"])
        agent.wait(lambda: view(agent).state == "down", told=lambda: f"{view(agent)}")
        station.namespace.ip([f"addr add {address}/24 dev eth0"])
        gap.wire.namespace.ip([f"link set {gap.port} up"])
        up, _ = watching.wait("link up")
        told, _ = watching.wait("conflict", address=address)
        assert told - up < 1.0
