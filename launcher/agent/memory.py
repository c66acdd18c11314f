"""Who was seen on a link, and when: in memory within bounds, and on disk in SQLite.

What is remembered helps to choose (an address that a sleeping laptop had this morning is passed over while there are
others). It never proves that an address is free: only the wire does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Self

from arpipam.leases.database import Database

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path
    from types import TracebackType

LIMIT = 65_536
"""Addresses remembered on one link: about 20 MB of memory at most, 4 MB on disk."""
REGULAR = 60.0
"""Seconds after which an address that is seen again is a regular."""
NEWCOMERS = 8
"""One place in so many is for newcomers, however many regulars there are."""
AGE = 30 * 86400.0
"""Seconds for which an address is remembered that is not seen again."""
SAVING = 10.0
"""Seconds between two times that the stations are put on disk."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE station (
    interface TEXT NOT NULL,
    address   INTEGER NOT NULL CHECK (address BETWEEN 1 AND 0xffffffff),
    mac       BLOB NOT NULL CHECK (typeof(mac) = 'blob' AND length(mac) = 6),
    first     REAL NOT NULL,
    last      REAL NOT NULL,
    PRIMARY KEY (interface, address)
) WITHOUT ROWID
"""


class Seen(NamedTuple):
    """An address, who had it last, and since when that one has been seen there. Times are seconds since 1970."""

    address: int
    mac: bytes
    first: float
    last: float


class Changes(NamedTuple):
    """What is not on disk yet."""

    seen: list[Seen]
    gone: list[int]
    """Addresses that are on disk still and no longer remembered."""


class _Entry:
    """One address; `stored`: there is a row of it on disk; `changed`: which is older than this."""

    __slots__ = ("changed", "first", "last", "mac", "stored")

    def __init__(self, mac: bytes, now: float, *, stored: bool) -> None:
        self.mac = mac
        self.first = self.last = now
        self.changed = True
        self.stored = stored


class Stations:
    """The addresses seen on one link, at most `limit`; usable from any thread.

    An address that is seen again `REGULAR` seconds after it was first seen is a regular, before that it is a newcomer.
    When there are too many, the newcomer goes that was not seen for longest; regulars go only, in the same order, when
    newcomers have no more than their own share of the places. So a flood of made-up addresses pushes out what was seen
    once or a short time ago, and no station that has answered for more than a minute. Who repeats his made-up addresses
    for longer than that makes them regulars: against him only the bound holds, and whoever answers more often stays.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._share = max(1, limit // NEWCOMERS)
        self._lock = threading.Lock()
        # Each in the order of the last sighting. (Not a plain dict: to find its first costs more with every removal.)
        self._newcomers: OrderedDict[int, _Entry] = OrderedDict()
        self._regulars: OrderedDict[int, _Entry] = OrderedDict()
        self._gone: set[int] = set()

    def see(self, address: int, mac: bytes, now: float) -> None:
        """The station `mac` (six bytes) has used the address; `now` is seconds since 1970. About a microsecond.

        The sender address of a probe, 0.0.0.0, is nobody's.
        """
        if not address:
            return
        with self._lock:
            entry = self._regulars.get(address)
            if entry is not None:
                self._regulars.move_to_end(address)
            else:
                entry = self._newcomers.get(address)
                if entry is None:
                    self._add(address, mac, now)
                    return
                if now - entry.first >= REGULAR:
                    self._regulars[address] = self._newcomers.pop(address)
                else:
                    self._newcomers.move_to_end(address)
            if entry.mac != mac:
                entry.mac = mac
                entry.first = now  # it keeps its place: whoever speaks in its name does not make a regular go
            elif now < entry.first:  # the clock was set back
                entry.first = now
            entry.last = now
            entry.changed = True

    def recent(self, since: float) -> set[int]:
        """The addresses seen at that time or later."""
        with self._lock:  # only to copy: what answers ARP waits for it
            known = [*self._newcomers.items(), *self._regulars.items()]
        # All of them: a clock that was set has no order.
        return {address for address, entry in known if entry.last >= since}

    def seen(self, address: int) -> Seen | None:
        """What is known of the address."""
        with self._lock:
            entry = self._regulars.get(address) or self._newcomers.get(address)
            return None if entry is None else Seen(address, entry.mac, entry.first, entry.last)

    def forget(self, address: int) -> None:
        """It was never seen."""
        with self._lock:
            for part in self._parts():
                if address in part:
                    self._drop(address, part.pop(address))

    def forget_before(self, when: float) -> None:
        """Forget what was last seen before that time."""
        with self._lock:
            for part in self._parts():
                for address in [address for address, entry in part.items() if entry.last < when]:
                    self._drop(address, part.pop(address))

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._regulars)

    def __contains__(self, address: int) -> bool:
        return self.seen(address) is not None

    def __iter__(self) -> Iterator[Seen]:
        """As of now, in the order in which they would be forgotten."""
        with self._lock:
            known = [
                Seen(address, entry.mac, entry.first, entry.last)
                for part in self._parts()
                for address, entry in part.items()
            ]
        return iter(known)

    # What the store calls: it writes without the lock, so that nobody waits for a disk.

    def changes(self) -> Changes:
        """What has changed since the changes last passed to `stored`."""
        with self._lock:
            fresh = [
                Seen(address, entry.mac, entry.first, entry.last)
                for part in self._parts()
                for address, entry in part.items()
                if entry.changed
            ]
            return Changes(fresh, list(self._gone))

    def stored(self, changes: Changes) -> None:
        """These are on disk now."""
        with self._lock:
            self._gone.difference_update(changes.gone)
            for one in changes.seen:
                entry = self._regulars.get(one.address) or self._newcomers.get(one.address)
                if entry is None:
                    self._gone.add(one.address)  # meanwhile
                else:
                    entry.stored = True
                    entry.changed = (entry.mac, entry.first, entry.last) != one[1:]

    def restore(self, known: list[Seen]) -> None:
        """Take in what was on disk, into an empty memory; the oldest sighting comes first."""
        with self._lock:
            for one in known:
                entry = _Entry(one.mac, one.last, stored=True)
                entry.first = one.first
                entry.changed = False
                part = self._regulars if one.last - one.first >= REGULAR else self._newcomers
                part[one.address] = entry
            while len(self) > self._limit:
                self._make_room()

    def _parts(self) -> tuple[OrderedDict[int, _Entry], OrderedDict[int, _Entry]]:
        return self._newcomers, self._regulars

    def _add(self, address: int, mac: bytes, now: float) -> None:
        self._newcomers[address] = _Entry(mac, now, stored=address in self._gone)
        self._gone.discard(address)
        if len(self) > self._limit:
            self._make_room()

    def _make_room(self) -> None:
        part = self._newcomers if len(self._newcomers) > self._share or not self._regulars else self._regulars
        self._drop(*part.popitem(last=False))

    def _drop(self, address: int, entry: _Entry) -> None:
        if entry.stored:
            self._gone.add(address)


