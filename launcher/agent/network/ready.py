"""Addresses that are claimed ahead of need: probed by RFC 5227's own timing, announced, defended, ready to hand out.

They are watched and defended, and not probed again (RFC 5227, 2.1, last paragraph) as long as the link is heard without
a gap (link/hearing.py). After one, somebody may have taken one of them unheard: each is probed again before anybody
gets it. Here it is decided how many there are, and when; the holdings have them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from arpipam.claim import Conflict
from arpipam.claim_state import ClaimState
from arpipam.errors import ArpipamError, LeaseError, LinkError, UnknownError
from arpipam.protocol.outcome import Verdict
from arpipam.protocol.timing import RFC5227
from launcher.agent.contract import EventKind
from launcher.agent.network.held import READY_OWNER, Role
from launcher.agent.network.search import MadeWayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ipaddress import IPv4Address

    from arpipam.protocol.pool import Pool
    from launcher.agent.config.keys import NetworkSettings
    from launcher.agent.edges import Edges
    from launcher.agent.network.held import Held
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.promises import Promises
    from launcher.agent.network.search import AddressSearch
    from launcher.agent.network.sightings import Sightings
    from launcher.agent.network.witnesses import RequiredWitnesses
    from launcher.agent.supervise import Supervisor

PART, CHECK = "ready addresses", "another look at ready addresses"
"""Their names among the failures."""
SOON = 0.02  # s between two looks at whether an address is confirmed
LOOK = 0.25  # s between two looks at how many there should be
DEMAND = 15.0  # s: as many as were handed out in that time are wanted beside the usual number; a claim takes some 7 s
PATIENCE = 30.0  # s for which there may be more of them than wanted
SHARE = 8  # one address in so many of those left may be kept ready, so that they starve nobody
AT_ONCE = 8  # claims under way at most
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # s to wait after a claim that failed


class Ready:
    """The ready addresses of one network."""

    def __init__(
        self,
        holdings: Holdings,
        search: AddressSearch,
        witnesses: RequiredWitnesses,
        sightings: Sightings,
        supervisor: Supervisor,
        *,
        promises: Promises,
        settings: Callable[[], NetworkSettings],
        tell: Callable[..., None],
        edges: Edges,
    ) -> None:
        self._holdings = holdings
        self._search = search
        self._witnesses = witnesses
        self._sightings = sightings
        self._supervisor = supervisor
        self._promises = promises
        self._settings = settings
        self._tell = tell
        self._now = edges.monotonic
        self._taken: deque[float] = deque(maxlen=256)
        self._fills: set[asyncio.Task[bool]] = set()
        self._ends: set[asyncio.Task[bool]] = set()
        self._checks: dict[Held, asyncio.Task[bool]] = {}
        """Those that are being probed again."""
        self._confirming: dict[Held, asyncio.Event] = {}
        """Those that are claimed and not yet known to be claimed on a whole link; set: they are spoilt."""
        self._trouble = ""
        self._pause = FIRST_PAUSE
        self._pause_until = 0.0
        self._check_pause = FIRST_PAUSE
        self._check_until = 0.0
        self._surplus_since: float | None = None

    def __len__(self) -> int:
        return len(self._able())

    def wanted(self) -> int:
        """How many there should be: the usual number and what was asked for of late, and few where few are left."""
        settings = self._settings()
        if settings.ready == 0:
            return 0
        now = self._now()
        demand = sum(1 for at in self._taken if now - at < DEMAND)
        allowed = (self._sightings.left + len(self)) // SHARE
        return min(settings.ready + demand, max(settings.ready, settings.most_ready), allowed)

    @property
    def trouble(self) -> str:
        """Why there are fewer than there should be, if it is known."""
        return self._trouble if len(self) < self.wanted() else ""

    def demand(self) -> None:
        """An address is asked for."""
        self._taken.append(self._now())

    def take(self, among: Pool | None = None) -> Held | None:
        """The one that has been ready longest, in this pool if one is given; None where there is none.

        It has to be handed out, lent or ended before anything else is waited for but that.
        """
        fitting = (held for held in self._able() if among is None or int(held.address) in among)
        return self._take(next((held for held in fitting if int(held.address) not in self._promises), None))

    def take_named(self, address: IPv4Address) -> Held | None:
        """The same for this address, which is asked for by name; it may have to be probed again."""
        return self._take(next((held for held in self._claimed() if held.address == address), None))

    @staticmethod
    def _take(taken: Held | None) -> Held | None:
        if taken is not None:
            taken.role = Role.LENT  # nobody else takes it
        return taken

    async def confirmed(self, address: IPv4Address) -> None:
        """Wait while it is being seen whether the address may become a ready one."""
        while any(held.address == address for held in self._confirming):  # noqa: ASYNC110 - each has an end of its own
            await asyncio.sleep(SOON)

    async def run(self) -> None:
        """Keep as many as wanted, until cancelled."""
        while True:
            await self._sightings.count()
            self._check()
            self._fill()
            await self._thin_out()
            await self._keep_promises()
            await asyncio.sleep(LOOK)  # refilling can wait for the request that made it necessary

    async def close(self) -> None:
        """End what is under way and what is ready."""
        for task in (*self._fills, *self._checks.values()):
            task.cancel()
        await asyncio.gather(*self._fills, *self._checks.values(), *self._ends, return_exceptions=True)
        ready = self._holdings.of(Role.READY)
        await asyncio.gather(*(self._holdings.end(held, 0.0) for held in ready), return_exceptions=True)

    def look_again(self) -> None:
        """A gap is over: what failed before is worth a new try at once."""
        self._pause, self._pause_until = FIRST_PAUSE, 0.0
        self._check_pause, self._check_until = FIRST_PAUSE, 0.0

    def changed(self, held: Held, state: ClaimState) -> None:
        """One of them may be lost."""
        if state in {ClaimState.CONFLICT, ClaimState.LINK_LOST}:
            self._end_soon(held, None if state is ClaimState.CONFLICT else 0.0)

    def met(self, held: Held, conflict: Conflict) -> None:
        """Another station uses a ready address: it need not be ours, since nobody has it yet."""
        if held not in self._confirming:
            text = "another station uses a ready address; it is given up"
            self._tell(EventKind.CONFLICT, address=str(held.address), mac=conflict.mac, other=conflict.other, text=text)
        self._end_soon(held, None)

    def let_go(self, among: Pool) -> None:
        """None of these addresses may be handed out any more."""
        for held in self._holdings.of(Role.READY):
            if int(held.address) in among:
                self._end_soon(held, 0.0)

    def _able(self) -> list[Held]:
        """Those that may be handed out."""
        return [held for held in self._claimed() if not held.claim.needs_check]

    def _claimed(self) -> list[Held]:
        """These, and those that have to be probed again first."""
        ready = self._holdings.of(Role.READY)
        return [held for held in ready if held.is_defended and held not in self._confirming]

    def _check(self) -> None:
        """Probe again what was claimed before the link could not be heard for a while."""
        if self._now() < self._check_until or self._witnesses.silent():
            return
        for held in self._claimed():
            if held.claim.needs_check and held not in self._checks and len(self._checks) < AT_ONCE:
                task = asyncio.create_task(self._supervisor.attempt(CHECK, partial(self._check_one, held)))
                self._checks[held] = task
                task.add_done_callback(lambda _, held=held: self._checks.pop(held, None))  # type: ignore[misc]

    async def _check_one(self, held: Held) -> None:
        try:
            verdict = await self._search.check(held)
        except UnknownError:
            verdict = Verdict.UNKNOWN
        except LinkError:  # closed meanwhile, and what is ready ends
            return
        if verdict is Verdict.IN_USE:
            self._end_soon(held, None)
        elif verdict is not Verdict.FREE:
            self._check_until = self._now() + self._check_pause
            self._check_pause = min(2 * self._check_pause, LONGEST_PAUSE)

    def _fill(self) -> None:
        if self._now() < self._pause_until or self._witnesses.silent():
            return
        missing = self.wanted() - len(self._claimed()) - len(self._fills)
        for _ in range(min(missing, AT_ONCE - len(self._fills))):
            self._start(self._fills, self._one_more)

    async def _one_more(self) -> None:
        try:
            claim = await self._search.claim(READY_OWNER, None, None, confirm=RFC5227)
        except MadeWayError:
            return
        except ArpipamError as error:
            self._pause_until = self._now() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if isinstance(error, LeaseError):  # a full disk is no matter of addresses
                raise
            self._trouble = str(error)
            self._tell(EventKind.EXHAUSTED, text=f"no ready address: {error}")
            return
        held = self._holdings.add(claim, Role.READY)
        spoilt = self._confirming[held] = asyncio.Event()
        loop = asyncio.get_running_loop()

        def absent(mac: str) -> None:
            loop.call_soon_threadsafe(self.met, held, Conflict(claim.address, claim.mac, mac, None))

        claim.on_absence(absent)
        try:
            # RFC 5227's timing takes seconds: a cut meanwhile would leave it with a claim that others never heard of.
            whole = await self._witnesses.whole()
        except BaseException:
            await self._holdings.end(held, 0.0)
            raise
        finally:
            del self._confirming[held]
        if spoilt.is_set() or not whole or not held.is_defended or held.address in self._promises.kept:
            await self._holdings.end(held, 0.0)
            return
        self._pause, self._trouble = FIRST_PAUSE, ""
        self._tell(EventKind.CLAIMED, address=str(held.address), mac=claim.mac, owner=READY_OWNER)

    def _end_soon(self, held: Held, quarantine: float | None) -> None:
        if held in self._confirming:
            self._confirming[held].set()
        elif held.role is Role.READY and self._holdings.has(held):
            held.role = Role.LENT  # from now on: nobody takes it, and of a flood no more is told
            self._start(self._ends, partial(self._holdings.end, held, quarantine))

    def _start(self, tasks: set[asyncio.Task[bool]], work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._supervisor.attempt(PART, work))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _thin_out(self) -> None:
        """End what is too many: at once where few addresses are left, else when that has lasted."""
        wanted = self.wanted()
        for task in list(self._fills)[max(0, wanted - len(self)) :]:
            if wanted < self._settings().ready:
                task.cancel()
        if len(self) <= wanted:
            self._surplus_since = None
            return
        now = self._now()
        self._surplus_since = self._surplus_since or now
        few = wanted < self._settings().ready
        while len(self) > wanted and (few or now - self._surplus_since > PATIENCE):
            await self._release(self._able()[-1])

    async def _keep_promises(self) -> None:
        """End those that a container has been promised meanwhile, for example by `docker create --ip`."""
        for held in self._claimed():
            if held.address in self._promises.kept and held.role is Role.READY:
                await self._release(held)

    async def _release(self, held: Held) -> None:
        await self._holdings.end(held, 0.0)
        self._tell(EventKind.RELEASED, address=str(held.address), mac=held.lease.mac, owner=READY_OWNER)
