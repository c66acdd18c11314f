"""Leases against the containers of an engine, where no agent runs that follows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.leases.lease import LeaseState

if TYPE_CHECKING:
    from arpipam.leases.lease import Lease, LeaseStore
    from launcher.engine.engine import Engine


def reconcile(leases: LeaseStore, engine: Engine) -> list[Lease]:
    """Bring the leases up to date with the containers: gone without us (a crash, -d --rm), or started and not recorded.

    Returns the leases that were released.
    """
    known = leases.leases()  # before the containers: one that is bound by now existed before we look
    bound = [lease for lease in known if lease.state is LeaseState.BOUND and lease.container.endswith(f"@{engine.id}")]
    lost = [lease for lease in known if lease.state is not LeaseState.BOUND and not leases.held(lease.id)]
    if not lost and not bound:
        return []
    containers = engine.containers()
    ids = {container.id for container in containers}
    released = [lease for lease in bound if lease.container.partition("@")[0] not in ids]
    for lease in released:
        leases.release(lease.id)
    for lease in lost:
        holder = next((container for container in containers if engine.holds(container, lease)), None)
        if holder is not None:
            leases.bind(lease.id, engine.reference(holder.id))
    return released + leases.reap()
