"""What an allocator starts: each task has a search, knows its result, and leaves nothing behind without one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.claim import Claim
from arpipam.errors import AddressInUseError, ArpipamError, LinkError, UnknownError
from arpipam.leases.lease import LeaseState
from arpipam.link.task import SCAN, Task
from arpipam.protocol import arp
from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.timing import RATE
from arpipam.results import Found, Probed, Station

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from concurrent.futures import Future

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.leases.writer import LeaseWriter
    from arpipam.link.loop import Loop
    from arpipam.protocol.acd import Acd
    from arpipam.protocol.first_free import FirstFree, FreeAddress
    from arpipam.protocol.passage import Passage
    from arpipam.protocol.scan import Scan
    from arpipam.protocol.verdicts import Verdicts

_ASKING = 4
"""An owner is asked with this part of the frames that may leave, at most."""


@dataclass(frozen=True)
class Place:
    """Where a task runs: the link, the subnet on it, and the record of its leases."""

    interface: str
    subnet: str
    prefix: int
    loop: Loop
    asker: Callable[[], int]
    """The interface's own address at this moment; 0 where it has none."""

    def error(self, error: ArpipamError) -> ArpipamError:
        """The same error, saying where it happened."""
        return type(error)(f"{self.interface}, {self.subnet}: {error}")

    def result(self, search: FirstFree) -> FreeAddress:
        """What a search found; raises why it found nothing."""
        if search.found is None:
            raise self.error(search.error or UnknownError("the search ended without a result"))
        return search.found

    def found(self, search: FirstFree) -> Found:
        """The same as the caller sees it."""
        found = self.result(search)
        address, mac = IPv4Address(found.acd.address), arp.mac_text(search.mac)
        return Found(address, self.prefix, mac, found.elapsed, found.probed, found.in_use, found.miss_probability)


@dataclass(frozen=True)
class ClaimPlace(Place):
    """The same with the store of the leases, and the thread that writes them."""

    store: LeaseStore
    writer: LeaseWriter
    rate: float = RATE
    """Frames per second."""

    def hold(
        self, acd: Acd, take: Callable[[], None], lease: Lease, found: Found, looked: float = float("-inf")
    ) -> Claim:
        """Announce it, and since when it is ours; defend it from now on. On the loop's thread.

        `looked`: when the look at the wire began that found it free.
        """
        acd.since = round(lease.created * 1_000_000)
        acd.epoch = time.time() - self.loop.link.now()
        take()
        claim = Claim(acd, lease, found, loop=self.loop, store=self.store, writer=self.writer, asker=self.asker)
        claim.ask_every = max(claim.ask_every, _ASKING / self.rate)
        claim.looked = looked
        self.loop.keep(acd.address, claim)
        return claim


class FindTask(Task[Found]):
    """The first free address."""

    def __init__(self, place: Place, search: FirstFree) -> None:
        super().__init__(search)
        self.search = search
        self._place = place

    def finish(self) -> Found:
        """Return what was found."""
        return self._place.found(self.search)


class ProbeTask(Task[list[Probed]]):
    """The verdicts on given addresses; `leased` are the leases of this host."""

    def __init__(self, place: Place, verdicts: Verdicts, wanted: Iterable[int], leased: Mapping[int, Lease]) -> None:
        super().__init__(verdicts)
        self._place = place
        self._verdicts = verdicts
        self._wanted = list(dict.fromkeys(wanted))
        self._leased = leased

    def finish(self) -> list[Probed]:
        """Return the verdicts, in the order in which the addresses were given."""
        return [Probed.of(address, self._outcome(address)) for address in self._wanted]

    def _outcome(self, address: int) -> Outcome:
        found = self._verdicts.outcomes[address]
        mine = self._place.loop.kept(address)
        if mine is not None:
            return Outcome(Verdict.IN_USE, arp.mac_bytes(mine.mac), reason="claimed by this process")
        lease = self._leased.get(address)
        held = lease is not None and lease.state is not LeaseState.QUARANTINED
        if found.verdict is Verdict.FREE and lease is not None and held:  # its owner may be deaf to us, or stopped
            reason = f"leased on this host to {lease.owner}"
            return Outcome(Verdict.IN_USE, arp.mac_bytes(lease.mac), probes=found.probes, reason=reason)
        return found


