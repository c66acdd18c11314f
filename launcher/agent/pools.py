"""The pools that Docker has been given, on disk: after a restart of the agent the engine does not ask again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from arpipam.errors import InputError, LeaseError
from arpipam.leases.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_VERSION = 1
_SCHEMA = """
CREATE TABLE pool (
    id        TEXT PRIMARY KEY,
    interface TEXT NOT NULL,
    subnet    TEXT NOT NULL,
    ranges    TEXT NOT NULL,
    options   TEXT NOT NULL,
    count     INTEGER NOT NULL
)
"""


@dataclass(frozen=True)
class DockerPool:
    """Addresses of one link that Docker may be given. Its id says which: the same for the same request."""

    interface: str
    subnet: IPv4Network
    ranges: IPv4Network | None = None
    """Docker's --ip-range."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Docker's --ipam-opt."""
    count: int = 0
    """How often it was asked for and not yet given back; 0: Docker does not know of it."""

    @property
    def id(self) -> str:
        """Docker's PoolID. It tells links apart, on which the same subnet may be two networks."""
        return f"{self.interface}:{self.subnet}" + (f":{self.ranges}" if self.ranges else "")

    @classmethod
    def parse(cls, pool_id: str) -> DockerPool:
        """The pool of an id; raises InputError for what is none."""
        try:
            interface, subnet, ranges = (*pool_id.split(":"), "")[:3]
            pool = cls(interface, IPv4Network(subnet), IPv4Network(ranges) if ranges else None)
            if not interface or pool.id != pool_id:
                raise ValueError(pool_id)  # noqa: TRY301 - one answer for all that is none
        except ValueError:
            raise InputError(f"pool {pool_id!r} is not known here; was it another driver's?") from None
        return pool


class PoolStore:
    """The pools, in one SQLite file. Raises LeaseError, in one line, where that cannot be used."""

    def __init__(self, path: Path) -> None:
        loss = "the ids that Docker has say what was in it"  # a pool that it has and we forget is of no use to it
        self._db = Database(path, "pools", schema=_SCHEMA, version=_VERSION, loss=loss)
        self.pools: dict[str, DockerPool] = {}
        for interface, subnet, ranges, options, count in self._db.rows(
            "SELECT interface, subnet, ranges, options, count FROM pool"
        ):
            try:
                inner = IPv4Network(ranges) if ranges else None
                self._keep(DockerPool(interface, IPv4Network(subnet), inner, json.loads(options), count))
            except ValueError as error:
                raise LeaseError(f"pools {path}: {error}; a damaged file may be moved away: {loss}") from None

    def get(self, pool_id: str) -> DockerPool:
        """The pool as Docker has it now; one that Docker does not have is what its id says. Raises as `parse` does."""
        return self.pools.get(pool_id) or DockerPool.parse(pool_id)

    def request(self, wanted: DockerPool) -> DockerPool:
        """One more asks for this pool. Raises InputError where it overlaps with another one of its link."""
        for other in self.pools.values():
            if other.id != wanted.id and other.interface == wanted.interface and other.subnet.overlaps(wanted.subnet):
                raise InputError(
                    f"pool {wanted.subnet} overlaps with {other.subnet}, which another Docker network has on "
                    f"{other.interface}; use that network, or remove it first"
                )
        known = self.pools.get(wanted.id)
        if known is not None and known.count > 0:  # a second network on it changes nothing for the first
            wanted = known
        return self._save(replace(wanted, count=1 + (known.count if known else 0)))

    def release(self, pool_id: str, *, wholly: bool = False) -> DockerPool:
        """One fewer, or nobody any more, needs this pool; what is left of it. Raises InputError for one not known."""
        known = self.pools.get(pool_id)
        if known is None:
            raise InputError(f"pool {pool_id!r} is not known here; was it released before?")
        left = replace(known, count=0 if wholly else known.count - 1)
        if left.count > 0:
            return self._save(left)
        with self._db.transaction():
            self._db.execute("DELETE FROM pool WHERE id = ?", (pool_id,))
        del self.pools[pool_id]
        return left

    def recount(self) -> None:
        """An engine has started, and asks for each pool that it has once more."""
        with self._db.transaction():
            self._db.execute("UPDATE pool SET count = 0")
        self.pools = {pool_id: replace(pool, count=0) for pool_id, pool in self.pools.items()}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _save(self, pool: DockerPool) -> DockerPool:
        ranges = str(pool.ranges) if pool.ranges else ""
        with self._db.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO pool VALUES (?, ?, ?, ?, ?, ?)",
                (pool.id, pool.interface, str(pool.subnet), ranges, json.dumps(dict(pool.options)), pool.count),
            )
        return self._keep(pool)

    def _keep(self, pool: DockerPool) -> DockerPool:
        self.pools[pool.id] = pool
        return pool
