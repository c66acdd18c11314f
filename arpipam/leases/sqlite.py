# ruff: noqa: S608 - what is put into statements is a constant, or question marks
"""The leases of one host in an SQLite file: several processes at once, safe against SIGKILL and power loss.

Which process holds a lease, and whether it lives, the kernel knows: see liveness.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from arpipam.errors import LeaseError
from arpipam.leases.clock import HostClock
from arpipam.leases.database import Database
from arpipam.leases.lease import ACTIVE, QUARANTINE, Lease, LeaseState
from arpipam.leases.liveness import Liveness

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from arpipam.leases.clock import Clock

_VERSION = 2
_MOST_RELEASED = 4096
"""So many released leases are remembered, those that changed last."""

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
    step      INTEGER NOT NULL,
    until     REAL NOT NULL DEFAULT 0,
    boot      TEXT NOT NULL DEFAULT '',
    ends      REAL NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_lease ON lease (interface, address) WHERE state IN ('claimed', 'bound', 'quarantined');
CREATE INDEX by_owner ON lease (interface, owner, step);
CREATE INDEX by_step ON lease (step);
"""
_ANSWERS = """
CREATE TABLE IF NOT EXISTS answer (
    interface TEXT NOT NULL, address INTEGER NOT NULL, mac TEXT NOT NULL, boot TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (interface, address)
)
"""
# Made when it is first needed: most links never need it. `at`: seconds since the boot.
_ANSWERS_KEPT = 60.0
# step: the order of changes, which a clock that is set cannot turn round.
# boot, ends: the boot in which a quarantine was noted, and the seconds since that boot at which it ends.

_NEXT_STEP = "(SELECT coalesce(max(step), 0) + 1 FROM lease)"
_QUARANTINE = f"UPDATE lease SET state = 'quarantined', until = ?, changed = ?, boot = ?, ends = ?, step = {_NEXT_STEP}"


