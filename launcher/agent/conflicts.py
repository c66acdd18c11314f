"""Another station uses an address of ours: it is told, counted, passed to the hook, and met by the network's policy.

`defend` and `report` are the claim's own business (see acd.py); `move` gives the container another address. Where two
claims meet, as after a cut, the older one stays, and both hosts know which one that is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError
from launcher.agent.contract import Event, EventKind
from launcher.agent.flood import Flood
from launcher.agent.hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ipaddress import IPv4Address

    from arpipam.claim import Conflict
    from launcher.agent.network.held import Held
    from launcher.agent.network.network import Network
    from launcher.agent.network.shared import Tools

TOLD_EVERY = 10.0  # s: the same conflict is told again after so long, as RFC 5227's DEFEND_INTERVAL
DECIDE = 1.0  # s that another host's agent gets to say since when it has the address, before we move
INFANCY = 5.0  # s: a claim so young that meets an older one was never free, and its container moves by any policy
MOVING = 60.0  # s that the container gets to run, so that it can be moved
LOOK = 0.5  # s between two looks at that
MOST_OF_ONE, MOST_IN_ALL = 4, 64  # conflicts told in TOLD_EVERY, of one address and of all; the rest is counted
MOVES_AT_ONCE = 2
MOST_MOVES, MOVES_SPAN = 3, 3600.0  # moves of one container in so many seconds; what follows it moves on too
_MEMORY = 1024


class Conflicts:
    """Takes in all conflicts of the agent; `move(container, network)` is the engine's."""

    def __init__(self, tools: Tools, move: Callable[[str, str], Awaitable[None]]) -> None:
        self._tools = tools
        self._edges = tools.edges
        self._move = move
        self._told: dict[tuple[str, IPv4Address, str, bool | None], float] = {}
        self._moving: set[tuple[str, IPv4Address]] = set()
        self._moved: dict[str, deque[float]] = {}
        """When each container was moved of late."""
        self._restless: set[str] = set()
        """Those that are not moved any more for now."""
        self._moves = asyncio.Semaphore(MOVES_AT_ONCE)
        self._hooks = Hooks(tools.journal, tools.spawn, tools.edges.run_hook)
        self._flood = Flood(TOLD_EVERY, MOST_OF_ONE, MOST_IN_ALL)

    def met(self, network: Network, held: Held, conflict: Conflict) -> None:
        """Another station uses the address."""
        self._tools.metrics.conflict(network.interface)
        young = conflict.older is False and self._edges.monotonic() - held.born < INFANCY
        moves = young or (network.settings.policy == "move" and conflict.older is not True)
        moves = moves and not self._is_restless(network, held)
        key = network.interface, conflict.address, conflict.other, conflict.older
        now = self._edges.monotonic()
        if now - self._told.get(key, -TOLD_EVERY) >= TOLD_EVERY:
            if len(self._told) >= _MEMORY:  # a station that makes up MACs is told of less often
                self._told.clear()
            self._told[key] = now
            counted = self._flood.is_counting
            if self._flood.admits((network.interface, conflict.address), now):
                self._tell(network, held, conflict, moves=moves)
            elif not counted:
                asyncio.get_running_loop().call_later(TOLD_EVERY, self._tell_counts)
        if moves and (network.interface, conflict.address) not in self._moving:
            self._moving.add((network.interface, conflict.address))
            self._tools.spawn(self._move_on(network, held, conflict))

    def _is_restless(self, network: Network, held: Held) -> bool:
        """Whether its container was moved so often of late that it stays now, which is told once."""
        now, container = self._edges.monotonic(), held.lease.container
        self._moved = {name: times for name, times in self._moved.items() if now - times[-1] < MOVES_SPAN}
        times = self._moved.get(container)
        if times is None or len(times) < MOST_MOVES or now - times[0] >= MOVES_SPAN:
            self._restless.discard(container)
            return False
        if container not in self._restless:
            self._restless.add(container)
            text = (
                f"{held.lease.owner} keeps {held.address}: it was moved {MOST_MOVES} times within an hour, and others "
                "use its addresses all the same; find that station, conflicts are only reported until then"
            )
            network.tell(EventKind.MOVE_FAILED, address=str(held.address), owner=held.lease.owner, text=text)
        return True

    def _tell(self, network: Network, held: Held, conflict: Conflict, *, moves: bool) -> None:
        policy = network.settings.policy
        if conflict.older is None:
            does = {
                "defend": "it is told that the address is ours",
                "report": "find that station",
                "move": "the container gets another address unless that is the younger claim of another agent",
            }["report" if policy == "move" and not moves else policy]
        elif conflict.older:
            does = "our claim is the older one and stays"
        else:
            does = "its claim is the older one: " + (
                "the container gets another address" if moves else "give the container another address"
            )
        owner = held.lease.owner
        text = f"{conflict.other} uses {conflict.address} of {owner} too; {does}"
        event = Event(
            self._edges.now(),
            EventKind.CONFLICT,
            network.interface,
            address=str(conflict.address),
            mac=conflict.mac,
            other=conflict.other,
            owner=owner,
            text=text,
        )
        self._pass_on(event)

    def mismatch(self, interface: str, text: str) -> None:
        """The engine has made another network than was meant."""
        self._pass_on(Event(self._edges.now(), EventKind.MISMATCH, interface, text=text))

    def link(self, kind: str, interface: str, text: str) -> None:
        """A link is down, or up again, which its network has told to all others."""
        self._to_hook(Event(self._edges.now(), kind, interface, text=text))

    def _pass_on(self, event: Event) -> None:
        """To all who read the events, and to the hook."""
        self._tools.journal.tell(event)
        self._to_hook(event)

    def _to_hook(self, event: Event) -> None:
        hook = self._tools.config.agent.hook
        if hook is not None:
            self._hooks.pass_on(hook, event)

    def _tell_counts(self) -> None:
        """Of a flood, only numbers."""
        for key, count in self._flood.take().items():
            interface, address = key if isinstance(key, tuple) else ("", "")
            where = f"use of {address}" if address else "use of further addresses"
            text = f"{where} by other stations: {count} more conflicts than were told one by one"
            self._tools.journal.add(EventKind.CONFLICT, str(interface), address=str(address), text=text)

    async def _move_on(self, network: Network, held: Held, conflict: Conflict) -> None:
        """Give the container another address, unless ours turns out to be the older of two claims."""
        address = conflict.address
        try:
            if conflict.older is None:
                held.claim.announce_soon()  # says since when we have it; another agent answers with the same
                await asyncio.sleep(DECIDE)
                if held.conflict is not None and held.conflict.older:
                    return
            until = self._edges.monotonic() + MOVING
            while (docker := self._tools.containers.attached(held.lease)) is None:
                if not network.holdings.has(held) or self._edges.monotonic() > until:
                    return  # it has stopped, or moved already
                await asyncio.sleep(LOOK)
            if not self._tools.containers.given_by_us(docker):
                text = f"{held.lease.owner} keeps {address}: {docker} has Docker's own addresses; start it anew"
                network.tell("move failed", address=str(address), owner=held.lease.owner, text=text)
                return
            try:
                async with self._moves:
                    if not network.holdings.has(held):
                        return  # it has stopped while others were moved
                    held.leaving = True
                    times = self._moved.setdefault(held.lease.container, deque(maxlen=MOST_MOVES))
                    times.append(self._edges.monotonic())
                    await self._move(held.lease.container.partition("@")[0], docker)
            except ArpipamError as error:
                text = f"{held.lease.owner} keeps {address}, which {conflict.other} uses too: {error}"
                network.tell("move failed", address=str(address), owner=held.lease.owner, text=text)
            else:
                text = f"{held.lease.owner} has another address, since {conflict.other} uses {address} too"
                network.tell("moved", address=str(address), owner=held.lease.owner, text=text)
        finally:
            held.leaving = False
            self._moving.discard((network.interface, address))
