"""Networks, leases and stations as the agent shows them (see contract.py)."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.claim_state import ClaimState
from launcher.agent.contract import LeaseView, NetworkView, StationView
from launcher.agent.network.held import Role

if TYPE_CHECKING:
    from arpipam.leases.lease import Lease
    from launcher.agent.memory import Memory
    from launcher.agent.network.network import Network

CONFLICT_SHOWN = 60.0  # s for which a lease shows its last conflict
_GUARDS = {
    ClaimState.ANNOUNCING: "agent",
    ClaimState.DEFENDING: "agent",
    ClaimState.GUARDED: "container",
}


def network_view(network: Network) -> NetworkView:
    """What there is to tell of a network."""
    silent = tuple(name or str(address) for address, name in network.witnesses.silent().items())
    pulse, mismatch = network.witnesses.pulse, network.made.mismatch
    down = not network.link.is_open or network.gaps.closed
    return NetworkView(
        pool=network.pool_id,
        interface=network.interface,
        subnet=str(network.subnet),
        state="down" if down else "mismatch" if mismatch else "partitioned" if silent else "up",
        reason=network.gaps.closed
        or mismatch
        or (network.witnesses.complaint() if silent else network.link.reason or network.ready.trouble),
        silent=silent,
        left=network.sightings.left,
        ready=len(network.ready),
        wanted=network.ready.wanted(),
        leases=network.holdings.count(Role.DOCKER),
        policy=network.settings.policy,
        round_trip=None if pulse is None else pulse.round_trip,
        loss=None if pulse is None else pulse.loss(),
        dropped=network.link.allocator.loop.dropped if network.link.is_open else 0,
        failures=network.failures,
        required=tuple(name or str(address) for address, name in network.witnesses.names.items()),
        dhcp=tuple(map(str, network.dhcp.servers)),
        dhcp_warnings=network.dhcp.warnings(),
        dhcp_malformed=network.dhcp.malformed,
    )


def lease_view(lease: Lease, network: Network | None, now: float) -> LeaseView:
    """A lease, at `now` (monotonic seconds); `network` None: the agent has none where it is."""
    held = None if network is None else network.holdings.get(lease.address)
    ready = held is not None and held.role is Role.READY
    shown = held is not None and now - held.conflict_at < CONFLICT_SHOWN
    return LeaseView(
        interface=lease.interface,
        address=str(lease.address),
        prefix=lease.prefix,
        mac=lease.mac,
        owner=lease.owner,
        state="ready" if ready else lease.state.value,
        container=lease.container,
        created=lease.created,
        guarded=_GUARDS.get(held.claim.state, "nobody") if held else "nobody",
        conflict=held.conflict.other if held and held.conflict and shown else "",
    )


def station_views(memory: Memory) -> list[StationView]:
    """Every station that was seen on any link."""
    return [
        StationView(interface, str(IPv4Address(seen.address)), seen.mac.hex(":"), seen.first, seen.last)
        for interface, stations in memory
        for seen in sorted(stations)
    ]
