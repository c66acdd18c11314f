"""The agent under load: how soon it answers, how soon it notices a conflict, what it costs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arpipam.lab import Lab
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.protocol import arp
from bench import stats
from bench.harness import Case, Plot, Scenario, Stopwatch
from bench.owners import Owners, mac_of
from bench.results import Metric, Remark
from launcher.lab.agents import AgentOn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from arpipam.lab import Host
    from arpipam.lab.stations import LabStation
    from bench.harness import Taken, Values
    from bench.results import Outcome

WITNESS = "10.50.0.2"
SUBNET = "10.50.0.0/16"
READY = 64
REQUEST, CONFLICT, COST = "address requested", "conflict made", "standing by"
OURS, FLOOR = "arpipam", "floor (an HTTP server that knows the answer)"
LEASES, RATE = 10_000, 10_000
LEASED = int(IPv4Address("10.50.64.0"))
WATCHED, WATCHED_QUICK = 5.0, 1.0
"""Seconds over which the processor's time is taken."""
AIM, AIM_P99 = 0.002, 0.010
MOST_PATIENCE = 120.0
"""Seconds until so many addresses are ready: eight at a time are claimed by RFC 5227's timing."""
_FLOOR = """
import sys
from aiohttp import web
async def answer(request):
    await request.read()
    return web.json_response({"Address": "10.50.0.9/16", "Data": {}})
app = web.Application()
app.router.add_post("/{method}", answer)
web.run_app(app, path=sys.argv[1], print=None, access_log=None)
"""


class World(NamedTuple):
    """A host with an agent whose pool is warm, a floor to compare with, and a station that makes trouble."""

    lab: Lab
    agent: AgentOn
    pool: str
    floor: Path
    station: LabStation
    loaded: Callable[[], AgentOn]