class StationStore:
    """The stations of all links of this host, in one SQLite file of one process; usable from any thread.

    A power loss may take what was saved last (SQLite's WAL without a sync at each commit), never the file: that is
    enough for what is only a hint, and spares the disk a sync for every save.

    Raises LeaseError, in one line, where the file or its folder cannot be used.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        loss = "what it holds is seen again"
        self._db = Database(path, "memory of stations", schema=_SCHEMA, version=_VERSION, loss=loss, durable=False)

    def load(self, interface: str, *, limit: int = LIMIT) -> Stations:
        """What was known of the link; of too many, those seen last."""
        now = self._clock()
        rows = self._db.rows(
            "SELECT address, mac, first, last FROM station WHERE interface = ? ORDER BY last", (interface,)
        )
        # What is in the future was seen under a clock that was wrong, and would never be forgotten.
        known = [Seen(address, mac, min(first, last, now), min(last, now)) for address, mac, first, last in rows]
        stations = Stations(limit)
        stations.restore(known)
        return stations

    def save(self, interface: str, stations: Stations, *, age: float = AGE) -> None:
        """Write what has changed since the last time, and forget, on disk and in memory, what is older than `age` (s).

        Others may use `stations` meanwhile. Where it fails, the next one writes that too.
        """
        oldest = self._clock() - age
        stations.forget_before(oldest)
        changes = stations.changes()
        with self._db.transaction():
            self._db.execute_all(
                "DELETE FROM station WHERE interface = ? AND address = ?",
                ((interface, address) for address in changes.gone),
            )
            self._db.execute_all(
                "INSERT OR REPLACE INTO station (interface, address, mac, first, last) VALUES (?, ?, ?, ?, ?)",
                ((interface, *one) for one in changes.seen),
            )
            self._db.execute("DELETE FROM station WHERE last < ?", (oldest,))  # of links, too, that are no more
        stations.stored(changes)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Memory:
    """The stations of every link, saved from time to time. Without its file the agent works all the same."""

    def __init__(self, store: StationStore | None, in_thread: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._store = store
        self._in_thread = in_thread
        self._stations: dict[str, Stations] = {}

    def of(self, interface: str) -> Stations:
        """The stations of one link."""
        if interface not in self._stations:
            self._stations[interface] = Stations() if self._store is None else self._store.load(interface)
        return self._stations[interface]

    def __iter__(self) -> Iterator[tuple[str, Stations]]:
        """Each link's name with its stations, sorted by name."""
        return iter(sorted(self._stations.items()))

    async def run(self, saved: Callable[[], None]) -> None:
        """Save every SAVING seconds until cancelled, and call `saved()` each time. Raises LeaseError."""
        while True:
            await asyncio.sleep(SAVING)
            await self._in_thread(self.save)
            saved()

    def save(self) -> None:
        """Write what has changed. Raises LeaseError."""
        if self._store is not None:
            for interface, stations in list(self._stations.items()):
                self._store.save(interface, stations)

    def close(self) -> None:
        """Save and close the file. Raises LeaseError."""
        if self._store is not None:
            try:
                self.save()
            finally:
                self._store.close()
