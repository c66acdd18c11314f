"""Addresses that nobody on the link uses: find, probe, scan and claim them.

    with Allocator("docker0") as allocator:
        claim = allocator.claim("web-1")
        print(claim.address, claim.mac)

An `Allocator` opens the link when it is entered. `AsyncAllocator` (aio.py) is the same for asyncio.
"""

from __future__ import annotations

import random
import threading
import time
from copy import copy
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from arpipam.claim import Claim
from arpipam.errors import AddressInUseError, ArpipamError, InputError, UnknownError
from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.link.loop import Driver
from arpipam.link.socket import Link
from arpipam.options import LAST_WITH_CANARY, SearchOptions, numbers, parse_address
from arpipam.protocol import arp
from arpipam.protocol.acd import Acd
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.pool import Pool
from arpipam.protocol.scan import Scan
from arpipam.protocol.search import LinkMemory
from arpipam.protocol.timing import RATE
from arpipam.protocol.verdicts import Verdicts
from arpipam.protocol.witnesses import SearchWitnesses
from arpipam.results import Found, Probed, Station

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ipaddress import IPv4Network
    from types import TracebackType

    from arpipam.leases.lease import Lease, LeaseStore
    from arpipam.link.jobs import Job
    from arpipam.options import SearchKeywords, VariantKeywords
    from arpipam.protocol.first_free import FreeAddress
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
        self._rate = rate
        self._rng = random.Random(seed)
        self._progress = progress
        self._store, self._own_store = store, store is None
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        self._link = Link(self.interface, progress=self._progress)
        try:
            self._link_memory: LinkMemory | None = None
            self._apply()
            self._driver = Driver(self._link, self._rate)
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.close()
        self._link.close()
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
        self.pool, self._terms = self.options.on(self._link)
        if self._link_memory is None or self._link_memory.longest_probing < self._terms.longest_probing:
            self._link_memory = LinkMemory(self._terms)

    @property
    def own_address(self) -> int:
        """The interface's own address in the subnet; 0 where it has none."""
        return self._terms.own_address

    @property
    def link(self) -> Link:
        """The open link."""
        return self._link

    @property
    def driver(self) -> Driver:
        """What runs it."""
        return self._driver

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

    def scan(self, on_station: Callable[[Station], None] | None = None) -> list[Station]:
        """Every station of the pool's ranges, in the order of their addresses; `on_station` hears of each at once."""
        return self._wait(self.start_scan(on_station))

    def claim(self, owner: str, address: IPv4Address | str | None = None, mac: str | None = None) -> Claim:
        """Claim the first free address of the pool, or the given one; on return it is announced, defended, on disk.

        Raises AddressInUseError when the given one is used, being claimed or leased on this host, PoolExhaustedError
        when no address is free, UnknownError when the link could not be trusted.
        """
        return self._wait(self.start_claim(owner, address, mac))

    # The same as jobs of the driver, for whoever waits in another way.

    def start_find(self, owner: str, mac: str | None) -> Job[Found]:
        """Start what `find` waits for."""
        leased = self._leased(owner)
        search = self._search(owner, mac, lambda address: address not in leased)

        def finish() -> Found:
            return self._found(search)

        return self._driver.run(search, finish)

    def start_probe(self, addresses: Iterable[IPv4Address | str], mac: str | None) -> Job[list[Probed]]:
        """Start what `probe` waits for."""
        wanted = [parse_address(address, "address") for address in addresses]
        subnet = self.pool.subnet
        for address in wanted:
            if address not in subnet:
                raise InputError(f"address {address} is outside of {subnet}, the subnet on {self.interface}")
            if subnet.prefixlen <= LAST_WITH_CANARY and address in {subnet.network_address, subnet.broadcast_address}:
                self.pool.check(address)  # nobody can have it: it is neither free nor in use
        check = self._check([int(address) for address in wanted], mac)
        leased = self._active()

        def finish() -> list[Probed]:
            return [Probed.of(address, outcome(address)) for address in dict.fromkeys(map(int, wanted))]

        def outcome(address: int) -> Outcome:
            found = check.outcomes[address]
            mine = self._driver.holding(address)
            if mine is not None:
                return Outcome(Verdict.IN_USE, arp.mac_bytes(mine.mac), reason="claimed by this process")
            lease = leased.get(address)
            held = lease is not None and lease.state is not LeaseState.QUARANTINED
            if found.verdict is Verdict.FREE and lease is not None and held:  # its owner may be deaf to us, or stopped
                reason = f"leased on this host to {lease.owner}"
                return Outcome(Verdict.IN_USE, arp.mac_bytes(lease.mac), probes=found.probes, reason=reason)
            return found

        return self._driver.run(check, finish)

    def start_scan(self, on_station: Callable[[Station], None] | None) -> Job[list[Station]]:
        """Start what `scan` waits for."""

        def heard(address: int, answer: Answer) -> None:
            if on_station is not None:
                on_station(Station.of(address, answer))

        # The pool without what it keeps back: gateway and witnesses are stations too.
        everybody = Pool(self.pool.subnet, ranges=self.options.ranges, exclude=self.options.exclude)
        scan = Scan(everybody.candidates(rng=self._rng), self._terms, now=self._link.now(), on_station=heard)

        def finish() -> list[Station]:
            if scan.dropped:
                raise UnknownError(
                    f"{self.interface}: the kernel dropped {scan.dropped} frames, so stations may be missing; scan "
                    f"with a lower rate than {self._rate:g}/s"
                )
            if not (scan.survey.answers or self._terms.alone):
                raise UnknownError(f"{self.interface}, {self.pool.subnet}: {NO_WITNESS}")
            if doubt := scan.doubt():
                raise UnknownError(f"{self.interface}: {doubt}")
            answers = scan.survey.answers
            return [Station.of(address, answers[address]) for address in sorted(answers)]

        return self._driver.run(scan, finish)

    def start_claim(self, owner: str, address: IPv4Address | str | None, mac: str | None) -> Job[Claim]:
        """Start what `claim` waits for."""
        if address is not None:
            return self._claim_given(owner, parse_address(address, "address"), mac)
        store = self.leases
        held: dict[int, Lease] = {}
        mac = arp.mac_text(self._mac(mac))

        def reserve(candidate: int) -> bool:
            lease = store.reserve(self.interface, IPv4Address(candidate), self.pool.prefix, mac, owner)
            if lease is not None:
                held[candidate] = lease
            return lease is not None

        def unreserve(candidate: int) -> None:
            store.forget(held.pop(candidate).id)

        search = self._search(owner, mac, reserve, unreserve)

        def finish() -> Claim:
            acd = self._result(search).acd
            return self._hold(acd, acd.claim, held.pop(acd.address), self._found(search))

        def abandon() -> None:
            for candidate in list(held):
                unreserve(candidate)

        return self._driver.run(search, finish, abandon, Claim.discard)

    def adopt(self, lease: Lease) -> Claim:
        """Defend a lease of this link whose process has ended, from this moment on."""
        witnesses = SearchWitnesses(self._terms.timing, bound=self._terms.miss_probability)
        mac = arp.mac_bytes(lease.mac)
        found = Found(lease.address, lease.prefix, lease.mac, 0.0, 0, 0, None)

        def adopt() -> Claim:
            now = self._link.now()
            local = self._terms.local_macs
            acd = Acd(int(lease.address), mac, witnesses, rng=self._rng, now=now, local_macs=local)
            return self._hold(acd, acd.adopt, lease, found)

        return self._driver.call(adopt).result()

    def _claim_given(self, owner: str, address: IPv4Address, mac: str | None) -> Job[Claim]:
        self.pool.check(address)
        store = self.leases
        check = self._check([int(address)], mac)
        mac = arp.mac_text(check.mac)
        # An address that somebody asks for by name need not have rested.
        lease = store.reserve(self.interface, address, self.pool.prefix, mac, owner, rested=False)
        if lease is None:
            raise AddressInUseError(
                f"{self.interface}: {address} is leased on this host already; see `arpipam leases`, or take another"
            )

        def finish() -> Claim:
            outcome = check.outcomes[int(address)]
            if outcome.verdict is not Verdict.FREE:
                raise self._error(address, outcome)
            acd = check.acds[int(address)]
            elapsed = self._link.now() - check.started
            found = Found(address, self.pool.prefix, lease.mac, elapsed, 1, 0, outcome.miss_probability)
            return self._hold(acd, acd.claim, lease, found)

        return self._driver.run(check, finish, lambda: store.forget(lease.id), Claim.discard)

    # Parts of these.

    def _hold(self, acd: Acd, take: Callable[[], None], lease: Lease, found: Found) -> Claim:
        """Announce it, and since when it is ours; defend it from now on."""
        acd.since = round(lease.created * 1_000_000)
        acd.epoch = time.time() - self._driver.link.now()
        take()
        claim = Claim(acd, lease, found, driver=self._driver, store=self.leases, asker=self._terms.own_address)
        self._driver.hold(acd.address, claim)
        return claim

    def _search(
        self,
        owner: str,
        mac: str | None,
        reserve: Callable[[int], bool],
        unreserve: Callable[[int], None] = lambda _: None,
    ) -> FirstFree:
        prefer = []
        if self.options.order == "sticky" and (last := self.leases.last_address(self.interface, owner)) is not None:
            prefer = [int(last)]
        return FirstFree(
            self.pool.candidates(owner, rng=self._rng, prefer=prefer, avoid=frozenset(numbers(self.options.avoid))),
            self._mac(mac),
            self._terms,
            rng=self._rng,
            now=self._link.now(),
            possible_witnesses=self._possible_witnesses(),
            reserve=reserve,
            unreserve=unreserve,
            memory=self._link_memory,
        )

    def _check(self, addresses: list[int], mac: str | None) -> Verdicts:
        now = self._link.now()
        return Verdicts(
            addresses,
            self._mac(mac),
            self._terms,
            rng=self._rng,
            now=now,
            possible_witnesses=self._possible_witnesses(),
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

    def _result(self, search: FirstFree) -> FreeAddress:
        if search.found is None:
            error = search.error or UnknownError("the search ended without a result")
            raise type(error)(f"{self.interface}, {self.pool.subnet}: {error}")
        return search.found

    def _found(self, search: FirstFree) -> Found:
        found = self._result(search)
        return Found(
            IPv4Address(found.acd.address),
            self.pool.prefix,
            arp.mac_text(search.mac),
            found.elapsed,
            found.probed,
            found.in_use,
            found.miss_probability,
        )

    def _error(self, address: IPv4Address, outcome: Outcome) -> ArpipamError:
        where = f"{self.interface}: {address}"
        by = "" if outcome.mac is None else f" by {arp.mac_text(outcome.mac)}"
        if outcome.verdict is Verdict.UNKNOWN:
            return UnknownError(f"{where}: {outcome.reason}")
        if outcome.verdict is Verdict.CONTENDED:
            return AddressInUseError(f"{where} is being claimed{by} at this moment; take another, or try again")
        return AddressInUseError(f"{where} is in use{by or ' (' + outcome.reason + ')'}; take another")

    def _wait(self, job: Job[T]) -> T:
        try:
            return job.future.result()
        except BaseException:
            self.cancel(job)
            raise

    def cancel(self, job: Job[Any]) -> None:
        """Stop a job; nobody waits for it any more."""
        self._driver.cancel(job)


def may_exist(path: Path) -> bool:
    """Whether a lease store is there; True for one that cannot even be looked for, which says why when it is opened."""
    try:
        return path.exists()
    except OSError:
        return True
