"""Addresses that nobody on the link uses: find, probe, scan and claim them.

    with Allocator("docker0") as allocator:
        claim = allocator.claim("web-1")
        print(claim.address, claim.mac)

An `Allocator` opens the link when it is entered. `AsyncAllocator` (aio.py) is the same for asyncio.
"""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from arpipam.errors import AddressLeasedError, InputError, LeaseError
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.leases.writer import LeaseWriter
from arpipam.link.loop import Loop
from arpipam.link.socket import Link
from arpipam.link.task import Run
from arpipam.options import LAST_WITH_CANARY, SearchOptions, numbers, own_prefix, parse_address
from arpipam.protocol import arp
from arpipam.protocol.acd import Acd
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.pool import Pool
from arpipam.protocol.scan import Scan
from arpipam.protocol.search import LinkMemory, Search
from arpipam.protocol.timing import FULL_RATE, RATE
from arpipam.protocol.verdicts import Verdicts
from arpipam.protocol.witnesses import SELDOM, SearchWitnesses
from arpipam.results import Found, Probed, Station
from arpipam.second_look import SecondLook
from arpipam.tasks import CheckTask, ClaimPlace, ClaimTask, FindTask, GivenClaimTask, Place, ProbeTask, ScanTask

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from ipaddress import IPv4Network
    from types import TracebackType

    from arpipam.claim import Claim
    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.link.task import Task
    from arpipam.options import SearchKeywords, VariantKeywords
    from arpipam.protocol.parameters import Parameters
    from arpipam.protocol.survey import Answer

T = TypeVar("T")

STATE_DIR = Path("/var/lib/arpipam")


