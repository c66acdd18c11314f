"""`up` makes a host what the file declares, `down` makes it what it was before."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING

from icmplib import multiping

from arpipam.errors import LinkError
from arpipam.fabric import kernel
from arpipam.fabric.journal import Journal, alone
from arpipam.fabric.last_seen import LastSeen
from arpipam.fabric.observed import Observed
from arpipam.fabric.ovsdb import Ovsdb, default_remote
from arpipam.fabric.planner import Plan, plan
from arpipam.fabric.steps import OVS, AddLink, Address, DelLink, OvsBridge, OvsPort, Route

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Address
    from pathlib import Path

    from arpipam.fabric.config import DeclaredHost, Fabric
    from arpipam.fabric.steps import Change, Step


_WARM_UP = 0.3
"""Seconds that the other hosts get to answer."""


class Site:
    """This host in the fabric: what is declared for it, and the way to its kernel and its Open vSwitch.

    `name` says which host it is, where addresses do not tell; `ovsdb` overrides the file's.
    """

    def __init__(self, fabric: Fabric, state_dir: Path, *, name: str | None = None, ovsdb: str | None = None) -> None:
        self.fabric = fabric
        self.state_dir = state_dir
        self.journal_path = state_dir / f"fabric-{fabric.bridge}.journal"
        self.ovsdb = ovsdb or fabric.ovsdb or default_remote()
        addresses = {address.ip for link in kernel.observe().links.values() for address in link.addresses}
        self.local: DeclaredHost = fabric.local(name=name, addresses=addresses, hostname=socket.gethostname())

    def witnesses(self) -> list[IPv4Address]:
        """Who must answer in a search on the bridge: the other hosts, and whom the file names."""
        return [*(peer.address.ip for peer in self.fabric.peers(self.local)), *self.fabric.witnesses]

    def kept(self) -> list[IPv4Address]:
        """What stays reserved for hosts that are gone on purpose: theirs, and what was last seen behind them."""
        absent = [host for host in self.fabric.hosts if host.absent and host != self.local]
        seen = LastSeen(self.state_dir, self.fabric.bridge).behind([host.name for host in absent])
        inside = [address for address in seen if address in self.fabric.subnet]
        return list(dict.fromkeys([*(host.address.ip for host in absent), *inside]))

    def observe(self, database: Ovsdb | None) -> Observed:
        """What there is now."""
        steps = Journal(self.journal_path).steps
        taken = tuple(s for s in steps if isinstance(s, Route) or (isinstance(s, Address) and s.present))
        return Observed(kernel.observe(), None if database is None else database.observe(), taken)

    def database(self, stack: ExitStack) -> Ovsdb | None:
        """Open vSwitch's database, where the fabric has one."""
        return None if self.fabric.ovs_bridge is None else stack.enter_context(Ovsdb(self.ovsdb))

    def plan(self) -> Plan:
        """What `up` would change."""
        with ExitStack() as stack:
            return plan(self.fabric, self.local, self.observe(self.database(stack)))

    def up(self) -> Plan:
        """Converge; what was changed. When a step fails, those of this run are undone, and LinkError is raised."""
        with ExitStack() as stack:
            stack.enter_context(alone(self.journal_path))
            database = self.database(stack)
            if database is not None:
                database.alive()
            wanted = plan(self.fabric, self.local, self.observe(database))
            journal = Journal(self.journal_path)
            done: list[Change] = []
            new: list[Step] = []
            try:
                for ours, group in groupby(wanted.changes, key=lambda change: isinstance(change.do, OVS)):
                    changes = list(group)
                    for batch in [changes] if ours else [[change] for change in changes]:
                        new += journal.add([change.undo for change in batch])
                        done += batch
                        _do([change.do for change in batch], database)
                self._settle(wanted, database)
            except BaseException as error:
                try:
                    _undo([change.undo for change in done], database)
                except LinkError as more:
                    raise LinkError(f"{error}; and undoing it: {more}") from None
                journal.drop(new)
                raise
            if wanted.datapath == "netdev" and wanted.changes:
                self._warm()
            return wanted

    def _warm(self) -> None:
        """Make the tunnels' neighbours known: a userspace tunnel swallows frames until they are."""
        if underlays := [str(peer.underlay) for peer in self.fabric.peers(self.local)]:
            multiping(underlays, count=1, timeout=_WARM_UP)

    def down(self) -> list[Step]:
        """Take back what was done since the first `up`; the steps that did.

        Raises LinkError, and does nothing, while others still use what would be removed.
        """
        with ExitStack() as stack:
            stack.enter_context(alone(self.journal_path))
            journal = Journal(self.journal_path)
            steps = journal.steps
            database = None  # what the file says now need not be what it said when this was made
            if any(isinstance(step, OVS) for step in steps):
                database = stack.enter_context(Ovsdb(self.ovsdb))
            self._refuse_while_used(steps, database)
            _undo(steps, database)
            journal.drop(steps)
            return steps

    def _settle(self, wanted: Plan, database: Ovsdb | None) -> None:
        """Open vSwitch only records what it could not set up."""
        names = [c.do.name for c in wanted.changes if isinstance(c.do, OvsPort) and c.do.present]
        if database is not None and names and (errors := database.settle(names)):
            raise LinkError("; ".join(errors))

    def _refuse_while_used(self, steps: Sequence[Step], database: Ovsdb | None) -> None:
        removed = {step.name for step in steps if isinstance(step, DelLink)}
        ours = removed | {self.fabric.ovs_bridge or "", self.fabric.nic or ""}
        links = kernel.observe().links
        users = [(link.name, master) for link in links.values() if (master := links.get(link.master)) is not None]
        used = [(user, m.name) for user, m in users if m.mine and m.name in removed and user not in ours]
        if database is not None:
            made = {step.name for step in steps if isinstance(step, OvsBridge)}
            ports = database.observe().ports.values()
            used += [(p.name, p.bridge) for p in ports if p.bridge in made and not p.mine and p.name != p.bridge]
        for user, bridge in used:
            raise LinkError(
                f"{bridge} is still in use by {user}; stop the containers and machines on it, then try again"
            )


def _do(steps: Sequence[Step], database: Ovsdb | None) -> None:
    if isinstance(steps[0], OVS):
        assert database is not None  # noqa: S101 - steps of Open vSwitch come of its database
        database.commit(steps)
    else:
        for step in steps:
            kernel.apply(step)


def _undo(steps: Sequence[Step], database: Ovsdb | None) -> None:
    """Undo in reverse; go on to the end whatever fails, try that once more, then say what still does."""
    batches = list(_batches(list(reversed(steps))))
    for _ in range(2):  # for example, a gateway is reached only when all routes are back
        failures = []
        failed = []
        for batch in batches:
            try:
                _undo_batch(batch, database)
            except LinkError as error:
                failures.append(str(error))
                failed.append(batch)
        batches = failed
        if any(isinstance(batch[0], OVS) for batch in failed):
            break  # it has had its time
    if failures:
        raise LinkError("; ".join(failures))


def _undo_batch(batch: Sequence[Step], database: Ovsdb | None) -> None:
    if isinstance(batch[0], OVS):
        if database is not None:
            database.commit(batch, tolerant=True)
        return
    for step in batch:
        if isinstance(step, AddLink):
            kernel.apply(step)
        else:
            kernel.undo(step)


def _batches(steps: list[Step]) -> Iterator[list[Step]]:
    for ours, group in groupby(steps, key=lambda step: isinstance(step, OVS)):
        if ours:
            yield list(group)
        else:
            yield from ([step] for step in group)
