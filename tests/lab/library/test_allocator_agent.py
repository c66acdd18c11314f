"""What an agent needs of the library, on real links: one link for many searches, claims that outlive a process and go
to their owners, and an ear for everything."""

from __future__ import annotations

import threading
from contextlib import closing
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import Allocator, ArpipamError, ClaimState, InputError, LinkError, UnknownError, Verdict
from arpipam.leases.lease import Lease, LeaseState
from arpipam.leases.sqlite import SqliteLeaseStore
from arpipam.protocol import arp
from arpipam.protocol.policy import Policy
from arpipam.protocol.timing import LAN, Timing
from tests.support.lans import (
    FREE,
    FREE_TOO,
    GIVEN,
    LONG,
    OWN,
    PRINTER,
    Lan,
    Opener,
    announcement,
    announcements,
    fresh,
    number,
    owners,
)
from tests.support.until import until

if TYPE_CHECKING:
    from pathlib import Path

    from arpipam.claim import Claim, Conflict
    from arpipam.lab import Lab
    from arpipam.lab.capture import Capture
    from arpipam.link.task import Task
    from arpipam.protocol.arp import ArpPacket

READY, OWNER = "02:5e:00:00:00:01", "02:5e:00:00:00:02"


@pytest.fixture
def store(opened: Opener) -> SqliteLeaseStore:
    """The leases, as an agent has them open for all of its networks."""
    return opened.stack.enter_context(closing(SqliteLeaseStore(opened.state / "leases.db")))


def variant(on: Lan, allocator: Allocator, **options: Any) -> Allocator:
    with on.host.namespace.inside():
        return allocator.variant(**options)


def told(capture: Capture, address: str) -> list[ArpPacket]:
    """The announcements of an address."""
    capture.read()
    packets = [packet for _, packet in capture.packets if packet.operation == arp.REQUEST]
    return [packet for packet in packets if packet.sender_ip == packet.target_ip == number(address)]


# The same link under other options.


def test_a_variant_searches_by_its_own_options_over_the_same_link_and_leases(lan: Lan, opened: Opener) -> None:
    first = opened(lan, ranges=["172.16.42.2-172.16.42.9"])
    other = variant(lan, first, ranges=["172.16.42.60-172.16.42.69"])
    assert (other.link, other.loop, other.leases) == (first.link, first.loop, first.leases)
    assert other.own_address == first.own_address == number(OWN)
    assert [str(one.find().address) for one in (first, other)] == [FREE, "172.16.42.60"]
    claim = variant(lan, first, exclude=[FREE], order="random", timing="lan").claim("web")
    assert claim.address in map(IPv4Address, range(number(FREE) + 1, number("172.16.42.10")))
    assert str(first.find().address) == FREE
    until(lambda: owners(lan, claim.address) == {claim.mac})
    [seen] = first.probe([claim.address])
    assert (seen.verdict, seen.mac) == (Verdict.IN_USE, claim.mac)


def test_a_variant_keeps_what_the_first_was_given_though_it_could_be_read_only_once(lan: Lan, opened: Opener) -> None:
    few = ["172.16.42.60-172.16.42.61", "172.16.42.70"]
    first = opened(lan, ranges=iter(few), exclude=iter(few[1:]), witnesses=iter([PRINTER]))
    for allocator in (variant(lan, first), variant(lan, variant(lan, first))):
        assert list(allocator.pool.candidates(rng=allocator._rng)) == [number(f"172.16.42.{n}") for n in (60, 61)]
        assert allocator._terms.witnesses == (number(PRINTER),)


def test_a_variant_sees_the_host_as_it_is_by_now(own_lan: Lan, opened: Opener) -> None:
    first = opened(own_lan)
    assert str(first.find().address) == FREE
    own_lan.host.namespace.ip([f"addr add {FREE}/24 dev docker0"])
    assert str(variant(own_lan, first).find().address) == FREE_TOO
    assert IPv4Interface(f"{FREE}/24") in first.link.prefixes
    own_lan.host.namespace.ip([f"addr del {OWN}/24 dev docker0", f"addr add {FREE_TOO}/24 dev docker0"])
    again = variant(own_lan, first)
    assert (again.own_address, str(again.find().address)) == (number(FREE_TOO), OWN)


