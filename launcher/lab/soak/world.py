"""The soak's place: three hosts with engines and agents, one fabric, and stations that nobody told Docker about."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from arpipam.lab import Lab
from arpipam.lab.daemons import AvahiAutoipd, Dhcpcd, Networkd
from launcher.lab.agents import AgentOn
from launcher.lab.soak.plan import HOSTS, MOVERS, MOVING, SUBNET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arpipam.lab import Host, Wire
    from arpipam.lab.daemons import Program
    from arpipam.lab.stations import LabStation

BRIDGE = "lan0"
"""Not docker0, which an engine without a bridge of its own removes as it starts."""
LENGTH = SUBNET.partition("/")[2]
ROUTER = "172.16.42.62"
POSTS = ("172.16.42.57", "172.16.42.58", "172.16.42.59")
DISK = "2m"
"""A small disk for each agent's state, so that it can be filled."""
QUARANTINE, COMPARE, READY = 2, 2, 3


@dataclass
class Foreign:
    """A station that nobody told Docker about, and the addresses that it should have now."""

    station: LabStation
    has: set[str] = field(default_factory=set)
    program: Program | None = None


@dataclass
class Trouble:
    """A fault that was made, from when to when (still there: None)."""

    what: str
    host: str
    since: float
    until: float | None = None

    def __str__(self) -> str:
        until = "the end" if self.until is None else f"{self.until:.1f} s"
        return f"{self.host}: {self.what}, {self.since:.1f} s to {until}"


class World:
    """Whatever acts and observers need. Times are seconds since it began."""

    def __init__(self, lab: Lab, wire: Wire) -> None:
        self.lab = lab
        self.wire = wire
        self.agents: dict[str, AgentOn] = {}
        self.posts: dict[str, tuple[LabStation, str]] = {}
        self.foreign: dict[str, Foreign] = {}
        self.troubles: list[Trouble] = []
        self.lock = threading.Lock()
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def host(self, name: str) -> Host:
        """One of them."""
        return self.agents[name].host

    def trouble(self, what: str, host: str) -> Trouble:
        """A fault begins now; whoever made it sets its end."""
        trouble = Trouble(what, host, self.now())
        self.troubles.append(trouble)
        return trouble

    @property
    def addresses(self) -> list[str]:
        """All that can be in use."""
        return [str(address) for address in IPv4Network(SUBNET).hosts()]

    def own_logs(self) -> list[Path]:
        """The logs of agents and engines."""
        engines = [agent.host.engine.log for agent in self.agents.values() if agent.host.engine is not None]
        return [agent.log for agent in self.agents.values()] + engines


@contextmanager
def made(engine: str = "") -> Iterator[World]:
    """The place, whole, with a network on each host and addresses ready; it ends with the context."""
    with Lab(engine=engine) as lab:
        wire = lab.wire()
        hosts = [
            lab.host(name, wire, f"172.16.42.{number}/{LENGTH}", bridge=BRIDGE, engine=True)
            for number, name in enumerate(HOSTS, 1)
        ]
        lab.start()
        world = World(lab, wire)
        for host, own in zip(hosts, POSTS, strict=True):
            station = lab.station(f"post-{host.name}", host, f"{own}/{LENGTH}")
            world.posts[host.name] = station, own
        _neighbours(world)
        for host in hosts:
            host.namespace.ip([f"route add default via {ROUTER} dev {BRIDGE}"])
            settings = {"quarantine": QUARANTINE, "compare": COMPARE}
            world.agents[host.name] = AgentOn(host, agent=settings, disk=DISK, policy="move", ready=READY)
        try:
            for agent in world.agents.values():
                agent.start()
                agent.make_network()
            for agent in world.agents.values():
                agent.wait_ready(1)
            world.began = time.monotonic()
            yield world
        finally:
            for agent in world.agents.values():
                agent.kill()


def _neighbours(world: World) -> None:
    """A router, two stations that share an address, and real programs that watch over theirs."""
    lab, wire = world.lab, world.wire
    world.foreign["router"] = Foreign(lab.station("router", wire, f"{ROUTER}/{LENGTH}"), {ROUTER})
    for name in MOVERS:
        world.foreign[name] = Foreign(lab.station(name, wire))
    world.foreign[MOVERS[0]].station.namespace.ip([f"addr add {MOVING}/{LENGTH} dev eth0"])
    world.foreign[MOVERS[0]].has.add(MOVING)
    hosts = list(lab.hosts.values())
    programs: list[tuple[type[Program], Wire | Host, str]] = [
        (Dhcpcd, wire, "172.16.42.51"),
        (Dhcpcd, hosts[0], "172.16.42.5"),
        (Networkd, wire, "172.16.42.52"),
        (Networkd, hosts[1], "172.16.42.7"),
    ]
    for number, (kind, where, address) in enumerate(programs):
        if kind.missing():
            continue
        station = lab.station(f"{kind.__name__.lower()}{number}", where)
        foreign = Foreign(station, {address}, lab.run(kind, station, f"{address}/{LENGTH}"))
        world.foreign[f"{kind.__name__.lower()}{number}"] = foreign
    if not AvahiAutoipd.missing():
        station = lab.station("avahi", wire)
        world.foreign["avahi"] = Foreign(station, {"169.254.7.7"}, lab.run(AvahiAutoipd, station, "169.254.7.7"))
    for foreign in world.foreign.values():
        if foreign.program is not None:
            foreign.program.wait()
