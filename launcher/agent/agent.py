"""The agent of a host: its networks, and what Docker, the command line and arpipam-run ask of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

from arpipam.errors import ArpipamError, InputError
from arpipam.fabric import Site
from arpipam.fabric import load as load_fabric
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.link import netlink
from arpipam.protocol.outcome import NO_WITNESS
from launcher.agent.comparison import Ledger
from launcher.agent.conflicts import Conflicts
from launcher.agent.contract import Event, LeaseView, StationView, Status
from launcher.agent.log import logger
from launcher.agent.memory import Stations, StationStore
from launcher.agent.metrics import Metrics
from launcher.agent.network import ready
from launcher.agent.network.lending import AgentClaim, ClaimWish
from launcher.agent.network.network import Network
from launcher.agent.network.shared import Tools
from launcher.agent.pools import DockerPool, PoolStore
from launcher.agent.report import lease_view, network_view
from launcher.agent.server.docker_ipam import AddressRequest, Kind, PoolRequest
from launcher.engine.watch import EngineWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping
    from pathlib import Path

    from launcher.agent.config.file import Config
    from launcher.agent.config.keys import NetworkSettings
    from launcher.engine.model import EngineView

OPENING = 5.0  # s that a new network gets to open its link, before Docker is told that it cannot be made
NO_WITNESS_FOR_DOCKER = (
    "no station answered, so silence proves nothing; name one that must answer when the network is made, with "
    "--ipam-opt witness=ADDRESS, or in the agent's file, or say --ipam-opt alone=true if there is no other"
)
SAVING = 10.0  # s between two times that the stations are put on disk
MOST_EVENTS = 1000  # that are remembered, and that a reader may be behind
QUIET = {"claimed", "handed out", "handed over", "taken over", "released", "adopted"}
"""Events of everyday life, logged at level debug, ..."""
GOOD = {"link up", "engine found", "healed", "moved"}
"""... and good news, at level info; all else is a warning."""


@dataclass
class _Running:
    network: Network
    task: asyncio.Task[None]


class Agent:
    """Use it between `start` and `stop`, on one event loop. What Docker asks raises ArpipamError with one line."""

    def __init__(self, config: Config) -> None:
        self.started = time.time()
        self._loop = asyncio.get_running_loop()
        state_dir = config.agent.state_dir
        leases = SqliteLeaseStore(state_dir / "leases.db")
        self._pools = PoolStore(state_dir / "pools.db")
        self._station_store = _station_store(state_dir / "stations.db")
        self._stations: dict[str, Stations] = {}
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._readers: set[asyncio.Queue[Event]] = set()
        self._engine = "not looked for yet"
        self.metrics = Metrics(self.status)
        self.watch = EngineWatch(
            config.agent.docker_host(),
            interval=lambda: self.tools.config.agent.compare,
            seen=lambda view: self._soon(self._engine_seen, view),
            lost=lambda why: self._soon(self._engine_lost, why),
        )
        self.tools = Tools(
            config=config,
            leases=leases,
            metrics=self.metrics,
            tell=self.tell,
            spawn=self.spawn,
            stations=self._stations_of,
            declared=self._declared,
        )
        self.ledger = self.tools.ledger = Ledger(self.tools, self._networks, self._forget_pool, self.watch.look)
        self._conflicts = Conflicts(self.tools, self.watch.move)

    async def start(self) -> None:
        """Defend every lease that was left, then follow the engine."""
        leases = self.tools.leases
        for lease in leases.leases(states=(LeaseState.CLAIMED,)):
            if lease.owner == ready.OWNER and not leases.held(lease.id):
                leases.release(lease.id, quarantine=0.0)  # nobody defended it meanwhile: it has to be probed again
        leases.reap(quarantine=self.tools.config.agent.quarantine)
        for pool in list(self._pools.pools.values()):
            self._run(pool, self._lenient(pool))
        for lease in leases.leases(states=(LeaseState.BOUND,)):
            if lease.mac and self._network_of(lease.interface, lease.address) is None:
                pool = DockerPool(lease.interface, IPv4Interface(f"{lease.address}/{lease.prefix}").network)
                self._run(pool, self._lenient(pool))
        opening = [asyncio.create_task(network.opened.wait()) for network in self._networks()]
        if opening:
            _, late = await asyncio.wait(opening, timeout=OPENING)
            for task in late:
                task.cancel()
        self.watch.start()
        self.spawn(self._save_stations())

    async def stop(self) -> None:
        """Let go of what is ready; what was handed out stays on disk, and is defended by the next agent."""
        await asyncio.to_thread(self.watch.stop)
        for running in self._running.values():
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._running.values()), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(ArpipamError):
            self._save()
        if self._station_store is not None:
            self._station_store.close()
        self._pools.close()
        self.tools.leases.close()

    async def reload(self, config: Config) -> None:
        """Go on by another file, without letting go of anything."""
        self.tools.config = config
        for running in self._running.values():
            await running.network.configure(self._lenient(running.network.pool))

    # What Docker asks; see docker_ipam.py.

    async def activate(self) -> None:
        """An engine has started: it will ask again for each of its pools."""
        self._pools.recount()

    async def request_pool(self, request: PoolRequest) -> tuple[str, IPv4Network]:
        """A network of Docker's is made, or told of again when the engine starts."""
        settings = self.tools.config.settings(request.subnet, request.options)
        interface = settings.interface
        if interface is None:
            interface = await asyncio.to_thread(self._interface_of, request.subnet)
        wanted = DockerPool(interface, request.subnet, request.ranges, dict(request.options))
        new = wanted.id not in self._running
        if new and wanted.id not in self._pools.pools:
            await asyncio.to_thread(netlink.facts, interface)  # a typing error is told at once
        pool = self._pools.request(wanted)
        if pool.options != wanted.options:
            settings = self._lenient(pool)
        network = self._run(pool, settings)
        if new:
            try:
                await asyncio.wait_for(network.opened.wait(), OPENING)
            except TimeoutError:
                if pool.count == 1 and network.failed:
                    await self.release_pool(pool.id)
                    raise InputError(f"pool {pool.subnet} on {interface}: {network.reason}") from None
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
        if request.kind is not Kind.ENDPOINT:
            return await network.reserved.keep(request.address, gateway=request.kind is Kind.GATEWAY)
        assert request.mac is not None  # noqa: S101 - that is what makes it an endpoint's
        try:
            lease = await network.hand_out(request.mac, request.address)
        except ArpipamError as error:
            text = str(error).replace(NO_WITNESS, NO_WITNESS_FOR_DOCKER)
            network.tell("refused", mac=request.mac, address=str(request.address or ""), text=text)
            raise type(error)(text) from None
        return IPv4Interface(f"{lease.address}/{lease.prefix}")

    async def release_address(self, pool: str, address: IPv4Address) -> None:
        """A container has stopped, or left the network; what is not known was given back already."""
        if pool in self._running:
            await self._running[pool].network.give_back(address)
            self.watch.look()

    # What the command line and arpipam-run ask.

    def status(self) -> Status:
        """Return how the agent is."""
        views = tuple(network_view(network) for network in self._networks())
        return Status(version("arpipam"), os.getpid(), self.started, self._engine, views)

    def leases(self) -> list[LeaseView]:
        """Return all leases of this host."""
        leases = self.tools.leases.leases()
        return [lease_view(lease, self._network_of(lease.interface, lease.address)) for lease in leases]

    def stations(self) -> list[StationView]:
        """Everybody who was seen on the links."""
        return [
            StationView(interface, str(IPv4Address(seen.address)), seen.mac.hex(":"), seen.first, seen.last)
            for interface, stations in sorted(self._stations.items())
            for seen in sorted(stations)
        ]

    async def events(self, *, recent: bool = False) -> AsyncIterator[Event]:
        """What happens, after what happened of late; ends for a reader that is too far behind."""
        queue: asyncio.Queue[Event] = asyncio.Queue(2 * MOST_EVENTS)
        for event in self._events if recent else ():
            queue.put_nowait(event)
        self._readers.add(queue)
        try:
            while queue in self._readers or not queue.empty():
                yield await queue.get()
        finally:
            self._readers.discard(queue)

    async def claim(self, wish: ClaimWish) -> AgentClaim:
        """Claim an address for arpipam-run, defended until it is released or its container is gone."""
        network = await self._network_for(wish)
        started = time.monotonic()
        claim = await network.lending.lend(wish)
        elapsed = time.monotonic() - started
        self.metrics.claimed("search" if wish.address is None else "given", elapsed)
        return AgentClaim(network, claim, elapsed)

    # Parts of these.

    def tell(self, event: Event) -> None:
        """Something happened."""
        self._events.append(event)
        for queue in list(self._readers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._readers.discard(queue)
        said: dict[str, Any] = {key: value for key, value in vars(event).items() if value and key not in {"at", "kind"}}
        log = logger()
        (log.debug if event.kind in QUIET else log.info if event.kind in GOOD else log.warning)(event.kind, **said)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, to its end."""
        task = self._loop.create_task(_told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _networks(self) -> list[Network]:
        return [running.network for running in self._running.values()]

    def _run(self, pool: DockerPool, settings: NetworkSettings) -> Network:
        running = self._running.get(pool.id)
        if running is None:
            network = Network(pool, settings, self.tools, self._loop)
            network.on_conflict = self._conflicts.met
            running = self._running[pool.id] = _Running(network, self._loop.create_task(_told(network.run())))
        running.network.pool = pool
        return running.network

    async def _end(self, pool_id: str) -> None:
        running = self._running.pop(pool_id, None)
        if running is None:
            return
        network = running.network
        await network.reserved.forget()
        for address in list(network.held):
            await network.release(address)
        running.task.cancel()
        with suppress(asyncio.CancelledError):
            await running.task

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
        return self._run(pool, self._lenient(pool))

    def _network_of(self, interface: str, address: IPv4Address) -> Network | None:
        fitting = (n for n in self._networks() if n.pool.interface == interface and address in n.pool.subnet)
        return next(fitting, None)

    async def _network_for(self, wish: ClaimWish) -> Network:
        """The network that a wish of arpipam-run means; made where Docker has none there."""
        facts = await asyncio.to_thread(netlink.facts, wish.interface)
        inside = IPv4Address(wish.address) if wish.address else None
        own = [p.network for p in facts.prefixes if inside is None or inside in p.network]
        if wish.subnet is None and not own:
            raise InputError(f"{wish.interface} has no IPv4 address to take the subnet from; name the subnet")
        subnet = IPv4Network(wish.subnet) if wish.subnet else own[0]
        for network in self._networks():
            if network.pool.interface == wish.interface and network.pool.subnet == subnet:
                break
        else:
            network = self._run(DockerPool(wish.interface, subnet), self.tools.config.settings(subnet, {"ready": "0"}))
        with suppress(TimeoutError):
            await asyncio.wait_for(network.opened.wait(), OPENING)
        return network

    def _lenient(self, pool: DockerPool) -> NetworkSettings:
        """The settings of a pool that exists; options that have become wrong are left out, and told."""
        try:
            return self.tools.config.settings(pool.subnet, pool.options)
        except InputError as error:
            logger().warning("options of a pool are left out", pool=pool.id, reason=str(error))
            return self.tools.config.settings(pool.subnet, {})

    def _interface_of(self, subnet: IPv4Network) -> str:
        """The interface that has the subnet, or on which the fabric declares it."""
        found = netlink.on_subnet(subnet)
        if len(found) == 1:
            return found[0]
        file = self.tools.config.agent.fabric_file()
        if file is not None:
            fabric = load_fabric(file)
            if fabric.subnet.overlaps(subnet):
                return fabric.bridge
        several = (
            f"several interfaces have an address in it ({', '.join(found)})"
            if found
            else ("no interface has an address in it")
        )
        raise InputError(f"pool {subnet}: {several}; name the link: --ipam-opt interface=IF")

    def _declared(
        self, pool: DockerPool, settings: NetworkSettings
    ) -> tuple[Mapping[IPv4Address, str], tuple[str, ...]]:
        required = dict.fromkeys(settings.witnesses, "")
        file = self.tools.config.agent.fabric_file()
        fabric = None if file is None else load_fabric(file)
        if fabric is None or fabric.bridge != pool.interface or not fabric.subnet.overlaps(pool.subnet):
            return required, ()
        site = Site(fabric, self.tools.config.agent.state_dir, name=self.tools.config.agent.host)
        names = {host.address.ip: host.name for host in fabric.hosts}
        required |= {address: names.get(address, "") for address in site.witnesses()}
        return required, tuple(str(address) for address in site.kept() if address in pool.subnet)

    def _stations_of(self, interface: str) -> Stations:
        if interface not in self._stations:
            store = self._station_store
            self._stations[interface] = Stations() if store is None else store.load(interface)
        return self._stations[interface]

    async def _save_stations(self) -> None:
        while True:
            await asyncio.sleep(SAVING)
            try:
                await asyncio.to_thread(self._save)
            except ArpipamError as error:
                logger().warning("stations not saved", reason=str(error))

    def _save(self) -> None:
        if self._station_store is not None:
            for interface, stations in list(self._stations.items()):
                self._station_store.save(interface, stations)

    # The engine's news, which come from its thread.

    def _soon(self, function: Any, *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _engine_seen(self, view: EngineView) -> None:
        if self._engine != view.version:
            self._engine = view.version
            self.tell(Event(time.time(), "engine found", text=f"Docker {view.version}"))
        self.spawn(self.ledger.compare(view))

    def _engine_lost(self, why: str) -> None:
        if self._engine != why:
            self._engine = why
            self.tell(Event(time.time(), "engine lost", text=why))


def _station_store(path: Path) -> StationStore | None:
    """What is remembered of stations is a hint: without its file the agent works all the same."""
    try:
        return StationStore(path)
    except ArpipamError as error:
        logger().warning("stations are not kept on disk", reason=str(error))
        return None


async def _told(work: Coroutine[Any, Any, None]) -> None:
    """Work whose failure would else be seen by nobody."""
    try:
        await work
    except Exception:  # noqa: BLE001 - the agent goes on
        logger().exception("internal error, please report it")
