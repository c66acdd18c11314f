"""The durable record of claims: SQLite, several processes at once, safe against SIGKILL and power loss.

A lease is `claimed` while a living process holds it, `bound` when it belongs to a container and outlives that process,
`quarantined` for a while after its release, and `released` from then on, kept only so that an owner gets its address
again.

Which process holds a lease, and whether it lives, the kernel knows: see holders.py.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol, Self

from arpipam.errors import LeaseError
from arpipam.leases.database import Database
from arpipam.leases.liveness import Holders

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path
    from types import TracebackType

_VERSION = 1
_MEMORY = 30 * 86400.0
"""Seconds for which a released lease is remembered, ..."""
_MOST_RELEASED = 4096
"""... but only so many of them."""

_SCHEMA = """
CREATE TABLE lease (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    interface TEXT NOT NULL,
    address   INTEGER NOT NULL,
    prefix    INTEGER NOT NULL,
    mac       TEXT NOT NULL,
    owner     TEXT NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('claimed', 'bound', 'quarantined', 'released')),
    container TEXT NOT NULL DEFAULT '',
    created   REAL NOT NULL,
    changed   REAL NOT NULL,
    until     REAL NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_lease ON lease (interface, address) WHERE state IN ('claimed', 'bound', 'quarantined');
CREATE INDEX by_owner ON lease (interface, owner, changed);
"""


class State(StrEnum):
    """Where a lease stands."""

    CLAIMED = "claimed"
    BOUND = "bound"
    QUARANTINED = "quarantined"
    RELEASED = "released"


ACTIVE = (State.CLAIMED, State.BOUND, State.QUARANTINED)


@dataclass(frozen=True)
class Lease:
    """One lease; times are seconds since 1970."""

    id: int
    interface: str
    address: IPv4Address
    prefix: int
    mac: str
    owner: str
    state: State
    container: str
    """The container's id, once it is bound."""
    created: float
    changed: float
    until: float
    """The end of the quarantine."""


class LeaseStore(Protocol):
    """What a claim needs of a lease store."""

    def reserve(self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str) -> Lease | None:
        """Claim the address for this process; None when it is leased."""

    def bind(self, lease_id: int, container: str) -> Lease:
        """The lease belongs to a container from now on."""

    def release(self, lease_id: int, *, quarantine: float = 60.0) -> None:
        """Give the address back; nobody else gets it for `quarantine` seconds."""

    def forget(self, lease_id: int) -> None:
        """The address was never used: it is free at once."""

    def holder(self, lease_id: int) -> int:
        """A file descriptor that holds the lease as long as any process has it open."""