class CheckTask(Task[Probed]):
    """The verdict on an address that is claimed, from another look at the wire."""

    def __init__(self, place: Place, verdicts: Verdicts, claim: Claim) -> None:
        super().__init__(verdicts)
        self._place = place
        self._verdicts = verdicts
        self._claim = claim

    def finish(self) -> Probed:
        """Return the verdict; the claim stands on this look from now on, if nobody else was found."""
        outcome = self._verdicts.outcomes[int(self._claim.address)]
        if outcome.verdict is Verdict.FREE:
            self._claim.looked = self._verdicts.started
        return Probed.of(int(self._claim.address), outcome)


class ScanTask(Task[list[Station]]):
    """Every station."""

    priority = SCAN

    def __init__(self, place: Place, scan: Scan, *, alone: bool, rate: float) -> None:
        super().__init__(scan)
        self._place = place
        self._scan = scan
        self._alone = alone
        self._rate = rate

    def finish(self) -> list[Station]:
        """Return the stations by address; UnknownError where some may be missing."""
        scan, interface = self._scan, self._place.interface
        if scan.dropped:
            raise UnknownError(
                f"{interface}: the kernel dropped {scan.dropped} frames, so stations may be missing; scan "
                f"with a lower rate than {self._rate:g}/s"
            )
        if not (scan.survey.answers or self._alone):
            raise UnknownError(f"{interface}, {self._place.subnet}: {NO_WITNESS}")
        if doubt := scan.doubt():
            raise UnknownError(f"{interface}: {doubt}")
        answers = scan.survey.answers
        return [Station.of(address, answers[address]) for address in sorted(answers)]


class Claiming(Task[Claim]):
    """A search, then a claim of what it found; its new MAC has to pass the switch, or the claim is undone."""

    def __init__(self, place: ClaimPlace, search: FirstFree | Verdicts) -> None:
        super().__init__(search)
        self._place = place
        self._search = search
        self._claim: Claim | None = None
        self._refusal: Exception = UnknownError("the search ended without a result")
        self._passage: Passage | None = None

    def take(self) -> Claim:
        """Claim what was found, or raise why nothing was."""
        raise NotImplementedError

    def goes_on(self) -> bool:
        """The address is claimed as soon as it is known to be free; what is left is to see whether its MAC passes."""
        if self._claim is not None:
            return False
        try:
            self._claim = self.take()
        except Exception as error:  # noqa: BLE001 - it belongs to the caller that waits for the claim
            self._refusal = error
            return False
        now = self._place.loop.link.now()
        self._passage = self._search.passage(int(self._claim.address), now)
        if self._passage is None:
            return False
        self._passage.advance(now)  # its question leaves right after the announcement
        self.machine = self._passage
        return True

    def finish(self) -> Claim:
        """Return the claim, or raise why there is none."""
        if self._claim is None:
            raise self._refusal
        if self._passage is not None:
            if not self._passage.passed:
                raise self._place.error(UnknownError(self._passage.doubt(self._search.parameters.names)))
            self._search.memory.passed_at = self._place.loop.link.now()
        return self._claim

    def abandon(self) -> Future[None] | None:
        """Let go of the claim; no trace of it is left."""
        if self._claim is None:
            return None
        self._claim.discard()
        return self._place.writer.call(self._place.store.forget, self._claim.lease.id)

    def discard(self, result: Claim) -> None:
        """Release what nobody wants."""
        result.discard()


