"""A refusal that names the MAC of a container that is gone says so."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from launcher.agent.network.former import explained

if TYPE_CHECKING:
    from arpipam.leases.sqlite import SqliteLeaseStore

ADDRESS, MAC = IPv4Address("10.0.0.8"), "02:5e:00:00:00:08"
TEXT = f"br0: {ADDRESS} is in use by {MAC}; take another"


def leased(store: SqliteLeaseStore, mac: str, owner: str, *, quarantine: float | None) -> None:
    lease = store.reserve("br0", ADDRESS, 24, mac, owner, rested=False)
    assert lease is not None
    if quarantine is not None:
        store.release(lease.id, quarantine=quarantine)


def test_a_container_that_is_gone_is_named_with_the_time_of_its_end(store: SqliteLeaseStore) -> None:
    leased(store, MAC, "web", quarantine=0)
    leased(store, "02:5e:00:00:00:09", "the refused one", quarantine=None)
    said = explained(store, "br0", TEXT)
    assert said.startswith(f"{TEXT}; {MAC} was the MAC of web on this host until ")
    assert "\n" not in said


def test_also_while_its_address_rests_and_the_last_one_that_had_the_mac(store: SqliteLeaseStore) -> None:
    leased(store, MAC, "web", quarantine=0)
    leased(store, MAC, "db", quarantine=60)
    assert "was the MAC of db on" in explained(store, "br0", TEXT)


def test_anybody_else_is_not_explained(store: SqliteLeaseStore) -> None:
    leased(store, "02:5e:00:00:00:09", "web", quarantine=0)
    leased(store, MAC, "db", quarantine=None)  # it is there
    assert explained(store, "br0", TEXT) == TEXT
    assert explained(store, "br1", TEXT) == TEXT
    assert explained(store, "br0", "br0: 10.0.0.8 is in use; take another") == "br0: 10.0.0.8 is in use; take another"
