"""Whose MAC it was: a station that answers for others, such as a proxy, may still answer for a container of ours."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from arpipam.leases.lease import LeaseState

if TYPE_CHECKING:
    from arpipam.leases.lease import LeaseStore

_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")


def explained(store: LeaseStore, interface: str, text: str) -> str:
    """The same refusal, and whose the MAC was where it names that of a lease of this host that has ended. Waits."""
    ended = store.leases(interface, states=(LeaseState.QUARANTINED, LeaseState.RELEASED))
    named = set(_MAC.findall(text))
    lease = max(
        (lease for lease in ended if lease.mac in named), key=lambda lease: (lease.changed, lease.id), default=None
    )
    if lease is None:
        return text
    since = datetime.fromtimestamp(lease.changed).astimezone().isoformat(timespec="seconds")
    return (
        f"{text}; {lease.mac} was the MAC of {lease.owner} on this host until {since}, so a station answers for what "
        "is gone, for example a router with proxy ARP or a Wi-Fi controller: have it forget the address"
    )