def test_a_variant_refuses_what_an_allocator_would(own_lan: Lan, opened: Opener) -> None:
    first = opened(own_lan)
    with pytest.raises(InputError, match="this host's own address"):
        variant(own_lan, first, witnesses=[OWN])
    with pytest.raises(InputError, match="leave no address"):
        variant(own_lan, first, ranges=[OWN])
    own_lan.host.namespace.ip(["link set docker0 down"])
    with pytest.raises(LinkError, match="docker0 is down"):
        variant(own_lan, first)


def test_a_variant_works_only_as_long_as_the_first_is_open(lan: Lan, tmp_path: Path) -> None:
    with lan.host.namespace.inside(), Allocator("docker0", state_dir=tmp_path) as first:
        other = first.variant()
    with pytest.raises(ArpipamError, match="closed"):
        other.find()


def test_a_store_that_is_shared_is_left_open(lan: Lan, store: SqliteLeaseStore) -> None:
    with lan.host.namespace.inside(), Allocator("docker0", store=store, state_dir="/nowhere") as allocator:
        assert allocator.leases is store
        claim = allocator.variant().claim("web")
    assert store.leases() == [claim.lease]


# A claim that outlives its process.


def left(store: SqliteLeaseStore, address: str = GIVEN) -> Lease:
    """A container's lease whose process is gone."""
    lease = store.record("docker0", IPv4Address(address), 24, mac=OWNER, owner="web", container="c0ffee")
    assert lease is not None
    return lease


def test_an_adopted_lease_is_announced_and_answered_for_at_once_and_never_probed(
    lan: Lan, opened: Opener, store: SqliteLeaseStore
) -> None:
    allocator, lease = opened(lan, store=store), left(store)
    with lan.wire.capture() as capture:
        claim = allocator.adopt(lease)
        assert owners(lan, GIVEN) == {OWNER}
        until(lambda: claim.state is ClaimState.DEFENDING)
        until(lambda: announcements((capture.read() and capture.packets) or [], GIVEN) == [OWNER] * 2)
        mine = [packet for _, packet in capture.packets if packet.sender_mac == arp.mac_bytes(OWNER)]
        assert not [packet for packet in mine if packet.is_probe]
    assert (claim.lease, claim.mac, str(claim.address)) == (lease, OWNER, GIVEN)
    assert store.leases() == [lease]
    claim.release()
    assert owners(lan, GIVEN) == set()
    assert opened.leases() == {GIVEN: LeaseState.QUARANTINED}


def test_every_announcement_says_since_when_the_address_is_ours_the_first_one_too(
    lan: Lan, opened: Opener, store: SqliteLeaseStore
) -> None:
    allocator = opened(lan, store=store, witnesses=[PRINTER])
    with lan.wire.capture() as capture:
        claims = [allocator.claim("web"), allocator.claim("db", "172.16.42.51"), allocator.adopt(left(store))]
        for claim in claims:
            until(lambda claim=claim: claim.state is ClaimState.DEFENDING)  # type: ignore[misc]
            until(lambda claim=claim: len(told(capture, str(claim.address))) == 2)  # type: ignore[misc]
            since = round(claim.lease.created * 1_000_000)
            assert [packet.since for packet in told(capture, str(claim.address))] == [since] * 2


