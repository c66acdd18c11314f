"""What is given out where addresses are promised, rest, or were ours; and how often a container is moved."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from arpipam.claim import Conflict
from arpipam.errors import AddressInUseError, LinkError, PoolExhaustedError
from launcher.agent import conflicts
from launcher.agent.config.keys import NetworkSettings
from launcher.agent.conflicts import MOST_MOVES, Conflicts
from launcher.agent.journal import Journal
from launcher.agent.network import claiming, ready, sightings
from launcher.agent.network.claiming import since
from launcher.agent.network.held import Role
from tests.support.leases import MAC, address, reserved
from tests.support.networks import FOREIGN, MACS, OTHER, SUBNET, bench, endpoint, opened, seen, soon

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from arpipam.leases.sqlite import SqliteLeaseStore

RANGE = NetworkSettings(ready=0, range=("10.0.0.4-10.0.0.6",))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "LOOK", 0.01)
    monkeypatch.setattr(ready, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sightings, "COUNT_EVERY", 0.0)
    monkeypatch.setattr(claiming, "GIVEN_UP", 0.0)
    monkeypatch.setattr(conflicts, "DECIDE", 0.0)


def all_but(*left: IPv4Address) -> set[IPv4Address]:
    return set(SUBNET.hosts()) - set(left)


def test_what_is_promised_is_given_to_nobody_else_and_not_kept_ready(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, NetworkSettings(ready=1)) as made:
            network = made.network
            await soon(lambda: len(network.ready) == 1, "a ready address")
            [first] = network.holdings.of(Role.READY)
            network.promises.learn([first.address])
            assert network.ready.take() is None  # before it is given up, too
            await soon(lambda: first.ending is not None and len(network.ready) == 1, "another one")
            lease = await network.hand_out.give(MAC, None)
            assert lease.address != first.address
            assert (await network.hand_out.give(OTHER, first.address)).address == first.address

    asyncio.run(test())


def test_what_rests_goes_out_again_where_nothing_else_is_free(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, RANGE) as made:
            network, wire = made.network, made.wire
            wire.used = all_but(address(4), address(5), address(6))
            given = {lease.address: lease for lease in [await network.hand_out.give(mac, None) for mac in MACS[:3]]}
            with pytest.raises(PoolExhaustedError, match=r"no address is free$"):
                await network.hand_out.give(MACS[5], None)
            for number in (5, 6, 4):
                await network.end(network.holdings.get(address(number)))  # type: ignore[arg-type]
            network.promises.learn([address(5)])
            wire.used.add(address(6))
            lease = await network.hand_out.give(MACS[5], None)
            assert lease.address == address(4)
            assert lease.id != given[address(4)].id
            with pytest.raises(PoolExhaustedError, match=r"; 2 rest after their release, the next one for \d+ s more$"):
                await network.hand_out.give(MACS[6], None)

    asyncio.run(test())


def test_a_refusal_names_the_container_that_had_the_mac(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store) as made:
            network = made.network
            lease = await network.hand_out.give(MAC, address(9))
            held = network.holdings.get(lease.address)
            assert held is not None
            await network.holdings.set_owner(held, "web", "web@e1")
            await network.end(held)

            def refuse(mac: str) -> None:
                made.wire.refusal = AddressInUseError(f"br0: {address(9)} is in use by {mac}", mac)

            refuse(MAC)
            with pytest.raises(AddressInUseError, match=rf"{MAC}; that is the MAC by which web had it until 0 s ago"):
                await network.hand_out.give(MAC, address(9))
            refuse(FOREIGN)
            with pytest.raises(AddressInUseError, match=rf"{FOREIGN}$"):
                await network.hand_out.give(MAC, address(9))

    asyncio.run(test())


@pytest.mark.parametrize("running", [False, True])
def test_a_stopped_containers_own_lease_needs_no_link(
    store: SqliteLeaseStore,
    running: bool,  # noqa: FBT001 - a case
) -> None:
    lease = store.hand_out(reserved(store).id, MAC, "web", "web@e1")

    async def test() -> None:
        made = bench(store)
        made.containers.view = seen(endpoint(lease.address, "web", mac=MAC, running=running), at=0.0)
        for wanted in (None, address(200)):
            with pytest.raises(LinkError, match="not opened yet"):
                await made.network.hand_out.give(OTHER, wanted)
        if running:
            with pytest.raises(AddressInUseError, match="belongs to web on this host"):
                await made.network.hand_out.give(OTHER, lease.address)
        else:
            given = await made.network.hand_out.give(OTHER, lease.address)
            assert (given.id, given.mac, given.owner, given.container) == (lease.id, OTHER, "web", "web@e1")
            assert store.get(lease.id) == given

    asyncio.run(test())


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1.0, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7199.0, "120 min"), (7200.0, "2 h")]
)
def test_a_span_of_time_for_a_person(seconds: float, said: str) -> None:
    assert since(seconds) == said


def test_a_station_that_takes_a_ready_address_is_told_once(store: SqliteLeaseStore) -> None:
    async def test() -> None:
        async with opened(store, NetworkSettings(ready=1)) as made:
            await soon(lambda: len(made.network.ready) == 1, "a ready address")
            [held] = made.network.holdings.of(Role.READY)
            for _ in range(5000):
                made.network._met(held, Conflict(held.address, held.lease.mac, FOREIGN, None))
            await soon(lambda: held.ending is not None, "its end")
            assert made.kinds().count("conflict") == 1

    asyncio.run(test())


class Moves:
    """Conflicts of one container that another station follows."""

    def __init__(self) -> None:
        self.moved: list[str] = []
        self.now = 1000.0
        loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.journal = Journal(lambda: self.now)
        tools: Any = SimpleNamespace(
            edges=SimpleNamespace(monotonic=lambda: self.now, now=lambda: self.now, run_hook=None),
            metrics=SimpleNamespace(conflict=lambda _: None),
            journal=self.journal,
            config=SimpleNamespace(agent=SimpleNamespace(hook=None)),
            containers=SimpleNamespace(attached=lambda _: "lan", given_by_us=lambda _: True),
            spawn=lambda work: self._tasks.append(loop.create_task(work)),
        )
        self.network = cast(
            "Any",
            SimpleNamespace(
                interface="br0",
                settings=NetworkSettings(policy="move"),
                holdings=SimpleNamespace(has=lambda _: True),
                tell=lambda kind, **said: self.journal.add(kind, "br0", **said),
            ),
        )
        self.conflicts = Conflicts(tools, self._move)

    async def _move(self, container: str, network: str) -> None:
        self.moved.append(f"{container} {network}")

    async def meet(self, container: str, last: int) -> None:
        """The container has that address, and another station uses it."""
        lease = SimpleNamespace(owner="web", container=container)
        held: Any = SimpleNamespace(
            lease=lease,
            address=address(last),
            born=0.0,
            conflict=None,
            claim=SimpleNamespace(announce_soon=lambda: None),
        )
        self.conflicts.met(self.network, held, Conflict(address(last), MAC, FOREIGN, None))
        await asyncio.gather(*self._tasks)

    def told(self, kind: str) -> list[str]:
        return [event.text for event in self.journal._events if event.kind == kind]


def test_a_container_is_moved_a_few_times_an_hour_at_most() -> None:
    async def test() -> None:
        moves = Moves()
        for last in range(10):
            await moves.meet("web@e1", last)
            moves.now += 20.0
        assert len(moves.moved) == len(moves.told("moved")) == MOST_MOVES == 3
        [told] = moves.told("move failed")
        assert "was moved 3 times within an hour" in told
        assert moves.told("conflict")[-1].endswith("find that station")
        await moves.meet("other@e1", 20)
        assert len(moves.moved) == 4
        moves.now += 3600.0 - 200.0
        await moves.meet("web@e1", 30)
        assert len(moves.moved) == 5

    asyncio.run(test())