class SqliteLeaseStore:
    """The leases of one host, in one SQLite file; usable from any thread.

    Raises LeaseError, in one line, where the file or its folder cannot be used.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._db = Database(
            path,
            "lease store",
            schema=_SCHEMA,
            version=_VERSION,
            loss="the wire still shows what is in use",
            clash="was the address leased to another meanwhile? see `arpipam leases`",
        )
        try:
            self._holders = Holders(path.parent / "holders")
        except OSError as error:
            self._db.close()
            raise LeaseError(f"lease store {path}: holders: {error.strerror}; run as root") from None

    def reserve(
        self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str, *, rested: bool = True
    ) -> Lease | None:
        """Claim the address for this process; on disk when this returns. None when it is leased.

        An address in quarantine goes to nobody but its last owner, unless it need not be `rested`.
        """
        now = self._clock()
        with self._transaction():
            self._end_quarantines(now)
            row = self._db.execute(
                "SELECT * FROM lease WHERE interface = ? AND address = ? AND state != 'released'",
                (interface, int(address)),
            ).fetchone()
            if row is not None:
                if row["state"] != State.QUARANTINED or (rested and row["owner"] != owner):
                    return None
                self._db.execute("UPDATE lease SET state = 'released', changed = ? WHERE id = ?", (now, row["id"]))
            cursor = self._db.execute(
                "INSERT INTO lease (interface, address, prefix, mac, owner, state, created, changed)"
                " VALUES (?, ?, ?, ?, ?, 'claimed', ?, ?)",
                (interface, int(address), prefix, mac, owner, now, now),
            )
            lease_id = cursor.lastrowid or 0
            self._holders.hold(lease_id)  # before anybody can see it
        return self.get(lease_id)

    def bind(self, lease_id: int, container: str) -> Lease:
        """The lease belongs to a container from now on, and outlives this process."""
        return self._one(
            lease_id,
            "UPDATE lease SET state = 'bound', container = ?, changed = ? WHERE id = ? RETURNING *",
            (container, self._clock(), lease_id),
        )

    def hand_out(self, lease_id: int, mac: str, owner: str, container: str) -> Lease:
        """What this process holds goes to an owner, under another MAC, and outlives this process.

        Raises LeaseError where it is not held any more.
        """
        for row in self._db.rows(
            "UPDATE lease SET state = 'bound', mac = ?, owner = ?, container = ?, changed = ?"
            " WHERE id = ? AND state IN ('claimed', 'bound') RETURNING *",
            (mac, owner, container, self._clock(), lease_id),
        ):
            with self._db.lock:
                self._holders.let_go(lease_id)
            return _lease(row)
        raise LeaseError(f"lease store {self.path}: lease {lease_id} was given back meanwhile; try again")

    def rename(self, lease_id: int, owner: str, container: str | None = None) -> Lease:
        """It has another owner from now on, and another container if given.

        Nothing else changes: another thread may hand it out under another MAC at this moment.
        """
        statement = (
            "UPDATE lease SET owner = ?, container = coalesce(?, container), changed = ? WHERE id = ? RETURNING *"
        )
        return self._one(lease_id, statement, (owner, container, self._clock(), lease_id))

    def record(
        self, interface: str, address: IPv4Address, prefix: int, *, mac: str, owner: str, container: str
    ) -> Lease | None:
        """An address that is somebody's already, without a claim of ours; None when it is leased to another."""
        lease = self.reserve(interface, address, prefix, mac, owner, rested=False)
        return None if lease is None else self.hand_out(lease.id, mac, owner, container)

    def release(self, lease_id: int, *, quarantine: float = 60.0) -> None:
        """Give the address back; nobody but its owner gets it for `quarantine` seconds."""
        now = self._clock()
        with self._transaction():  # one that was given back already stays so: the address may be another's by now
            self._db.execute(
                "UPDATE lease SET state = 'quarantined', until = ?, changed = ? WHERE id = ? AND state != 'released'",
                (now + quarantine, now, lease_id),
            )
        self._holders.let_go(lease_id)

    def forget(self, lease_id: int) -> None:
        """The address was never announced: it is free at once, and leaves no trace."""
        with self._transaction():
            self._db.execute("DELETE FROM lease WHERE id = ?", (lease_id,))
        self._holders.let_go(lease_id)

    def get(self, lease_id: int) -> Lease:
        """One lease; LeaseError where there is none of that number."""
        return self._one(lease_id, "SELECT * FROM lease WHERE id = ?", (lease_id,))

    def leases(self, interface: str | None = None, *, states: Collection[State] = ACTIVE) -> list[Lease]:
        """The leases in these states, by interface and address; quarantines that are over do not count."""
        now = self._clock()
        marks = ", ".join("?" * len(states))
        rows = self._db.rows(
            f"SELECT * FROM lease WHERE state IN ({marks}) AND NOT (state = 'quarantined' AND until <= ?)"  # noqa: S608 - question marks
            " ORDER BY interface, address, id",
            (*states, now),
        )
        return [_lease(row) for row in rows if interface in {None, row["interface"]}]

    def last_address(self, interface: str, owner: str) -> IPv4Address | None:
        """The address that this owner had last."""
        rows = self._db.rows(
            "SELECT address FROM lease WHERE interface = ? AND owner = ? ORDER BY changed DESC, id DESC LIMIT 1",
            (interface, owner),
        )
        return IPv4Address(rows[0]["address"]) if rows else None

    def holder(self, lease_id: int) -> int:
        """A file descriptor that holds the lease as long as any process has it open (see subprocess, pass_fds)."""
        with self._db.lock:
            return self._holders.file(lease_id)

    def held(self, lease_id: int) -> bool:
        """Whether a living process holds the lease."""
        return self._holders.held(lease_id)

    def reap(self, *, quarantine: float = 60.0, keep: Collection[int] = ()) -> list[Lease]:
        """Put claimed leases that no living process holds into quarantine, except those in `keep`; give back which.

        Ends quarantines that are over, and forgets what was released long ago.
        """
        now = self._clock()
        with self._transaction():
            self._end_quarantines(now)
            self._db.execute("DELETE FROM lease WHERE state = 'released' AND changed < ?", (now - _MEMORY,))
            self._db.execute(
                "DELETE FROM lease WHERE id IN "
                "(SELECT id FROM lease WHERE state = 'released' ORDER BY changed DESC, id DESC LIMIT -1 OFFSET ?)",
                (_MOST_RELEASED,),
            )
            rows = self._db.execute("SELECT * FROM lease WHERE state = 'claimed'").fetchall()
            dead = [row["id"] for row in rows if row["id"] not in keep and not self.held(row["id"])]
            for lease_id in dead:
                self._db.execute(
                    "UPDATE lease SET state = 'quarantined', until = ?, changed = ? WHERE id = ?",
                    (now + quarantine, now, lease_id),
                )
        return [self.get(lease_id) for lease_id in dead]

    def close(self) -> None:
        """Close the file; what this process holds is let go."""
        with self._db.lock:
            for lease_id in self._holders.ours():
                self._holders.let_go(lease_id)
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _one(self, lease_id: int, statement: str, parameters: tuple[object, ...]) -> Lease:
        for row in self._db.rows(statement, parameters):
            return _lease(row)
        raise LeaseError(f"lease store {self.path} has no lease {lease_id}; was it released meanwhile?")

    def _end_quarantines(self, now: float) -> None:
        self._db.execute("UPDATE lease SET state = 'released' WHERE state = 'quarantined' AND until <= ?", (now,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db.lock:
            before = self._holders.ours()

            def undo() -> None:
                for lease_id in self._holders.ours() - before:
                    self._holders.let_go(lease_id)  # the next lease gets that number, in whatever process

            with self._db.transaction(undo):
                yield


def _lease(row: sqlite3.Row) -> Lease:
    return Lease(
        row["id"],
        row["interface"],
        IPv4Address(row["address"]),
        row["prefix"],
        row["mac"],
        row["owner"],
        State(row["state"]),
        row["container"],
        row["created"],
        row["changed"],
        row["until"],
    )