def test_of_two_claims_that_a_cut_made_the_older_stays_when_it_heals(laboratory: Lab, tmp_path: Path) -> None:
    wire = laboratory.wire()
    hosts = [laboratory.host(f"host{fresh()}", wire, f"172.16.42.{n}/24") for n in (1, 2)]
    laboratory.start()
    asker = laboratory.station(f"asker{fresh()}", wire, "172.16.42.9/24")
    wire.cut(*hosts)
    allocators, claims = [], []
    for at, host in enumerate(hosts):
        with host.namespace.inside():
            allocators.append(Allocator("docker0", state_dir=tmp_path / str(at), alone=True).__enter__())
    try:
        for allocator in allocators:
            claims.append(allocator.claim("web", GIVEN))
            until(lambda: claims[-1].state is ClaimState.DEFENDING)
        older, younger = claims
        met: list[Conflict] = []
        younger.on_conflict(met.append)
        wire.heal()
        younger.announce()
        until(lambda: younger.state is ClaimState.CONFLICT)
        assert older.state is ClaimState.DEFENDING
        assert younger.conflict == older.mac
        until(lambda: met, "the conflict")  # listeners are called after the state has changed
        assert [conflict.older for conflict in met] == [False]
        until(lambda: asker.who_has(GIVEN) == {older.mac})
    finally:
        for allocator in allocators:
            allocator.__exit__(None, None, None)


# A claim on its way to its owner.


def test_a_ready_claim_goes_to_its_owner_and_back_without_a_moment_in_which_nobody_answers(
    own_lan: Lan, opened: Opener, store: SqliteLeaseStore
) -> None:
    claim = opened(own_lan, store=store).claim("ready", GIVEN, mac=READY)
    until(lambda: claim.state is ClaimState.DEFENDING)
    with own_lan.wire.capture() as capture:
        claim.hand_out(store.hand_out(claim.lease.id, OWNER, "web", "c0ffee"), Policy.REPORT)
        until(lambda: announcements((capture.read() and capture.packets) or [], GIVEN) == [OWNER] * 2)
    claim.ask_owner()
    assert owners(own_lan, GIVEN) == {OWNER}
    owner = own_lan.lab.namespace(f"owner{fresh()}")
    own_lan.host.plug(owner, "eth0")
    owner.ip([f"link set eth0 address {OWNER}", f"addr add {GIVEN}/24 dev eth0"])
    until(lambda: claim.state is ClaimState.GUARDED)
    assert owners(own_lan, GIVEN) == {OWNER}  # by itself
    owner.delete()  # the kernel takes a namespace down some time after that
    until(lambda: owners(own_lan, GIVEN) == set())
    claim.take_over()
    until(lambda: owners(own_lan, GIVEN) == {OWNER})
    assert [(lease.state, lease.mac) for lease in store.leases()] == [(LeaseState.BOUND, OWNER)]


def test_who_uses_an_address_that_is_guarded_is_reported_and_the_claim_stays(lan: Lan, opened: Opener) -> None:
    claim = opened(lan).claim("web", GIVEN)
    met: list[Conflict] = []
    claim.on_conflict(met.append)
    claim.set_policy(Policy.REPORT)
    claim.guard()
    with lan.wire.capture() as capture:
        lan.printer.send([announcement(lan.printer, GIVEN)] * 3)
        until(lambda: len(met) == 3)
        lan.printer.send([arp.request(arp.mac_bytes(lan.printer.mac), number(PRINTER), number(GIVEN))])
        assert owners(lan, GIVEN) == set()  # nobody has it, and we do not answer
        capture.read()
        ours = [packet for _, packet in capture.packets if packet.sender_mac == arp.mac_bytes(claim.mac)]
    assert {(str(conflict.address), conflict.other, conflict.older) for conflict in met} == {
        (GIVEN, lan.printer.mac, None)
    }
    assert not [packet for packet in ours if packet.operation == arp.REPLY]
    assert claim.state is ClaimState.GUARDED


# An ear for everything, and the end.


def test_a_watcher_hears_what_others_say_to_each_other_on_the_drivers_thread(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan)
    heard: list[tuple[ArpPacket, str]] = []
    allocator.loop.watch(lambda packet, _: heard.append((packet, threading.current_thread().name)))
    mac = arp.mac_bytes(lan.printer.mac)
    others = [
        arp.ArpPacket(arp.REQUEST, mac, number(PRINTER), arp.NO_MAC, number("172.16.42.77"), mac, arp.BROADCAST),
        arp.ArpPacket(arp.REPLY, mac, number(PRINTER), b"\x02" + bytes(5), number("172.16.42.78"), mac, arp.BROADCAST),
    ]
    lan.printer.send([arp.encode(other) for other in others])
    until(lambda: len(heard) >= 2)
    assert [packet for packet, _ in heard if packet in others] == others
    assert {name for _, name in heard} == {allocator.loop.call(threading.current_thread).result().name}
    assert str(allocator.find().address) == FREE  # and the search is none the worse for it