class ClaimTask(Claiming):
    """A claim of the first free address.

    Its lease is on disk before the address is probed, and no commit runs on the loop's thread: the search asks, and is
    answered later.
    """

    def __init__(
        self,
        place: ClaimPlace,
        owner: str,
        mac: str,
        search: Callable[[Callable[[int], bool | None], Callable[[int], None]], FirstFree],
        *,
        promised: Container[int] = (),
    ) -> None:
        """`search(reserve, unreserve)` makes the search, which asks these of this task."""
        self.trying: int | None = None
        """The address that it has leased, or is about to; it may be read from any thread."""
        self._promised = promised
        self.search = search(self.reserve, self.unreserve)
        super().__init__(place, self.search)
        self._owner = owner
        self._mac = mac
        self._held: dict[int, Lease] = {}
        self._failure: Exception | None = None
        self._over = False

    def reserve(self, address: int) -> bool | None:
        """Have the address leased; the search is answered later. False: it is promised to another."""
        # In this order: a thread that promises an address and then looks at what is tried misses nothing.
        self.trying = address
        if address in self._promised:
            self.trying = None
            return False
        self._place.writer.post(self._reserve, address)
        return None

    def unreserve(self, address: int) -> None:
        """Forget the lease: the address is not free."""
        self.trying = None
        self._forget(self._held.pop(address))

    def take(self) -> Claim:
        """Claim the address that was found."""
        if self._failure is not None:
            raise self._failure
        acd = self._place.result(self.search).acd
        lease = self._held.pop(acd.address)
        return self._place.hold(acd, acd.claim, lease, self._place.found(self.search), self.search.started)

    def abandon(self) -> Future[None] | None:
        """Forget what was leased."""
        self._over = True
        last = super().abandon()
        for lease in self._held.values():
            last = self._place.writer.call(self._place.store.forget, lease.id)
        self._held.clear()
        return last  # the writer does one after the other

    def _reserve(self, address: int) -> None:
        """On the writer's thread."""
        lease, failure = None, None
        place, store = self._place, self._place.store
        try:
            lease = store.reserve(place.interface, IPv4Address(address), place.prefix, self._mac, self._owner)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller that waits for the claim
            failure = error
        try:
            place.loop.post(partial(self._answered, address, lease, failure))
        except LinkError:  # closed meanwhile
            if lease is not None:
                store.forget(lease.id)

    def _answered(self, address: int, lease: Lease | None, failure: Exception | None) -> None:
        """On the loop's thread."""
        if self._over or self.future.done() or self.unwanted:
            if lease is not None:
                self._forget(lease)
            return
        if failure is not None:
            self._failure, self.search.done = failure, True
            return
        if lease is not None:
            self._held[address] = lease
        else:
            self.trying = None
        self.search.answer(granted=lease is not None, now=self._place.loop.link.now())

    def _forget(self, lease: Lease) -> None:
        self._place.writer.post(self._place.store.forget, lease.id)


class GivenClaimTask(Claiming):
    """A claim of a given address, which `lease` has reserved already."""

    def __init__(self, place: ClaimPlace, verdicts: Verdicts, lease: Lease) -> None:
        super().__init__(place, verdicts)
        self._verdicts = verdicts
        self._lease = lease

    def take(self) -> Claim:
        """Claim the address, or raise why not."""
        address, lease, verdicts = self._lease.address, self._lease, self._verdicts
        outcome = verdicts.outcomes[int(address)]
        if outcome.verdict is not Verdict.FREE:
            raise _refusal(f"{self._place.interface}: {address}", outcome)
        acd = verdicts.acds[int(address)]
        elapsed = self._place.loop.link.now() - verdicts.started
        found = Found(address, lease.prefix, lease.mac, elapsed, 1, 0, outcome.miss_probability)
        return self._place.hold(acd, acd.claim, lease, found, verdicts.started)

    def abandon(self) -> Future[None]:
        """Forget the lease."""
        super().abandon()
        return self._place.writer.call(self._place.store.forget, self._lease.id)


def _refusal(where: str, outcome: Outcome) -> ArpipamError:
    by = "" if outcome.mac is None else f" by {arp.mac_text(outcome.mac)}"
    if outcome.verdict is Verdict.UNKNOWN:
        return UnknownError(f"{where}: {outcome.reason}")
    if outcome.verdict is Verdict.CONTENDED:
        return AddressInUseError(f"{where} is being claimed{by} at this moment; take another, or try again")
    mac = None if outcome.mac is None else arp.mac_text(outcome.mac)
    return AddressInUseError(f"{where} is in use{by or ' (' + outcome.reason + ')'}; take another", mac)
