"""How long it takes to start a container with an address that is free."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from arpipam.lab import Lab
from bench.harness import Case, Plot, Scenario, Stopwatch
from bench.results import Metric, Remark
from launcher.lab.agents import NETWORK, AgentOn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from arpipam.lab import Host
    from bench.harness import Taken, Values
    from bench.results import Outcome

LAUNCHER = str(Path(sys.executable).parent / "arpipam-run")
SUBNET = "172.16.42"
WITNESS = f"{SUBNET}.254"
CONTAINER = ["busybox", "sleep", "1000"]
BRIDGE = "lan0"
DEFAULT, BY_HAND = "docker run", "docker run --ip"
OURS, WARM, COLD = "arpipam-run", "agent, warm", "agent, cold"
AIM_WARM = 0.002


class World(NamedTuple):
    """Three hosts with an engine each: a plain one, one with a warm agent, and one whose agent keeps nothing ready."""

    plain: Host
    warm: AgentOn
    cold: AgentOn


class StartLatency(Scenario[World]):
    """Whole commands, detached."""

    name = "launch"
    title = "starting a container"
    about = f"""
        `docker run -d` of busybox, as the command takes: with Docker's default IPAM, with an address by hand (`--ip`),
        by `{OURS}`, and on a network whose IPAM driver is arpipam's agent, with addresses ready (`{WARM}`) or without
        (`{COLD}`: each is searched for while Docker waits). `listening` is the search alone, as arpipam-run tells it.
        Each kind has an engine of its own, on one wire. What `{OURS}` takes beside `listening` and the engine's own
        time is the start of its program, its questions to the engine, and the wait for the container's own answer; the
        agent has all of that behind it.
        """
    metrics = (Metric(name="seconds"), Metric(name="listening"))
    plots = (Plot("time", "seconds", "container", "`docker run -d` of busybox"),)
    reference = OURS

    def cases(self) -> Iterable[Case]:
        """All in turn."""
        yield Case({"container": "busybox"}, 1 if self.quick else 15)

    @contextmanager
    def world(self) -> Iterator[World]:
        """Three engines, two agents."""
        with Lab() as lab, ExitStack() as stack:
            wire = lab.wire()
            hosts = [lab.host(f"host{n}", wire, f"{SUBNET}.{n}/24", bridge=BRIDGE, engine=True) for n in (1, 2, 3)]
            lab.start()
            lab.station("gateway", wire, f"{WITNESS}/24")
            agents = []
            for host, ready, block in zip(hosts[1:], (4, 0), (64, 128), strict=True):
                most = 32 if ready else 0
                agent = stack.enter_context(
                    AgentOn(host, agent={"quarantine": 0}, ready=ready, most_ready=most, witness=[WITNESS])
                )
                agent.make_network("--ip-range", f"{SUBNET}.{block}/26")
                agents.append(agent)
            bridge = ["-o", f"com.docker.network.bridge.name={BRIDGE}", "--gateway", hosts[0].address]
            span = ["--subnet", f"{SUBNET}.0/24", "--ip-range", f"{SUBNET}.32/27"]
            hosts[0].docker("network", "create", "-d", "bridge", *span, *bridge, NETWORK)
            agents[0].wait_ready(4)
            yield World(hosts[0], *agents)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """Each once without being counted, to warm up what there is."""

        def docker(host: Host, *words: str) -> Callable[[int], Values]:
            def take(_: int) -> Values:
                with Stopwatch() as watch:
                    host.docker("run", "-d", "--name", "one", "--network", NETWORK, *words, *CONTAINER)
                host.docker("rm", "--force", "one")
                return {"seconds": watch.seconds}

            return take

        def ours(_: int) -> Values:
            options = ["-I", BRIDGE, "--json", "--witness", WITNESS, "--range", f"{SUBNET}.200-{SUBNET}.220"]
            with Stopwatch() as watch:
                said = world.plain.command(LAUNCHER, *options, "-d", "--name", "one", *CONTAINER, check=True).stderr
            world.plain.docker("rm", "--force", "one")
            claimed = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
            return {"seconds": watch.seconds, "listening": claimed["elapsed_ms"] / 1000}

        subjects: dict[str, Callable[[int], Taken]] = {
            OURS: ours,
            DEFAULT: docker(world.plain),
            BY_HAND: docker(world.plain, "--ip", f"{SUBNET}.199"),
            WARM: self._ready(world.warm, docker(world.warm.host)),
            COLD: docker(world.cold.host),
        }
        for take in subjects.values():
            take(0)
        yield subjects

    @staticmethod
    def _ready(agent: AgentOn, take: Callable[[int], Values]) -> Callable[[int], Values]:
        def ready(seed: int) -> Values:
            agent.wait_ready(1)
            return take(seed)

        return ready

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """What the warm pool costs on top of Docker's own list."""
        warm, default = outcome.values("seconds", WARM), outcome.values("seconds", DEFAULT)
        if warm and default:
            extra = (median(warm) - median(default)) * 1000
            yield Remark(red=False, text=f"a warm agent costs {extra:.0f} ms beside Docker's default IPAM")