def test_several_watchers_hear_the_same(lan: Lan, opened: Opener) -> None:
    loop = opened(lan).loop
    ears: list[list[ArpPacket]] = [[], []]
    for ear in ears:
        loop.watch(lambda packet, _, ear=ear: ear.append(packet))  # type: ignore[misc]
    lan.printer.send([announcement(lan.printer, PRINTER)])
    until(lambda: all(ears))
    assert ears[0][-1] == ears[1][-1]


@pytest.mark.parametrize(
    ("command", "said"), [("link set docker0 down", "docker0 is down"), ("link del docker0", "docker0 is gone")]
)
def test_a_loop_says_why_it_has_ended(own_lan: Lan, opened: Opener, command: str, said: str) -> None:
    loop = opened(own_lan).loop
    assert not loop.ended.done()
    own_lan.host.namespace.ip([command])
    reason = loop.ended.result(LONG)
    assert isinstance(reason, LinkError)
    assert said in str(reason)


def test_a_driver_that_is_closed_has_ended_too(lan: Lan, tmp_path: Path) -> None:
    with lan.host.namespace.inside(), Allocator("docker0", state_dir=tmp_path) as allocator:
        ended = allocator.loop.ended
        assert not ended.cancel()  # whoever waits no longer must not take it from the others
        assert not ended.done()
    assert "closed" in str(ended.result(0))


# Confirmed.

SLOW = Timing("slow", probe_wait=0.0, probe_num=3, probe_min=0.5, probe_max=0.5, announce_wait=0.5)


def test_what_is_claimed_was_confirmed_by_the_given_timing(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan, witnesses=[PRINTER], confirm=LAN)
    with lan.wire.capture() as capture:
        claim = allocator.claim("web")
        until(lambda: told(capture, FREE))
    assert str(claim.address) == FREE
    assert claim.found.miss_probability is not None
    assert claim.found.miss_probability <= 1e-6
    probes = [packet for _, packet in capture.packets if packet.is_probe and packet.target_ip == number(FREE)]
    assert len(probes) == 3 + 3  # beside the requests, and then by the timing
    assert claim.found.elapsed >= (10 * 0.02 + 0.1) + (2 * LAN.probe_min + LAN.announce_wait)


def being_confirmed(job: Task[Claim]) -> bool:
    return job.machine._free is not None and job.machine.probing.rounds >= 1  # type: ignore[attr-defined]


def test_whoever_comes_while_an_address_is_confirmed_keeps_it(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan, witnesses=[PRINTER], confirm=SLOW)
    job = allocator.start_claim("web", None, None)
    until(lambda: being_confirmed(job))
    assert opened.leases() == {FREE: LeaseState.CLAIMED}
    lan.printer.send([announcement(lan.printer, FREE)])
    claim = job.future.result(LONG)
    assert str(claim.address) == FREE_TOO
    assert opened.leases() == {FREE_TOO: LeaseState.CLAIMED}


def test_a_witness_that_is_cut_off_while_an_address_is_confirmed_makes_it_unknown(own_lan: Lan, opened: Opener) -> None:
    allocator = opened(own_lan, witnesses=[PRINTER], confirm=SLOW)
    job = allocator.start_claim("web", None, None)
    until(lambda: job.machine._free is not None)  # type: ignore[attr-defined]
    own_lan.wire.cut(own_lan.printer)
    try:
        claim = job.future.result(LONG)
    except UnknownError as error:
        assert f"no answer from witness {PRINTER}" in str(error)  # noqa: PT017 - the other way is right as well
        assert opened.leases() == {}
    else:
        assert str(claim.address) == FREE  # it had answered in this very round