class Agent(Scenario[World]):
    """The API that Docker uses, without an engine around it."""

    name = "agent"
    title = "the agent under load"
    about = f"""
        `{REQUEST}`: clients at the same moment, each asking once over the agent's socket as Docker does, with at least
        as many addresses ready; `seconds` as the client has them, `inside` from the agent's reading of the request to
        its answer; the floor is an HTTP server of the same library that looks at nothing. `{CONFLICT}`: a
        station announces an address that the agent has lent; `seconds` until the agent's events tell. `{COST}`: memory
        and processor with many leases of containers that answer for themselves, at rest and with {RATE:,} ARP frames a
        second of others' traffic.
        """
    metrics = (
        Metric(name="seconds"),
        Metric(name="inside"),
        Metric(name="memory", unit="MiB"),
        Metric(name="processor", unit="%"),
    )
    plots = (
        Plot(
            "latency",
            "seconds",
            "clients",
            "RequestAddress from the warm pool",
            only={"what": REQUEST},
            log_x=True,
            log_y=True,
        ),
    )

    def __init__(self, *, quick: bool) -> None:
        super().__init__(quick=quick)
        self.notes.append(
            "no peer keeps proven addresses ready, or notices that a container's address is used by another, so only "
            "the floor stands beside the agent."
        )
        self.leases = 100 if quick else LEASES
        self.watched = WATCHED_QUICK if quick else WATCHED

    def cases(self) -> Iterable[Case]:
        """Clients, a conflict, many leases, a busy link."""
        for clients in (1, 4) if self.quick else (1, 4, 16, 64):
            turns = max(1, 3 // clients) if self.quick else max(3, 60 // clients)
            yield Case({"what": REQUEST, "clients": clients}, turns)
        yield Case({"what": CONFLICT}, 1 if self.quick else 11, {FLOOR: 0})
        for rate in (0, RATE):
            yield Case({"what": COST, "leases": self.leases, "frames/s": rate}, 1 if self.quick else 3, {FLOOR: 0})

    @contextmanager
    def world(self) -> Iterator[World]:
        """One agent for latency; one with many leases is started when it is needed."""
        with Lab() as lab, ExitStack() as stack:
            wire = lab.wire()
            hosts = [lab.host(f"host{n}", wire, f"10.50.0.{n}/16", bridge="lan0") for n in (1, 3)]
            lab.start()
            station = lab.station("gateway", wire, f"{WITNESS}/16")
            clients = max(int(case.vary.get("clients", 1)) for case in self.cases())
            ready = min(READY, max(4, clients))
            network = {"ready": ready, "most_ready": ready * 2, "witness": [WITNESS], "range": ["10.50.128.0/17"]}
            agent = stack.enter_context(AgentOn(hosts[0], agent={"quarantine": 0}, **network))
            status, said = agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options={}, V6=False)
            if status != 200:  # noqa: PLR2004 - HTTP's "OK"
                raise RuntimeError(str(said))
            floor = lab.directory / "floor.sock"
            serving = subprocess.Popen([sys.executable, "-c", _FLOOR, str(floor)])
            stack.callback(serving.wait)
            stack.callback(serving.kill)
            AgentOn.wait(floor.exists)
            more: list[AgentOn] = []

            def loaded() -> AgentOn:
                if not more:
                    stack.enter_context(Owners(station, LEASED, self.leases))
                    more.append(stack.enter_context(_with_leases(hosts[1], self.leases)))
                return more[0]

            yield World(lab, agent, said["PoolID"], floor, station, loaded)

    @contextmanager
    def subjects(self, world: World, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:
        """By what is asked of them."""
        if case.vary["what"] == REQUEST:
            clients = int(case.vary["clients"])
            yield {
                OURS: lambda seed: requests(world, clients, seed),
                FLOOR: lambda seed: at_once(world.floor, bodies(world.pool, clients, seed))[0],
            }
        elif case.vary["what"] == CONFLICT:
            yield {OURS: lambda seed: conflict(world, seed)}
        else:
            agent = world.loaded()
            yield {OURS: lambda _: cost(world, agent, int(case.vary["frames/s"]), self.watched)}

    def check(self, outcome: Outcome) -> Iterable[Remark]:
        """The aim of a warm request."""
        warm = stats.summary(outcome.values("inside", OURS, what=REQUEST, clients=1))
        if warm is not None:
            met = "met" if warm.median < AIM and warm.p99 < AIM_P99 else "MISSED"
            yield Remark(
                red=False,
                text=f"a warm RequestAddress takes {warm.median * 1000:.2f} ms inside the agent, p99 "
                f"{warm.p99 * 1000:.2f} ms (aims {AIM * 1000:g} and {AIM_P99 * 1000:g} ms: {met})",
            )


def bodies(pool: str, clients: int, seed: int) -> list[dict[str, object]]:
    """Requests as the engine sends them."""
    mac = "com.docker.network.endpoint.macaddress"
    return [
        {
            "PoolID": pool,
            "Address": "",
            "Options": {mac: f"02:42:{seed >> 16 & 255:02x}:{seed >> 8 & 255:02x}:{n:02x}:01"},
        }
        for n in range(clients)
    ]


def post(path: Path, method: str, body: dict[str, object]) -> tuple[float, dict[str, object]]:
    """One request over a socket of its own, by hand: the client's own time is as small as can be."""
    data = json.dumps(body).encode()
    head = f"POST /{method} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    with Stopwatch() as watch, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(head.encode() + data)
        said = b""
        while part := sock.recv(65536):
            said += part
    first, _, rest = said.partition(b"\r\n\r\n")
    if b" 200 " not in first.splitlines()[0]:
        raise RuntimeError(rest.decode(errors="replace"))
    return watch.seconds, json.loads(rest)


def at_once(path: Path, asked: list[dict[str, object]]) -> tuple[list[Values], list[str]]:
    """All clients at the same moment."""
    barrier = threading.Barrier(len(asked))

    def one(body: dict[str, object]) -> tuple[float, dict[str, object]]:
        barrier.wait()
        return post(path, "IpamDriver.RequestAddress", body)

    with ThreadPoolExecutor(len(asked)) as pool:
        done = list(pool.map(one, asked))
    return [{"seconds": seconds} for seconds, _ in done], [str(said["Address"]) for _, said in done]


def requests(world: World, clients: int, seed: int) -> list[Values]:
    """From the warm pool, and back."""
    world.agent.wait_ready(clients, MOST_PATIENCE)
    with world.agent.client.events() as events:
        values, addresses = at_once(world.agent.socket, bodies(world.pool, clients, seed))
        if len(set(addresses)) != clients:
            raise RuntimeError(f"an address was handed out twice: {sorted(addresses)}")
        told = (event.text for event in events if event.kind == "handed out")
        values += [{"inside": _milliseconds(text) / 1000} for text in islice(told, clients)]
    for address in addresses:
        give_back(world, address)
    return values


def _milliseconds(text: str) -> float:
    how, _, milliseconds = text.removesuffix(" ms").partition(", ")
    if how != "ready":
        raise RuntimeError(f"an address was handed out that was not ready: {text}")
    return float(milliseconds)


def give_back(world: World, address: str) -> None:
    """Release it."""
    post(world.agent.socket, "IpamDriver.ReleaseAddress", {"PoolID": world.pool, "Address": address.partition("/")[0]})


def conflict(world: World, seed: int) -> Values:
    """A station announces an address that is lent."""
    world.agent.wait_ready(1)
    _, [address] = at_once(world.agent.socket, bodies(world.pool, 1, seed))
    wanted = address.partition("/")[0]
    with world.agent.client.events() as events:
        started = time.perf_counter()
        world.station.send([arp.announcement(arp.mac_bytes(world.station.mac), int(IPv4Address(wanted)))])
        for event in events:
            if event.kind == "conflict" and event.address == wanted:
                break
        seconds = time.perf_counter() - started
    give_back(world, address)
    return {"seconds": seconds}


@contextmanager
def _with_leases(host: Host, count: int) -> Iterator[AgentOn]:
    """An agent that comes up with so many leases of containers."""
    agent = AgentOn(host, ready=4, witness=[WITNESS], range=["10.50.0.0/17"])
    with SqliteLeaseStore(agent.state_dir / "leases.db") as store:
        for number in range(count):
            mac = arp.mac_text(mac_of(number))
            lease = store.reserve(host.bridge, IPv4Address(LEASED + number), 16, mac, f"c{number}")
            if lease is not None:
                store.bind(lease.id, f"c{number}@engine")
    with agent:
        agent.ask("IpamDriver.RequestPool", Pool=SUBNET, SubPool="", Options={}, V6=False)
        agent.wait_ready(4)
        # A container that answers is only watched, one that is silent is asked again and again.
        agent.wait(lambda: sum(lease.guarded == "container" for lease in agent.client.leases()) >= count)
        yield agent


def cost(world: World, agent: AgentOn, rate: int, watched: float) -> Values:
    """Memory, and the share of one processor over some seconds."""
    assert agent.process is not None  # noqa: S101 - it runs
    flood = world.station.flood(watched + 1, rate, "arp") if rate else None
    time.sleep(0.5)
    before, started = ticks(agent.process.pid), time.monotonic()
    time.sleep(watched)
    used = (ticks(agent.process.pid) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - started)
    if flood is not None:
        flood.wait()
        if flood.stdout is not None:
            flood.stdout.close()
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    [memory] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
    return {"memory": memory / 1024, "processor": used * 100}


def ticks(pid: int) -> int:
    """The processor's time of a process, in clock ticks (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
