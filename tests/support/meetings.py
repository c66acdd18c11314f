"""Two hosts at work with arpipam meet stations of one kind: in both orders, and at the same moment."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from arpipam import Allocator
from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError
from arpipam.lab.daemons import Udhcpd
from launcher.lab.agents import AgentOn
from tests.support.profile import NIGHT
from tests.support.referee import Referee, owners
from tests.support.tools import ARPIPAM
from tests.support.until import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from arpipam.claim import Claim
    from arpipam.lab import Host, Lab
    from arpipam.lab.daemons import Program
    from arpipam.lab.stations import LabStation
    from tests.support.station_kinds import Kind

SETTLED = 4.0
"""Seconds without news of any address after which nothing more will come: the longest silence of RFC 5227 is 2 s."""
LATEST = 60.0
FIRST, LATER, RACING, FILLING, LAST = 10, 40, 70, 100, 199
"""Where each group of addresses begins, and the last address of them all."""
SPAN = 7.0
"""Seconds over which the claims of a race are spread: that long does a station look before it takes an address."""


class Meeting:
    """A wire with two hosts and, in each order, `tries` stations of a kind. Use `run`, then look at what there is."""

    def __init__(self, lab: Lab, kind: Kind, tries: int, *, agents: bool, seed: int = 1) -> None:
        self.kind = kind
        self._lab = lab
        self._tries = tries
        self._agents_too = agents
        self._rng = random.Random(seed)
        self.wire = lab.wire()
        self.hosts = [
            lab.host(f"host{n}", self.wire, f"{self.address(n)}/{kind.prefix}", bridge="lan0") for n in (1, 2)
        ]
        lab.start()
        self.groups = {
            group: [self.address(group + n) for n in range(tries)]
            for group in (FIRST, LATER, RACING, *((FILLING,) if agents else ()))
        }
        self.stations = {
            address: lab.station(f"s{address.rpartition('.')[2]}", self.wire, *self._own(address))
            for group in self.groups.values()
            for address in group
        }
        self.programs: dict[str, Program] = {}
        self.claims: dict[str, Claim] = {}
        self.refusals: dict[str, ArpipamError] = {}
        self.agents: list[AgentOn] = []
        self.said: list[tuple[str, subprocess.CompletedProcess[str]]] = []
        self._stack = ExitStack()
        self.referee = self._stack.enter_context(Referee(self.stations.values()))
        self._allocators = [self._allocator(host) for host in self.hosts]

    def address(self, number: int) -> str:
        """An address of the network."""
        return f"{self.kind.network}.{number}"

    def _own(self, address: str) -> tuple[str, ...]:
        if not self.kind.own:
            return ()
        # Of another network on the wire, which has room for as many.
        return (f"10.42.42.{address.rpartition('.')[2]}/24",)

    def _allocator(self, host: Host) -> Allocator:
        with host.namespace.inside():
            return self._stack.enter_context(
                Allocator(host.bridge, state_dir=host.directory / "claims", witnesses=self._others(host))
            )

    def _others(self, host: Host) -> list[str]:
        return [other.address for other in self.hosts if other is not host]

    def start(self, group: int) -> None:
        """Start the programs of a group of stations."""
        for address in self.groups[group]:
            self.programs[address] = self.kind.start(self._lab, self.stations[address], address)

    def claim(self, address: str, *, after: float = 0.0) -> None:
        """Claim the address on one of the hosts."""
        time.sleep(after)
        allocator = self._allocators[int(address.rpartition(".")[2]) % len(self._allocators)]
        try:
            self.claims[address] = allocator.claim("test", address)
        except ArpipamError as error:
            self.refusals[address] = error

    def run(self) -> None:
        """All of it, side by side."""
        if self.kind.dhcp:
            self._serve_addresses()
        with ThreadPoolExecutor(max_workers=4 * self._tries + 8) as pool:
            ahead = [pool.submit(self.claim, address) for address in self.groups[LATER]]
            self.start(FIRST)
            _finish(ahead)
            self.start(LATER)
            for address in self.groups[FIRST]:
                self.programs[address].wait()
            races = [
                pool.submit(self.claim, address, after=SPAN * self._rng.random()) for address in self.groups[RACING]
            ]
            self.start(RACING)
            if self._agents_too:
                self.start(FILLING)
                _finish([pool.submit(self._start_agent, host) for host in self.hosts])
            _finish([pool.submit(self.ask, host) for host in self.hosts])
            again = [pool.submit(self.claim, address) for address in self.taken()]
            _finish(again)
            if NIGHT:
                _finish([pool.submit(self.ask, host) for host in reversed(self.hosts)])
            _finish(races)
        self.settle()

    def taken(self) -> list[str]:
        """What the stations of the first group really got: a DHCP server may have given them something else."""
        return [min(self.programs[address].addresses, default=address) for address in self.groups[FIRST]]

    def _serve_addresses(self) -> None:
        server = self._lab.station("dhcp", self.wire, f"{self.address(3)}/{self.kind.prefix}")
        self._lab.run(Udhcpd, server, self.address(FIRST), self.address(LAST))

    def ask(self, host: Host) -> None:
        """The commands of a person who looks around."""
        span = f"{self.address(FIRST)}-{self.address(LAST)}"
        witnesses = [word for other in self._others(host) for word in ("--witness", other)]
        for words in (
            ["probe", *self.groups[FIRST], *witnesses],
            ["find", "--range", span, *witnesses],
            ["scan", "--range", span],
        ):
            env = {"ARPIPAM_STATE_DIR": str(host.directory / "claims"), "DOCKER_HOST": "unix:///none"}
            done = host.command(ARPIPAM, *words, "--json", env=env, timeout=60)
            self.said.append((words[0], done))

    def _start_agent(self, host: Host) -> None:
        """An agent that fills its ready addresses while the stations of a group start on the same ones."""
        first, last = self.address(FILLING), self.address(FILLING + self._tries + 78)
        agent = AgentOn(host, fabric=False, witness=self._others(host), ready=4, range=[f"{first}-{last}"])
        self.agents.append(self._stack.enter_context(agent))
        network = str(host.interface.network)
        status, answer = agent.ask("IpamDriver.RequestPool", Pool=network, SubPool="", Options={}, V6=False)
        assert status == 200, answer

    def settle(self) -> None:
        """Wait until nothing changes any more."""
        if self.agents:
            for agent in self.agents:
                agent.wait_ready(4, LATEST)
        looked = self._state()
        since = time.monotonic()

        def calm() -> bool:
            nonlocal looked, since
            if (now := self._state()) != looked:
                looked, since = now, time.monotonic()
            return time.monotonic() - since > SETTLED

        until(calm, lambda: f"an end of {looked}", LATEST, pause=0.2)

    def _state(self) -> Any:
        held = {address: sorted(program.addresses) for address, program in self.programs.items()}
        return held, {address: claim.state for address, claim in self.claims.items()}

    # What there is in the end.

    def ours(self) -> dict[str, str]:
        """The MAC of each address that one of the hosts holds."""
        answering = {ClaimState.ANNOUNCING, ClaimState.DEFENDING}
        held = {address: claim.mac for address, claim in self.claims.items() if claim.state in answering}
        for agent in self.agents:
            for lease in agent.client.leases():
                if lease.guarded == "agent":
                    held[lease.address] = lease.mac
        return held

    def theirs(self) -> dict[str, LabStation]:
        """The station that has each address."""
        return {
            held: self.stations[address] for address, program in self.programs.items() for held in program.addresses
        }

    def lost(self) -> list[str]:
        """The addresses that stations had and lost."""
        return [
            f"{address} lost by the station of {wanted}: {self.programs[wanted].said()[-1500:]}"
            for wanted, station in self.stations.items()
            for address in self.referee.lost(station)
        ]

    def owners(self) -> dict[str, set[str]]:
        """The MACs that answer for each address that anybody has or wanted."""
        everything = {*self.stations, *self.claims, *self.ours(), *self.theirs()}
        return owners(self.wire, sorted(everything), self.address(250))

    def json_of(self, command: str) -> list[list[dict[str, Any]]]:
        """What each run of a command printed."""
        return [[json.loads(line) for line in done.stdout.splitlines()] for name, done in self.said if name == command]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _finish(jobs: Sequence[Future[None]]) -> None:
    for job in jobs:
        job.result()
