"""Addresses that are claimed ahead of need: probed by RFC 5227's own timing, announced, defended, ready to hand out.

They are watched and defended, never probed again (RFC 5227, 2.1, last paragraph), and carry a host through a cut, since
they were claimed while the link was whole.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from arpipam.claim import ClaimState, Conflict
from arpipam.errors import ArpipamError, LinkError
from arpipam.protocol.timing import RFC5227

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from arpipam.claim import Claim
    from arpipam.protocol.pool import Pool
    from launcher.agent.network.network import Network

OWNER = "ready"
"""The owner of their leases."""
LOOK = 0.25  # s between two looks at how many there should be
DEMAND = 15.0  # s: as many as were handed out in that time are wanted beside the usual number; a claim takes some 7 s
PATIENCE = 30.0  # s for which there may be more of them than wanted
SHARE = 8  # one address in so many of those left may be kept ready, so that they starve nobody
AT_ONCE = 8  # claims under way at most
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # s to wait after a claim that failed


class Ready:
    """The ready addresses of one network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._claims: deque[Claim] = deque()
        self._taken: deque[float] = deque(maxlen=256)
        self._under_way: set[asyncio.Task[None]] = set()
        self._pause = FIRST_PAUSE
        self._pause_until = 0.0
        self._surplus_since: float | None = None

    def __len__(self) -> int:
        return len(self._claims)

    def __iter__(self) -> Iterator[Claim]:
        return iter(tuple(self._claims))

    def wanted(self) -> int:
        """How many there should be: the usual number and what was asked for of late, and few where few are left."""
        settings = self._network.settings
        if settings.ready == 0:
            return 0
        now = time.monotonic()
        demand = sum(1 for at in self._taken if now - at < DEMAND)
        allowed = (self._network.seen.left() + len(self._claims)) // SHARE
        return min(settings.ready + demand, max(settings.ready, settings.most_ready), allowed)

    async def take(self, among: Pool | Collection[int] | None = None) -> Claim | None:
        """The one that has been ready longest, of these addresses where they are named; None where there is none."""
        self._taken.append(time.monotonic())
        if self._claims:  # what came in while we had no processor may say that one of them is lost
            await asyncio.wrap_future(self._network.allocator.driver.catch_up())
        claim = next((claim for claim in self._claims if among is None or int(claim.address) in among), None)
        if claim is not None:
            self._claims.remove(claim)
        return claim

    async def run(self) -> None:
        """Keep as many as wanted, until cancelled; then give all back."""
        try:
            while True:
                self._fill()
                await self._thin_out()
                await asyncio.sleep(LOOK)  # refilling can wait for the request that made it necessary
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            for claim in self:
                await self._give_back(claim, 0.0)

    def _fill(self) -> None:
        if time.monotonic() < self._pause_until or self._network.required.silent():
            return
        missing = self.wanted() - len(self._claims) - len(self._under_way)
        for _ in range(min(missing, AT_ONCE - len(self._under_way))):
            task = asyncio.create_task(self._one_more())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _one_more(self) -> None:
        try:
            claim = await self._network.claim(OWNER, None, None, confirm=RFC5227)
        except ArpipamError as error:
            self._network.tell("exhausted", text=f"no ready address: {error}")
            self._pause_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        loop = asyncio.get_running_loop()
        spoilt = asyncio.Event()

        def changed(state: ClaimState) -> None:
            if state in {ClaimState.CONFLICT, ClaimState.LINK_LOST}:
                loop.call_soon_threadsafe(spoilt.set)
                loop.call_soon_threadsafe(self._drop, claim)

        def met(conflict: Conflict) -> None:  # it need not be ours: nobody has it yet
            loop.call_soon_threadsafe(spoilt.set)
            loop.call_soon_threadsafe(self._lose, claim, conflict)

        def absent(mac: str) -> None:
            met(Conflict(claim.address, claim.mac, mac, None))

        claim.on_change(changed)
        claim.on_conflict(met)
        claim.on_absence(absent)
        # RFC 5227's timing takes seconds: a cut meanwhile would leave it with a claim that the others never heard of.
        try:
            whole = await self._network.required.whole()
        except BaseException:
            await self._give_back(claim, 0.0)
            raise
        if spoilt.is_set() or not whole:
            await self._give_back(claim, 0.0)
            return
        self._pause = FIRST_PAUSE
        self._claims.append(claim)
        self._network.tell("claimed", address=str(claim.address), mac=claim.mac, owner=OWNER)

    def _drop(self, claim: Claim) -> None:
        with suppress(ValueError):
            self._claims.remove(claim)

    def _lose(self, claim: Claim, conflict: Conflict) -> None:
        if claim not in self._claims:
            return
        self._drop(claim)
        text = "another station uses a ready address; it is given up"
        self._network.tell("conflict", address=str(claim.address), mac=claim.mac, other=conflict.other, text=text)
        self._network.tools.spawn(self._give_back(claim, self._network.tools.config.agent.quarantine))

    async def _thin_out(self) -> None:
        """Give back what is too many: at once where few addresses are left, else when that has lasted."""
        wanted = self.wanted()
        for task in list(self._under_way)[max(0, wanted - len(self._claims)) :]:
            if wanted < self._network.settings.ready:
                task.cancel()
        if len(self._claims) <= wanted:
            self._surplus_since = None
            return
        now = time.monotonic()
        self._surplus_since = self._surplus_since or now
        few = wanted < self._network.settings.ready
        while len(self._claims) > wanted and (few or now - self._surplus_since > PATIENCE):
            claim = self._claims.pop()
            await self._give_back(claim, 0.0)
            self._network.tell("released", address=str(claim.address), mac=claim.mac, owner=OWNER)

    async def _give_back(self, claim: Claim, quarantine: float) -> None:
        self._drop(claim)
        self._network.seen.not_mine(claim.mac)
        with suppress(LinkError):
            await asyncio.to_thread(claim.release, quarantine)
