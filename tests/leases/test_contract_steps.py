"""Any sequence of steps of two processes on one lease store."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arpipam.leases.lease import LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from tests.support.leases import MAC, Clock, address, refusal, reserve
from tests.support.profile import count


@dataclass
class Known:
    """What the model knows of an active lease."""

    id: int
    owner: str
    state: LeaseState
    until: float = 0.0
    holder: int | None = None


PLACES = st.tuples(st.sampled_from(["br0", "br1"]), st.integers(1, 3))
WHICH = st.sampled_from([0, 1])


class Steps(RuleBasedStateMachine):
    """Two processes on one store, against a model of it; never are two active leases on one address."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.stores = [self.open(), self.open()]
        self.active: dict[tuple[str, int], Known] = {}
        self.past: dict[int, tuple[str, int]] = {}

    def open(self) -> SqliteLeaseStore:
        store = SqliteLeaseStore(Path(self.folder.name) / "leases.db", clock=self.clock)
        store._db.execute("PRAGMA synchronous = OFF")
        return store

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def end_quarantines(self) -> None:
        over = [
            place
            for place, known in self.active.items()
            if known.state is LeaseState.QUARANTINED and known.until <= self.clock.elapsed()
        ]
        for place in over:
            del self.active[place]

    @rule(which=WHICH, place=PLACES, owner=st.sampled_from(["web", "db"]))
    def reserve(self, which: int, place: tuple[str, int], owner: str) -> None:
        known = self.active.get(place)
        lease = reserve(self.stores[which], place[1], owner, place[0])
        if known is not None and not (known.state is LeaseState.QUARANTINED and known.owner == owner):
            assert lease is None
            return
        assert lease is not None
        assert lease.id not in self.past
        self.past[lease.id] = place
        self.active[place] = Known(lease.id, owner, LeaseState.CLAIMED, holder=which)

    @rule(which=WHICH, place=PLACES, owner=st.sampled_from(["web", "db"]), recorded=st.booleans())
    def reserve_by_name(self, which: int, place: tuple[str, int], owner: str, *, recorded: bool) -> None:
        store, (interface, number), known = self.stores[which], place, self.active.get(place)
        if recorded:
            lease = store.record(interface, address(number), 24, mac=MAC, owner=owner, container="c0ffee")
        else:
            lease = store.reserve(interface, address(number), 24, MAC, owner, rested=False)
        assert (lease is None) == (known is not None and known.state is not LeaseState.QUARANTINED)
        if lease is not None:
            assert lease.id not in self.past
            self.past[lease.id] = place
            state = LeaseState.BOUND if recorded else LeaseState.CLAIMED
            self.active[place] = Known(lease.id, owner, state, holder=None if recorded else which)

    @precondition(lambda self: self.active)
    @rule(which=WHICH, owner=st.sampled_from(["web", "db"]), data=st.data())
    def hand_out(self, which: int, owner: str, data: st.DataObject) -> None:
        known = self.active[data.draw(st.sampled_from(sorted(self.active)))]
        if known.state is LeaseState.QUARANTINED:
            assert "given back" in refusal(lambda: self.stores[which].hand_out(known.id, MAC, owner, "c0ffee"))
        elif known.holder in {None, which}:
            assert self.stores[which].hand_out(known.id, MAC, owner, "c0ffee").owner == owner
            known.state, known.owner, known.holder = LeaseState.BOUND, owner, None

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def bind(self, which: int, data: st.DataObject) -> None:
        known = self.active[data.draw(st.sampled_from(sorted(self.active)))]
        assert self.stores[which].bind(known.id, "c0ffee").state is LeaseState.BOUND
        known.state = LeaseState.BOUND

    @precondition(lambda self: self.active)
    @rule(which=WHICH, quarantine=st.sampled_from([0.0, 10.0, 60.0]), data=st.data())
    def release(self, which: int, quarantine: float, data: st.DataObject) -> None:
        known = self.active[data.draw(st.sampled_from(sorted(self.active)))]
        self.stores[which].release(known.id, quarantine=quarantine)
        known.state, known.until = LeaseState.QUARANTINED, self.clock.elapsed() + quarantine

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def release_one_that_was_succeeded(self, which: int, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.active)))
        for lease_id, at in self.past.items():
            if at == place and lease_id != self.active[place].id:
                self.stores[which].release(lease_id)

    @precondition(lambda self: self.active)
    @rule(which=WHICH, data=st.data())
    def forget(self, which: int, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.active)))
        self.stores[which].forget(self.active.pop(place).id)

    @rule(which=WHICH)
    def die(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.open()
        for known in self.active.values():
            if known.holder == which:
                known.holder = None

    @rule(which=WHICH)
    def reap(self, which: int) -> None:
        dead = [k for k in self.active.values() if k.state is LeaseState.CLAIMED and k.holder is None]
        assert {lease.id for lease in self.stores[which].reap(quarantine=60)} == {known.id for known in dead}
        for known in dead:
            known.state, known.until = LeaseState.QUARANTINED, self.clock.elapsed() + 60

    @rule(seconds=st.sampled_from([1.0, 10.0, 59.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.end_quarantines()

    @rule(by=st.sampled_from([-3600.0, -30.0, 30.0, 3600.0]))
    def set_the_calendar(self, by: float) -> None:
        self.clock.set(by)

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        self.end_quarantines()
        for store in self.stores:
            leases = store.leases()
            assert max(Counter((lease.interface, lease.address) for lease in leases).values(), default=1) == 1
            found = {
                (lease.interface, int(lease.address) - int(address(0))): (lease.id, lease.owner, lease.state)
                for lease in leases
            }
            assert found == {place: (known.id, known.owner, known.state) for place, known in self.active.items()}
            for known in self.active.values():
                assert known.state is not LeaseState.CLAIMED or store.held(known.id) == (known.holder is not None)


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=count("EXAMPLES", 60, 500), stateful_step_count=30, deadline=None)