class SqliteLeaseStore:
    """The leases of one host, in one SQLite file; usable from any thread.

    Raises LeaseError, in one line, where the file or its folder cannot be used. For the methods see LeaseStore.

    A clock that is set back never prolongs a quarantine beyond its length, and one that is set forth ends none before
    its time, but for the time that a reboot takes. No clock ends a lease that is claimed or bound.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = HostClock() if clock is None else clock
        self._db = Database(
            path,
            "lease store",
            schema=_SCHEMA,
            version=_VERSION,
            loss="the wire still shows what is in use",
            clash="was the address leased to another meanwhile? see `arpipam leases`",
        )
        try:
            self._liveness = Liveness(path.parent / "holders")
        except OSError as error:
            self._db.close()
            raise LeaseError(f"lease store {path}: holders: {error.strerror}; run as root") from None
        try:
            self._take_up_quarantines()
        except LeaseError:
            self._db.close()
            raise

    def reserve(
        self, interface: str, address: IPv4Address, prefix: int, mac: str, owner: str, *, rested: bool = True
    ) -> Lease | None:
        """Claim the address for this process; on disk when this returns. None when it is leased.

        An address in quarantine goes to nobody but its last owner, unless it need not be `rested`.
        """
        now = self._clock.calendar()
        with self._transaction():
            self._end_quarantines()
            row = self._db.execute(
                "SELECT * FROM lease WHERE interface = ? AND address = ? AND state != 'released'",
                (interface, int(address)),
            ).fetchone()
            if row is not None:
                if row["state"] != LeaseState.QUARANTINED or (rested and row["owner"] != owner):
                    return None
                self._db.execute(f"UPDATE lease SET state = 'released', step = {_NEXT_STEP} WHERE id = ?", (row["id"],))
            cursor = self._db.execute(
                "INSERT INTO lease (interface, address, prefix, mac, owner, state, created, changed, step)"
                f" VALUES (?, ?, ?, ?, ?, 'claimed', ?, ?, {_NEXT_STEP})",
                (interface, int(address), prefix, mac, owner, now, now),
            )
            lease_id = cursor.lastrowid or 0
            self._liveness.hold(lease_id)  # before anybody can see it
        return self.get(lease_id)

    def bind(self, lease_id: int, container: str) -> Lease:
        """The lease belongs to a container from now on, and outlives this process."""
        return self._one(
            lease_id,
            f"UPDATE lease SET state = 'bound', container = ?, changed = ?, step = {_NEXT_STEP}"
            " WHERE id = ? RETURNING *",
            (container, self._clock.calendar(), lease_id),
        )

    def hand_out(self, lease_id: int, mac: str, owner: str, container: str) -> Lease:
        """What this process holds goes to an owner, under another MAC, and outlives this process.

        Raises LeaseError where it is not held any more.
        """
        for row in self._db.rows(
            f"UPDATE lease SET state = 'bound', mac = ?, owner = ?, container = ?, changed = ?, step = {_NEXT_STEP}"
            " WHERE id = ? AND state IN ('claimed', 'bound') RETURNING *",
            (mac, owner, container, self._clock.calendar(), lease_id),
        ):
            with self._db.lock:
                self._liveness.let_go(lease_id)
            return _lease(row)
        raise LeaseError(f"lease store {self.path}: lease {lease_id} was given back meanwhile; try again")

    def set_owner(self, lease_id: int, owner: str, container: str | None = None) -> Lease:
        """Set another owner, and another container if one is given.

        Nothing else changes: another thread may hand it out under another MAC at this moment.
        """
        statement = (
            f"UPDATE lease SET owner = ?, container = coalesce(?, container), changed = ?, step = {_NEXT_STEP}"
            " WHERE id = ? RETURNING *"
        )
        return self._one(lease_id, statement, (owner, container, self._clock.calendar(), lease_id))

    def record(
        self, interface: str, address: IPv4Address, prefix: int, *, mac: str, owner: str, container: str
    ) -> Lease | None:
        """An address that is somebody's already, without a claim of ours; None when it is leased to another."""
        lease = self.reserve(interface, address, prefix, mac, owner, rested=False)
        return None if lease is None else self.hand_out(lease.id, mac, owner, container)

    def release(self, lease_id: int, *, quarantine: float = QUARANTINE) -> None:
        """End the lease; for `quarantine` seconds the address goes to its owner only."""
        with self._transaction():  # a lease that ended before stays so: the address may be another's by now
            self._db.execute(
                f"{_QUARANTINE} WHERE id = ? AND state != 'released'", (*self._until(quarantine), lease_id)
            )
        self._liveness.let_go(lease_id)

    def forget(self, lease_id: int) -> None:
        """The address was never announced: it is free at once, and leaves no trace."""
        with self._transaction():
            self._db.execute("DELETE FROM lease WHERE id = ?", (lease_id,))
        self._liveness.let_go(lease_id)

    def get(self, lease_id: int) -> Lease:
        """One lease; LeaseError where there is none of that number."""
        return self._one(lease_id, "SELECT * FROM lease WHERE id = ?", (lease_id,))

    def leases(self, interface: str | None = None, *, states: Collection[LeaseState] = ACTIVE) -> list[Lease]:
        """The leases in these states, by interface and address; quarantines that are over do not count."""
        marks = ", ".join("?" * len(states))
        rows = self._db.rows(
            f"SELECT * FROM lease WHERE state IN ({marks}) AND NOT (state = 'quarantined' AND ends <= ?)"
            " ORDER BY interface, address, id",
            (*states, self._clock.elapsed()),
        )
        return [_lease(row) for row in rows if interface in {None, row["interface"]}]

    def last_address(self, interface: str, owner: str) -> IPv4Address | None:
        """The address that this owner had last."""
        rows = self._db.rows(
            "SELECT address FROM lease WHERE interface = ? AND owner = ? ORDER BY step DESC LIMIT 1",
            (interface, owner),
        )
        return IPv4Address(rows[0]["address"]) if rows else None

    def holder_fd(self, lease_id: int) -> int:
        """A file descriptor that holds the lease as long as any process has it open (see subprocess, pass_fds)."""
        with self._db.lock:
            return self._liveness.fd(lease_id)

    def note_answers(self, interface: str, answers: Mapping[IPv4Address, str]) -> None:
        """Note stations, with their MACs, that have answered a probe just now: no process shall soon probe them."""
        boot, now = self._clock.boot, self._clock.elapsed()
        with self._transaction():
            self._db.execute(_ANSWERS)
            self._db.execute("DELETE FROM answer WHERE boot != ? OR at < ?", (boot, now - _ANSWERS_KEPT))
            self._db.execute_all(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?)",
                ((interface, int(address), mac, boot, now) for address, mac in answers.items()),
            )

    def answered(self, interface: str, within: float) -> dict[IPv4Address, str]:
        """The stations that were noted in the last `within` seconds, with their MACs; of this boot only."""
        if not self._db.rows("SELECT 1 FROM sqlite_master WHERE name = 'answer'"):
            return {}
        known = (interface, self._clock.boot, self._clock.elapsed() - within)
        rows = self._db.rows("SELECT address, mac FROM answer WHERE interface = ? AND boot = ? AND at > ?", known)
        return {IPv4Address(row["address"]): row["mac"] for row in rows}

    def held(self, lease_id: int) -> bool:
        """Whether a living process holds the lease."""
        return self._liveness.held(lease_id)

    def reap(self, *, quarantine: float = QUARANTINE, keep: Collection[int] = ()) -> list[Lease]:
        """Put claimed leases that no living process holds into quarantine, except those in `keep`; return them.

        Ends quarantines that are over, and forgets the oldest of what was released.
        """
        with self._transaction():
            self._end_quarantines()
            self._db.execute(
                "DELETE FROM lease WHERE id IN "
                "(SELECT id FROM lease WHERE state = 'released' ORDER BY step DESC LIMIT -1 OFFSET ?)",
                (_MOST_RELEASED,),
            )
            rows = self._db.execute("SELECT * FROM lease WHERE state = 'claimed'").fetchall()
            dead = [row["id"] for row in rows if row["id"] not in keep and not self.held(row["id"])]
            for lease_id in dead:
                self._db.execute(f"{_QUARANTINE} WHERE id = ?", (*self._until(quarantine), lease_id))
        return [self.get(lease_id) for lease_id in dead]

    def close(self) -> None:
        """Close the file; what this process holds is let go."""
        with self._db.lock:
            for lease_id in self._liveness.ours():
                self._liveness.let_go(lease_id)
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

    def _until(self, quarantine: float) -> tuple[float, float, str, float]:
        """The values of `_QUARANTINE`."""
        now = self._clock.calendar()
        return now + quarantine, now, self._clock.boot, self._clock.elapsed() + quarantine

    def _end_quarantines(self) -> None:
        self._db.execute(
            "UPDATE lease SET state = 'released' WHERE state = 'quarantined' AND ends <= ?", (self._clock.elapsed(),)
        )

    def _take_up_quarantines(self) -> None:
        """Go on with the quarantines from before a reboot, by the calendar, but for no longer than their length."""
        with self._transaction():
            self._db.execute(
                "UPDATE lease SET boot = ?, ends = ? + max(0, min(until - ?, until - changed))"
                " WHERE state = 'quarantined' AND boot != ?",
                (self._clock.boot, self._clock.elapsed(), self._clock.calendar(), self._clock.boot),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db.lock:
            before = self._liveness.ours()

            def undo() -> None:
                for lease_id in self._liveness.ours() - before:
                    self._liveness.let_go(lease_id)  # the next lease gets that number, in whatever process

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
        LeaseState(row["state"]),
        row["container"],
        row["created"],
        row["changed"],
        row["until"],
    )