class Allocator:
    """Finds and claims addresses of `subnet` (default: the interface's own) on the link behind `interface`.

    What to search for is said by `options`, by keywords (the fields of `SearchOptions`), or by both: keywords win. An
    open `store` of leases may be shared, else it is the SQLite file in `state_dir`. `rate` bounds the frames of all
    searches, per second. `seed` makes what is drawn repeatable. `progress` is told, in one line, what is waited for.

    Raises InputError for what makes no sense, LinkError where the link carries no ARP, and each method UnknownError
    where the link could not be trusted.
    """

    def __init__(
        self,
        interface: str,
        subnet: IPv4Network | str | None = None,
        *,
        options: SearchOptions | None = None,
        rate: float = RATE,
        state_dir: Path | str = STATE_DIR,
        store: LeaseStore | None = None,
        seed: int | None = None,
        progress: Callable[[str], None] | None = None,
        **search: Unpack[SearchKeywords],
    ) -> None:
        self.interface = interface
        self.state_dir = Path(state_dir)
        self.options = replace(options or SearchOptions(), **search)
        if subnet is not None:
            self.options = replace(self.options, subnet=subnet)
        if not rate > 0:
            raise InputError(f"rate {rate:g}/s: it must be above 0")
        self._rate = min(rate, self.options.read_timing.rate or rate)
        self._rng = random.Random(seed)
        self._progress = progress
        self._store, self._own_store = store, store is None
        self._opening = threading.Lock()
        self._answered: dict[int, tuple[bytes, float]] = {}
        """Stations that have answered a probe of this process, with their MACs, and when that was noted."""

    def __enter__(self) -> Self:
        self._link = Link(self.interface, progress=self._progress)
        self._writer = LeaseWriter()
        try:
            self._link_memory: LinkMemory | None = None
            self._apply()
            self._loop = Loop(self._link, self._rate)
            self._look_after_gaps()
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close()
        self._link.close()
        self._writer.close()
        if self._store is not None and self._own_store:
            self._store.close()
            self._store = None

    def variant(self, **changes: Unpack[VariantKeywords]) -> Self:
        """The same open link and leases under other options (`dataclasses.replace`), as the host is by now.

        It works as long as this one is open, and is not entered itself. Raises what entering it would.
        """
        options = replace(self.options, **changes)
        self._link.look()
        _ = self.leases  # one store for both, also where neither has needed it so far
        other = copy(self)  # with the same random numbers: another generator might draw the same MACs again
        other.options = options
        other._apply()  # noqa: SLF001 - of this class
        return other

    def _apply(self) -> None:
        """See what the options come to on the link as it is now."""
        self.pool, terms = self.options.on(self._link)
        self._terms = replace(terms, budget=terms.budget * max(1.0, FULL_RATE / self._rate))
        if self._link_memory is None or self._link_memory.longest_probing < self._terms.longest_probing:
            self._link_memory = LinkMemory(self._terms)

    @property
    def own_address(self) -> int:
        """The interface's own address in the subnet at this moment; 0 where it has none."""
        own = own_prefix(self._link.prefixes, self.pool.subnet)
        return 0 if own is None else int(own.ip)

    @property
    def link(self) -> Link:
        """The open link."""
        return self._link

    @property
    def loop(self) -> Loop:
        """What runs the searches and claims on it."""
        return self._loop

    @property
    def leases(self) -> LeaseStore:
        """The leases of this host; the store is made when it is first needed."""
        with self._opening:
            if self._store is None:
                self._store = SqliteLeaseStore(self.state_dir / "leases.db")
                self._store.reap()  # what killed processes held
            return self._store

    def find(self, owner: str = "", mac: str | None = None) -> Found:
        """The first free address of the pool.

        Raises PoolExhaustedError when there is none, UnknownError when the link could not be trusted.
        """
        return self._wait(self.start_find(owner, mac))

    def probe(self, addresses: Iterable[IPv4Address | str], mac: str | None = None) -> list[Probed]:
        """The verdict on each of the addresses, which must lie in the subnet (else InputError)."""
        return self._wait(self.start_probe(addresses, mac))

    def scan(self, on_station: Callable[[Station], object] | None = None) -> list[Station]:
        """Every station of the pool's ranges, in the order of their addresses; `on_station` hears of each at once."""
        return self._wait(self.start_scan(on_station))

    def claim(self, owner: str, address: IPv4Address | str | None = None, mac: str | None = None) -> Claim:
        """Claim the first free address of the pool, or the given one.

        On return its lease is on disk, it is answered for, and its announcements are under way.

        Raises AddressInUseError when the given one is used, being claimed or leased on this host, PoolExhaustedError
        when no address is free, UnknownError when the link could not be trusted.
        """
        return self._wait(self.start_claim(owner, address, mac))

    def check(self, claim: Claim) -> Probed:
        """Probe a claimed address again, as after a gap in what was heard of the link (see `Claim.needs_check`)."""
        return self._wait(self.start_check(claim))

    # The same as tasks of the loop, for callers that wait in another way. They may open the store and read from it.

    def start_find(self, owner: str, mac: str | None) -> Task[Found]:
        """Start what `find` waits for."""
        leased = self._leased(owner)
        return self._run(FindTask(self._place(), self._search(owner, mac, lambda address: address not in leased)))

    def start_probe(self, addresses: Iterable[IPv4Address | str], mac: str | None) -> Task[list[Probed]]:
        """Start what `probe` waits for."""
        wanted = [parse_address(address, "address") for address in addresses]
        subnet = self.pool.subnet
        for address in wanted:
            if address not in subnet:
                raise InputError(f"address {address} is outside of {subnet}, the subnet on {self.interface}")
            if subnet.prefixlen <= LAST_WITH_CANARY and address in {subnet.network_address, subnet.broadcast_address}:
                self.pool.check(address)  # nobody can have it: it is neither free nor in use
        verdicts = self._check([int(address) for address in wanted], mac)
        return self._run(ProbeTask(self._place(), verdicts, map(int, wanted), self._active()))

    def start_scan(self, on_station: Callable[[Station], object] | None) -> Task[list[Station]]:
        """Start what `scan` waits for."""

        def heard(address: int, answer: Answer) -> None:
            if on_station is not None:
                self.loop.post(partial(on_station, Station.of(address, answer)))

        # The pool without what it keeps back: gateway and witnesses are stations too.
        everybody = Pool(self.pool.subnet, ranges=self.options.ranges, exclude=self.options.exclude)
        candidates, now = everybody.candidates(rng=self._rng), self._link.now()
        scan = Scan(candidates, self._known(), now=now, rng=self._rng, on_station=heard)
        return self._run(ScanTask(self._place(), scan, alone=self._terms.alone, rate=self._rate))

    def start_claim(
        self, owner: str, address: IPv4Address | str | None, mac: str | None, *, promised: Container[int] = ()
    ) -> Task[Claim]:
        """Start what `claim` waits for.

        An address that is `promised` to another is passed over, unless it is the given one. That is looked up, on the
        loop's thread, when the address is about to be tried.
        """
        if address is not None:
            return self._claim_given(owner, parse_address(address, "address"), mac)
        mac = arp.mac_text(self._mac(mac))
        search = partial(self._search, owner, mac)
        return self._run(ClaimTask(self._claim_place(), owner, mac, search, promised=promised))

    def start_check(self, claim: Claim) -> Task[Probed]:
        """Start what `check` waits for: probes under the claim's own MAC, while it goes on answering others."""
        return self._run(CheckTask(self._place(), self._check([int(claim.address)], claim.mac), claim))

    def look_again(self) -> None:
        """Ask for every claimed address now, as after a gap: its claim hears of others who use it."""
        self._loop.post(lambda: self._second_look.begin(self._link.now()))

    def cancel(self, task: Task[Any]) -> None:
        """Stop a task; nobody waits for it any more."""
        self.loop.cancel(task)

    def adopt(self, lease: Lease) -> Claim:
        """Defend a lease of this link whose process has ended, from this moment on."""
        witnesses = SearchWitnesses(self._terms.timing, bound=self._terms.miss_probability)
        mac = arp.mac_bytes(lease.mac)
        found = Found(lease.address, lease.prefix, lease.mac, 0.0, 0, 0, None)
        place = self._claim_place()

        def adopt() -> Claim:
            now = self._link.now()
            local = self._terms.local_macs
            acd = Acd(int(lease.address), mac, witnesses, rng=self._rng, now=now, local_macs=local)
            return place.hold(acd, acd.adopt, lease, found)

        return self.loop.call(adopt).result()

    def _claim_given(self, owner: str, address: IPv4Address, mac: str | None) -> Task[Claim]:
        self.pool.check(address)
        verdicts = self._check([int(address)], mac, tries=2)
        mac = arp.mac_text(verdicts.mac)
        # An address that is asked for by name need not have rested.
        lease = self.leases.reserve(self.interface, address, self.pool.prefix, mac, owner, rested=False)
        if lease is None:
            raise AddressLeasedError(
                f"{self.interface}: {address} is leased on this host already; see `arpipam leases`, or take another"
            )
        return self._run(GivenClaimTask(self._claim_place(), verdicts, lease))

    # Parts of these.

    def _look_after_gaps(self) -> None:
        loop, link, hearing = self._loop, self._link, self._loop.hearing
        look = self._second_look = SecondLook(loop.claimed, lambda: (link.mac, self.own_address))

        def changed() -> None:
            if hearing.whole_since is not None:
                look.begin(hearing.whole_since)

        hearing.on_change.append(changed)
        loop.follow(look.follow)
        loop.run(Run(look))

    def _place(self) -> Place:
        return Place(self.interface, str(self.pool.subnet), self.pool.prefix, self.loop, asker=lambda: self.own_address)

    def _run(self, task: Task[T]) -> Task[T]:
        """Run it; at its end each station that answered a probe is noted, for all processes of this host."""
        task.sender = self._terms.own_mac, self._terms.own_address
        search = task.machine

        def note(_: Future[T]) -> None:
            if isinstance(search, Search | Scan) and search.answered:
                now = self._link.now()
                self._answered.update((address, (mac, now)) for address, mac in search.answered.items())
                self._writer.post(self._note, dict(search.answered))

        task.future.add_done_callback(note)
        return self.loop.run(task)

    def _note(self, answered: Mapping[int, bytes]) -> None:
        macs = {IPv4Address(address): arp.mac_text(mac) for address, mac in answered.items()}
        with suppress(LeaseError):  # a library user without a store goes without
            self.leases.note_answers(self.interface, macs)

    def _known(self) -> Parameters:
        """The terms, with the stations that any process of this host has probed a moment ago."""
        macs: dict[int, bytes] = {}
        if self._store is not None or may_exist(self.state_dir / "leases.db"):
            answered = self.leases.answered(self.interface, SELDOM)
            macs = {int(address): arp.mac_bytes(mac) for address, mac in answered.items()}
        since = self._link.now() - SELDOM
        macs |= {address: mac for address, (mac, at) in self._answered.copy().items() if at > since}
        return replace(self._terms, answered_lately=macs)

    def _claim_place(self) -> ClaimPlace:
        where = self._place()
        return ClaimPlace(**vars(where), store=self.leases, writer=self._writer, rate=self._rate)

    def _search(
        self,
        owner: str,
        mac: str | None,
        reserve: Callable[[int], bool | None],
        unreserve: Callable[[int], None] = lambda _: None,
    ) -> FirstFree:
        prefer = []
        if self.options.order == "sticky" and (last := self.leases.last_address(self.interface, owner)) is not None:
            prefer = [int(last)]
        return FirstFree(
            self.pool.candidates(owner, rng=self._rng, prefer=prefer, avoid=frozenset(numbers(self.options.avoid))),
            self._mac(mac),
            self._known(),
            rng=self._rng,
            now=self._link.now(),
            possible_witnesses=self._possible_witnesses(),
            reserve=reserve,
            unreserve=unreserve,
            memory=self._link_memory,
        )

    def _check(self, addresses: list[int], mac: str | None, *, tries: int = 1) -> Verdicts:
        now = self._link.now()
        return Verdicts(
            addresses,
            self._mac(mac),
            self._known(),
            rng=self._rng,
            now=now,
            possible_witnesses=self._possible_witnesses(),
            tries=tries,
            memory=self._link_memory,
        )

    def _possible_witnesses(self) -> Iterator[int]:
        """Where witnesses may be found: anywhere in the subnet, whatever may be given out."""
        return Pool(self.pool.subnet, order="random").candidates(rng=self._rng)

    def _mac(self, mac: str | None) -> bytes:
        return arp.mac_bytes(mac) if mac is not None else arp.random_mac(self._rng)

    def _leased(self, owner: str) -> set[int]:
        """Addresses that this host has leased, but for those in quarantine for this very owner."""
        return {
            address
            for address, lease in self._active().items()
            if lease.state is not LeaseState.QUARANTINED or lease.owner != owner or not owner
        }

    def _active(self) -> dict[int, Lease]:
        """The leases of this link by address; no store is made only to find none."""
        if self._store is None and not may_exist(self.state_dir / "leases.db"):
            return {}
        return {int(lease.address): lease for lease in self.leases.leases(self.interface)}

    def _wait(self, task: Task[T]) -> T:
        try:
            return task.future.result()
        except BaseException:
            self.cancel(task)
            raise


def may_exist(path: Path) -> bool:
    """Whether a lease store is there; True for one that cannot even be looked for, which says why when it is opened."""
    try:
        return path.exists()
    except OSError:
        return True
