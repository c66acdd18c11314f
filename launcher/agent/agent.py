"""The agent of a host: its networks, and what Docker, the command line and arpipam-run ask of them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

from arpipam.errors import ArpipamError, InputError
from arpipam.leases.lease import LeaseState
from arpipam.protocol.outcome import NO_WITNESS
from launcher.agent import subnets
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.conflicts import Conflicts
from launcher.agent.contract import AddressKind, AddressRequest, ClaimRequest, EventKind, PoolRequest, Status
from launcher.agent.declared import Declared
from launcher.agent.edges import Edges
from launcher.agent.following import Following
from launcher.agent.journal import Journal
from launcher.agent.log import logger
from launcher.agent.memory import Memory
from launcher.agent.metrics import Metrics
from launcher.agent.network.containers import Containers
from launcher.agent.network.held import Role
from launcher.agent.network.holdings import release_leftovers
from launcher.agent.network.made import missing
from launcher.agent.network.network import Network
from launcher.agent.network.shared import Tools
from launcher.agent.pools import DockerPool
from launcher.agent.refused import RefusedStarts
from launcher.agent.report import lease_view, network_view, station_views
from launcher.agent.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from arpipam.claim import Claim
    from arpipam.link.netlink import Facts
    from launcher.agent.config.file import Config
    from launcher.agent.contract import Event, LeaseView, StationView
    from launcher.agent.memory import StationStore
    from launcher.agent.network.lending import Lending

MEMORY, POOLS, LEASES, METRICS = "memory of stations", "pools", "leases", "metrics"
REFUSED_STARTS = "starting what was refused"
"""Names of the parts that may fail by themselves."""
OPENING = 5.0  # s that a new network gets to open its link, before Docker is told that it cannot be made
NO_WITNESS_FOR_DOCKER = (
    "no station answered, so silence proves nothing; name one that must answer when the network is made, with "
    "--ipam-opt witness=ADDRESS, or in the agent's file, or say --ipam-opt alone=true if there is no other"
)


@dataclass
class _Running:
    network: Network
    task: asyncio.Task[None]


class Agent:
    """Use it between `start` and `stop`, on one event loop. What Docker asks raises ArpipamError with one line.

    `driver`: the name under which the engine knows it. `edges`: what lies around it, see edges.py.
    """

    def __init__(self, config: Config, *, driver: str = "arpipam", edges: Edges | None = None) -> None:
        self._edges = edges = edges or Edges()
        self.started = edges.now()
        self._loop = asyncio.get_running_loop()
        self._journal = Journal(edges.now)
        self._supervisor = Supervisor(edges.now, self._journal.failed, self._journal.works_again)
        state_dir = config.agent.state_dir
        leases = edges.lease_store(state_dir / "leases.db")
        self._pools = edges.pool_store(state_dir / "pools.db")
        self._memory = Memory(self._station_store(state_dir / "stations.db"), edges.in_thread)
        self._running: dict[str, _Running] = {}
        self._wrong: dict[str, str] = {}
        """Networks, by pool, whose settings are wrong, and why: they are defended, and nothing is handed out there."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._metrics = Metrics(self.status)
        self.tools = Tools(
            config=config,
            leases=leases,
            pools=self._pools,
            metrics=self._metrics,
            journal=self._journal,
            memory=self._memory,
            declared=Declared(config, on_subnet=edges.on_subnet),
            edges=edges,
            containers=Containers(driver, lambda: [network.pool for network in self._networks()]),
            spawn=self.spawn,
            is_container=self._is_container,
        )
        self._following = Following(
            self.tools, self._supervisor, soon=self._soon, networks=self._networks, forget_pool=self._forget_pool
        )
        self.tools.containers.look = self._following.follower.look
        self._conflicts = Conflicts(self.tools, self._following.follower.move)
        self._refused = RefusedStarts(self.tools, self._following.follower)

    async def start(self) -> None:
        """Defend every lease that was left, then follow the engine.

        Raises InputError for a fabric file that is wrong: without it, used addresses would look free.
        """
        leases, tools = self.tools.leases, self.tools
        await self._edges.in_thread(tools.declared.fabric)  # what it says holds until a reload
        release_leftovers(leases, tools.config.agent.quarantine)
        for pool in list(self._pools.pools.values()):
            self._run(pool.id, self._lenient(pool)).hand_out.boot()
        for lease in leases.leases(states=(LeaseState.BOUND,)):
            if lease.mac and self._network_of(lease.interface, lease.address) is None:
                pool = DockerPool(lease.interface, IPv4Interface(f"{lease.address}/{lease.prefix}").network)
                self._run(pool.id, self._lenient(pool)).hand_out.boot()
        opening = [asyncio.create_task(network.link.opened.wait()) for network in self._networks()]
        if opening:
            _, late = await asyncio.wait(opening, timeout=OPENING)
            for task in late:
                task.cancel()
        self.spawn(self._following.run())
        self.spawn(self._supervisor.run(REFUSED_STARTS, self._refused.run))
        self.spawn(self._supervisor.run(MEMORY, lambda: self._memory.run(lambda: self._supervisor.works(MEMORY))))
        if (endpoint := tools.config.agent.metrics) is not None:
            self.spawn(
                self._supervisor.run(
                    METRICS, lambda: self._metrics.run(endpoint, lambda: self._supervisor.works(METRICS))
                )
            )

    async def stop(self) -> None:
        """Let go of what is ready; what was handed out stays on disk, and is defended by the next agent.

        Each part ends, whatever happens to another one.
        """
        await self._following.stop()
        tasks = [*(running.task for running in self._running.values()), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = {MEMORY: self._memory.close, POOLS: self._pools.close, LEASES: self.tools.leases.close}
        for part, close in closing.items():
            await self._supervisor.attempt(part, partial(self._edges.in_thread, close))

    async def reload(self, config: Config) -> None:
        """Go on by another file, without letting go of anything. Raises ArpipamError where it changes nothing.

        A network that cannot take its new settings goes on with the old ones, and shows why.
        """
        declared = Declared(config, on_subnet=self._edges.on_subnet)
        settings: dict[str, NetworkSettings] = {}
        for running in self._running.values():  # all that can be wrong is found before anything changes
            pool = running.network.pool
            settings[pool.id] = self._merged(config, pool)
            await self._edges.in_thread(declared.of, pool, settings[pool.id])
        await self._edges.in_thread(declared.fabric)
        self.tools.config, self.tools.declared = config, declared
        self._wrong.clear()
        for pool_id, running in list(self._running.items()):
            new = settings.get(pool_id) or self._lenient(running.network.pool)
            await self._supervisor.attempt(_settings_of(pool_id), partial(running.network.configure, new))

    # What Docker asks; see docker_ipam.py.

    async def activate(self) -> None:
        """An engine has started: it will ask again for each of its pools."""
        if self._running:  # else it has only met this driver
            self._refused.engine_started(self._networks())
        self._pools.recount()

    async def request_pool(self, request: PoolRequest) -> tuple[str, IPv4Network]:
        """A network of Docker's is made, or told of again when the engine starts."""
        settings = self.tools.config.settings(request.subnet, request.options)
        interface = settings.interface
        if interface is None:
            interface = await self._edges.in_thread(self.tools.declared.interface_of, request.subnet)
        wanted = DockerPool(interface, request.subnet, request.ranges, dict(request.options))
        new = wanted.id not in self._running
        before, replayed = await self._before(wanted)
        pool = self._pools.request(wanted)
        if pool.options != wanted.options:
            settings = self._lenient(pool)
        network = self._run(pool.id, settings)
        network.reserved.replayed = replayed
        network.made.expect(before, new=not replayed)
        if new:
            try:
                await asyncio.wait_for(network.link.opened.wait(), OPENING)
            except TimeoutError:
                if pool.count == 1 and network.link.failed:
                    await self.release_pool(pool.id)
                    raise InputError(f"pool {pool.subnet} on {interface}: {network.link.reason}") from None
        elif network.settings != settings:
            await network.configure(settings)
        return pool.id, pool.subnet

    async def release_pool(self, pool: str) -> None:
        """A network of Docker's is removed; one that is not known is removed already."""
        if pool in self._pools.pools and self._pools.release(pool).count <= 0:
            await self._end(pool)

    async def request_address(self, request: AddressRequest) -> IPv4Interface:
        """An address for a container, or for Docker itself."""
        network = self._network(request.pool)
        try:
            self._check_settings(request.pool)
            if request.kind is not AddressKind.ENDPOINT:
                kept = await network.reserved.keep(request.address, gateway=request.kind is AddressKind.GATEWAY)
                if request.kind is AddressKind.GIVEN:
                    self.tools.containers.given(network.interface, kept.ip, self._edges.monotonic())
                return kept
            assert request.mac is not None  # noqa: S101 - that is what makes it an endpoint's
            await network.made.check()
            lease = await subnets.hand_out(network, self._networks(), request.mac, request.address)
        except ArpipamError as error:
            text = str(error).replace(NO_WITNESS, NO_WITNESS_FOR_DOCKER)
            network.tell(EventKind.REFUSED, mac=request.mac or "", address=str(request.address or ""), text=text)
            self._refused.refused(network, text)
            raise type(error)(text) from None
        return IPv4Interface(f"{lease.address}/{lease.prefix}")

    async def release_address(self, pool: str, address: IPv4Address) -> None:
        """A container has stopped, or left the network; what is not known was given back already."""
        if pool in self._running:
            network = self._running[pool].network
            if address not in network.subnet:  # it was full, see subnets.py
                network = self._network_of(network.interface, address) or network
            await network.take_back(address)
            self._following.follower.look()

    # What the command line and arpipam-run ask.

    def status(self) -> Status:
        """Return how the agent is."""
        views = tuple(network_view(network) for network in self._networks())
        engine, failures = self._following.engine, self._supervisor.failures
        fabric = self.tools.declared.honoured()
        return Status(version("arpipam"), os.getpid(), self.started, engine, views, failures, fabric)

    def leases(self) -> list[LeaseView]:
        """Return all leases of this host."""
        leases, now = self.tools.leases.leases(), self._edges.monotonic()
        return [lease_view(lease, self._network_of(lease.interface, lease.address), now) for lease in leases]

    def stations(self) -> list[StationView]:
        """Every station that was seen on a link."""
        return station_views(self._memory)

    def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        """What happens, after what happened of late; ends for a reader that is too far behind."""
        return self._journal.events(recent=recent)

    async def claim(self, wanted: ClaimRequest) -> Claim:
        """Claim an address for arpipam-run, defended until it is released or its container is gone."""
        network = await self._network_for(wanted)
        self._check_settings(network.pool_id)
        started = self._edges.monotonic()
        claim = await network.lending.lend(wanted)
        self._metrics.claimed("search" if wanted.address is None else "given", self._edges.monotonic() - started)
        return claim

    async def bind(self, claim: Claim, container: str) -> None:
        """The claim is the container's from now on, and watched as any lease of the agent's."""
        await self._lending(claim).bind(claim, container)

    def announce(self, claim: Claim) -> None:
        """The container runs: announce its address again, and ask it until it answers itself."""
        self._lending(claim).announce(claim)

    def hand_over(self, claim: Claim) -> None:
        """The container answers for itself, though that cannot be heard."""
        self._lending(claim).hand_over(claim)

    async def release(self, claim: Claim, quarantine: float) -> None:
        """Release the address; it goes to its last owner only for so many seconds. One that has ended stays so."""
        network = self._network_of(claim.lease.interface, claim.address)
        if network is not None:
            await network.lending.release(claim, quarantine)

    def _lending(self, claim: Claim) -> Lending:
        network = self._network_of(claim.lease.interface, claim.address)
        if network is None:
            raise InputError(f"{claim.address}: its network was removed; ask for another address")
        return network.lending

    # Parts of these.

    async def _before(self, wanted: DockerPool) -> tuple[Facts | None, bool]:
        """The link before the engine makes its network on it; and whether the engine has started, and has made it."""
        known = self._pools.pools.get(wanted.id)
        replayed = known is not None and known.count == 0
        try:
            return await self._edges.in_thread(self._edges.facts, wanted.interface), replayed
        except ArpipamError as error:  # a typing error is told at once
            if known is None:
                raise missing(wanted.interface, error) from None
            return None, replayed

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, to its end."""
        task = self._loop.create_task(_told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _networks(self) -> list[Network]:
        return [running.network for running in self._running.values()]

    def _run(self, pool_id: str, settings: NetworkSettings) -> Network:
        running = self._running.get(pool_id)
        if running is None:
            network = Network(pool_id, settings, self.tools, self._loop)
            network.on_conflict = self._conflicts.met
            network.made.on_mismatch = partial(self._conflicts.mismatch, network.interface)
            network.on_link = self._conflicts.link
            running = self._running[pool_id] = _Running(network, self._loop.create_task(_told(network.run())))
        return running.network

    async def _end(self, pool_id: str) -> None:
        running = self._running.pop(pool_id, None)
        if running is None:
            return
        network = running.network
        self._wrong.pop(pool_id, None)
        self._supervisor.works(_settings_of(pool_id))
        try:
            await network.end_all()
        finally:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)

    async def _forget_pool(self, pool_id: str) -> None:
        """Docker has no network on it, and the news of that was lost; where it never had one, arpipam-run may."""
        if pool_id in self._pools.pools:
            self._pools.release(pool_id, wholly=True)
            await self._end(pool_id)

    def _network(self, pool_id: str) -> Network:
        """The network of a PoolID, also where the record of it was lost: the id says what it was."""
        running = self._running.get(pool_id)
        if running is not None:
            return running.network
        pool = self._pools.request(DockerPool.parse(pool_id))
        network = self._run(pool.id, self._lenient(pool))
        network.hand_out.boot()
        return network

    def _network_of(self, interface: str, address: IPv4Address) -> Network | None:
        fitting = (n for n in self._networks() if n.interface == interface and address in n.subnet)
        return next(fitting, None)

    def _is_container(self, mac: str) -> bool:
        leased = (held for network in self._networks() for held in network.holdings.of_mac(mac))
        return self.tools.containers.has(mac) or any(held.role is Role.DOCKER for held in leased)

    async def _network_for(self, wanted: ClaimRequest) -> Network:
        """The network that a request of arpipam-run means; made where Docker has none there."""
        facts = await self._edges.in_thread(self._edges.facts, wanted.interface)
        inside = IPv4Address(wanted.address) if wanted.address else None
        own = [p.network for p in facts.prefixes if inside is None or inside in p.network]
        if wanted.subnet is None and not own:
            raise InputError(f"{wanted.interface} has no IPv4 address to take the subnet from; name the subnet")
        subnet = IPv4Network(wanted.subnet) if wanted.subnet else own[0]
        for network in self._networks():
            if network.interface == wanted.interface and network.subnet == subnet:
                break
        else:
            pool = DockerPool(wanted.interface, subnet)
            network = self._run(pool.id, self.tools.config.settings(subnet, {"ready": "0"}))
        with suppress(TimeoutError):
            await asyncio.wait_for(network.link.opened.wait(), OPENING)
        return network

    def _lenient(self, pool: DockerPool) -> NetworkSettings:
        """The settings of a network whose leases have to be defended, also where its settings are wrong."""
        part = _settings_of(pool.id)
        try:
            settings = self._merged(self.tools.config, pool)
        except ArpipamError as error:
            self._wrong[pool.id] = str(error)
            self._supervisor.failed(part, error)
            return NetworkSettings(ready=0)
        self._wrong.pop(pool.id, None)
        self._supervisor.works(part)
        return settings

    def _check_settings(self, pool_id: str) -> None:
        """Refuse, with InputError, what is asked of a network whose settings are wrong."""
        if (why := self._wrong.get(pool_id)) is not None:
            raise InputError(why)

    @staticmethod
    def _merged(config: Config, pool: DockerPool) -> NetworkSettings:
        """The settings of a pool that exists; options that have become wrong are left out, and logged."""
        try:
            return config.settings(pool.subnet, pool.options)
        except InputError as error:
            logger().warning("options of a pool are left out", pool=pool.id, reason=str(error))
            return config.settings(pool.subnet, {})

    def _station_store(self, path: Path) -> StationStore | None:
        """What is remembered of stations is a hint: without its file the agent works all the same."""
        try:
            return self._edges.station_store(path, self._edges.now)
        except ArpipamError as error:
            self._supervisor.failed(MEMORY, error)
            return None

    def _soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the event loop, from another thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)


def _settings_of(pool_id: str) -> str:
    return f"settings of {pool_id}"


async def _told(work: Coroutine[Any, Any, None]) -> None:
    """Work whose failure would else be seen by nobody."""
    try:
        await work
    except Exception:  # noqa: BLE001 - the agent goes on
        logger().exception("internal error, please report it")
