"""Another station uses an address of ours: it is told, counted, passed to the hook, and met by the network's policy.

`defend` and `report` are the claim's own business (see acd.py); `move` gives the container another address. Where two
claims meet, as after a cut, the older one stays, and both hosts know which one that is.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError
from launcher.agent.contract import Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address
    from pathlib import Path

    from arpipam.claim import Conflict
    from launcher.agent.network.network import Held, Network
    from launcher.agent.network.shared import Tools

TOLD_EVERY = 10.0  # s: the same conflict is told again after so long, as RFC 5227's DEFEND_INTERVAL
DECIDE = 1.0  # s that another host's agent gets to say since when it has the address, before we move
INFANCY = 5.0  # s: a claim so young that meets an older one was never free, and its container moves by any policy
MOVING = 60.0  # s that the container gets to run, so that it can be moved
LOOK = 0.5  # s between two looks at that
HOOK_TIME = 30.0  # s that the hook program may take
HOOKS_AT_ONCE = 4
_MEMORY = 1024


class Conflicts:
    """Takes in all conflicts of the agent; `move(container, network)` is the engine's, and waits."""

    def __init__(self, tools: Tools, move: Callable[[str, str], None]) -> None:
        self._tools = tools
        self._move = move
        self._told: dict[tuple[str, IPv4Address, str, bool | None], float] = {}
        self._moving: set[IPv4Address] = set()
        self._hooks = asyncio.Semaphore(HOOKS_AT_ONCE)

    def met(self, network: Network, held: Held, conflict: Conflict) -> None:
        """Another station uses the address."""
        self._tools.metrics.conflict(network.pool.interface)
        young = conflict.older is False and time.time() - held.claim.lease.created < INFANCY
        moves = young or (network.settings.policy == "move" and conflict.older is not True)
        key = network.pool.interface, conflict.address, conflict.other, conflict.older
        now = time.monotonic()
        if now - self._told.get(key, -TOLD_EVERY) >= TOLD_EVERY:
            if len(self._told) >= _MEMORY:  # whoever makes up MACs is told of less often
                self._told.clear()
            self._told[key] = now
            self._tell(network, held, conflict, moves=moves)
        if moves and conflict.address not in self._moving:
            self._moving.add(conflict.address)
            self._tools.spawn(self._move_on(network, held, conflict))

    def _tell(self, network: Network, held: Held, conflict: Conflict, *, moves: bool) -> None:
        policy = network.settings.policy
        if conflict.older is None:
            does = {
                "defend": "it is told that the address is ours",
                "report": "find that station",
                "move": "the container gets another address unless that is the younger claim of another agent",
            }[policy]
        elif conflict.older:
            does = "our claim is the older one and stays"
        else:
            does = "its claim is the older one: " + (
                "the container gets another address" if moves else "give the container another address"
            )
        owner = held.claim.lease.owner
        text = f"{conflict.other} uses {conflict.address} of {owner} too; {does}"
        event = Event(
            time.time(),
            "conflict",
            network.pool.interface,
            address=str(conflict.address),
            mac=conflict.mac,
            other=conflict.other,
            owner=owner,
            text=text,
        )
        self._tools.tell(event)
        hook = self._tools.config.agent.hook
        if hook is not None:
            self._tools.spawn(self._run_hook(hook, event))

    async def _run_hook(self, hook: Path, event: Event) -> None:
        """Run the program with the event as JSON on its standard input."""
        async with self._hooks:
            try:
                process = await asyncio.create_subprocess_exec(
                    hook, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
                )
            except OSError as error:
                self._tools.tell(Event(time.time(), "hook failed", text=f"hook {hook}: {error.strerror}"))
                return
            try:
                async with asyncio.timeout(HOOK_TIME):
                    await process.communicate(json.dumps(asdict(event)).encode() + b"\n")
            except TimeoutError:
                self._tools.tell(Event(time.time(), "hook failed", text=f"hook {hook}: killed after {HOOK_TIME:g} s"))
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

    async def _move_on(self, network: Network, held: Held, conflict: Conflict) -> None:
        """Give the container another address, unless ours turns out to be the older of two claims."""
        address = conflict.address
        try:
            if conflict.older is None:
                held.claim.announce_soon()  # says since when we have it; another agent answers with the same
                await asyncio.sleep(DECIDE)
                if held.conflict is not None and held.conflict.older:
                    return
            until = time.monotonic() + MOVING
            while (docker := self._tools.ledger.attached(held.claim.lease)) is None:
                if network.held.get(address) is not held or time.monotonic() > until:
                    return  # it has stopped, or moved already
                await asyncio.sleep(LOOK)
            if not self._tools.ledger.given_by_us(docker):
                text = f"{held.claim.lease.owner} keeps {address}: {docker} has Docker's own addresses; start it anew"
                network.tell("move failed", address=str(address), owner=held.claim.lease.owner, text=text)
                return
            held.leaving = True
            try:
                await asyncio.to_thread(self._move, held.claim.lease.container.partition("@")[0], docker)
            except ArpipamError as error:
                text = f"{held.claim.lease.owner} keeps {address}, which {conflict.other} uses too: {error}"
                network.tell("move failed", address=str(address), owner=held.claim.lease.owner, text=text)
            else:
                text = f"{held.claim.lease.owner} has another address, since {conflict.other} uses {address} too"
                network.tell("moved", address=str(address), owner=held.claim.lease.owner, text=text)
        finally:
            held.leaving = False
            self._moving.discard(address)
