"""Claims on real links: announced, defended, handed over; and what happens when the link goes away."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from arpipam import (
    AddressInUseError,
    Allocator,
    AsyncAllocator,
    ClaimState,
    InputError,
    LinkError,
    PoolExhaustedError,
    Verdict,
)
from arpipam.leases.lease import LeaseState
from arpipam.protocol import arp
from tests.support.lans import (
    FREE,
    FREE_TOO,
    GIVEN,
    LONG,
    PRINTER,
    Lan,
    Opener,
    announcement,
    announcements,
    number,
    owners,
    probed,
    run_inside,
)
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from pathlib import Path


def test_a_claim_is_announced_twice_and_answered_for_from_the_first_moment(lan: Lan, opened: Opener) -> None:
    """Somebody asks for the address all the time, each time under another MAC, so that each answer is told apart."""
    asked: list[bytes] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.001):
            mac = b"\x02\xaa" + len(asked).to_bytes(4, "big")
            asked.append(mac)
            lan.printer.send([arp.request(mac, number("172.16.42.99"), number(GIVEN))])

    allocator = opened(lan)
    asker = threading.Thread(target=ask)
    with lan.wire.capture() as capture:
        asker.start()
        try:
            claim = allocator.claim("web", GIVEN)
            until(lambda: claim.state is ClaimState.DEFENDING)
        finally:
            stop.set()
            asker.join()
        own = arp.mac_bytes(claim.mac)

        def unanswered() -> set[bytes]:
            capture.read()
            packets = [packet for _, packet in capture.packets]
            told = next(at for at, packet in enumerate(packets) if packet.sender_ip == number(GIVEN))
            assert packets[told].operation == arp.REQUEST  # the announcement comes first, not an answer
            later = {p.sender_mac for p in packets[told:] if p.sender_ip == number("172.16.42.99")}
            assert later
            return later - {p.target_mac for p in packets if p.operation == arp.REPLY and p.sender_mac == own}

        until(lambda: not unanswered())
        assert announcements(capture.packets, GIVEN) == [claim.mac] * 2
    until(lambda: owners(lan, GIVEN) == {claim.mac})  # probes are answered too


def test_a_claim_is_defended_once_and_given_up_to_who_insists(lan: Lan, opened: Opener) -> None:
    claim = opened(lan).claim("web", GIVEN)
    states: list[ClaimState] = []
    claim.on_change(states.append)
    until(lambda: claim.state is ClaimState.DEFENDING)
    with lan.wire.capture() as capture:
        lan.printer.send([announcement(lan.printer, GIVEN)])
        until(lambda: capture.read() and claim.mac in announcements(capture.packets, GIVEN))
        assert claim.state is ClaimState.DEFENDING
        assert claim.conflict is None
        lan.printer.send([announcement(lan.printer, GIVEN)])
        until(lambda: claim.state is ClaimState.CONFLICT)
    assert claim.conflict == lan.printer.mac
    assert states[-1] is ClaimState.CONFLICT
    assert owners(lan, GIVEN) == set()


def test_who_asks_for_one_claimed_address_from_another_one_is_a_conflict(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan)
    asked, used = allocator.claim("web", GIVEN), allocator.claim("db", "172.16.42.51")
    frame = arp.request(arp.mac_bytes(lan.printer.mac), number("172.16.42.51"), number(GIVEN))
    lan.printer.send([frame, frame])
    until(lambda: used.state is ClaimState.CONFLICT)
    assert used.conflict == lan.printer.mac
    assert asked.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)
    until(lambda: owners(lan, GIVEN) == {asked.mac})


def test_a_released_address_goes_to_nobody_but_its_owner_for_a_while(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan)
    with allocator.claim("web") as first:
        assert str(first.address) == FREE
    assert first.state is ClaimState.RELEASED
    assert owners(lan, FREE) == set()
    assert opened.leases() == {FREE: LeaseState.QUARANTINED}
    assert str(allocator.find("db").address) == FREE_TOO
    with allocator.claim("db") as other, allocator.claim("web") as again:
        assert (str(other.address), str(again.address)) == (FREE_TOO, FREE)
        again.release(quarantine=0)
        assert str(allocator.claim("cache").address) == FREE


def test_a_resting_address_goes_to_who_asks_for_it_by_name(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan)
    allocator.claim("web", GIVEN).release()
    assert opened.leases() == {GIVEN: LeaseState.QUARANTINED}
    claim = allocator.claim("db", GIVEN)
    assert opened.leases(LeaseState.CLAIMED) == {GIVEN: LeaseState.CLAIMED}
    with pytest.raises(AddressInUseError, match="leased on this host"):
        allocator.claim("cache", GIVEN)
    assert claim.state in (ClaimState.ANNOUNCING, ClaimState.DEFENDING)


def test_sticky_order_gives_an_owner_its_last_address(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan, order="sticky")
    allocator.claim("web", "172.16.42.177").release(quarantine=0)
    other = allocator.claim("db")
    assert str(allocator.find("web").address) == "172.16.42.177"
    web = allocator.claim("web")
    assert str(web.address) == "172.16.42.177"
    assert other.address != web.address


def test_a_claimed_address_is_not_free_for_the_very_process_that_holds_it(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan)
    claim = allocator.claim("web")
    [one] = allocator.probe([claim.address])
    assert (one.verdict, one.mac) == (Verdict.IN_USE, claim.mac)
    assert str(allocator.find("web").address) == FREE_TOO
    with pytest.raises(AddressInUseError):
        allocator.claim("web", claim.address)


def test_another_process_of_the_host_hears_the_answer(lan: Lan, opened: Opener, tmp_path: Path) -> None:
    claim = opened(lan).claim("web")
    stranger = opened(lan, state_dir=tmp_path / "another")
    [one] = stranger.probe([claim.address])
    assert (one.verdict, one.mac) == (Verdict.IN_USE, claim.mac)
    assert str(stranger.claim("web").address) == FREE_TOO


def test_the_mac_is_written_in_one_way(lan: Lan, opened: Opener) -> None:
    claim = opened(lan).claim("web", mac="02-00-5E-00-00-0A")
    assert claim.mac == claim.lease.mac == claim.found.mac == "02:00:5e:00:00:0a"
    until(lambda: owners(lan, claim.address) == {claim.mac})
    with pytest.raises(InputError, match="MAC address"):
        opened(lan).claim("web", mac="")


def test_a_used_address_cannot_be_claimed_and_leaves_no_lease(lan: Lan, opened: Opener) -> None:
    with pytest.raises(AddressInUseError, match=f"{PRINTER} is in use by {lan.printer.mac}"):
        opened(lan).claim("web", PRINTER)
    with pytest.raises(PoolExhaustedError, match="no free address left: 1 in use"):
        opened(lan, ranges=[PRINTER]).claim("web")
    assert opened.leases() == {}


def test_a_bound_claim_outlives_its_context_and_is_handed_to_the_owner(lan: Lan, opened: Opener) -> None:
    with opened(lan).claim("web", GIVEN) as claim:
        assert not claim.wait_handed_over(0.05)
        claim.bind("container")
        owner = lan.lab.namespace("owner")
        lan.host.plug(owner, "eth0")
        owner.ip([f"link set eth0 address {claim.mac}", f"addr add {GIVEN}/24 dev eth0"])
        assert claim.wait_handed_over(LONG)
        claim.hand_over()
    assert claim.state is ClaimState.HANDED_OVER
    assert opened.leases() == {GIVEN: LeaseState.BOUND}
    until(lambda: owners(lan, GIVEN) == {claim.mac})  # by its owner
    owner.delete()
    until(lambda: owners(lan, GIVEN) == set())  # the kernel takes a namespace down when it finds the time


def test_a_closed_allocator_defends_nothing_and_says_so(lan: Lan, tmp_path: Path) -> None:
    with lan.host.namespace.inside(), Allocator("docker0", state_dir=tmp_path) as allocator:
        claim = allocator.claim("web")
    assert claim.state is ClaimState.LINK_LOST
    assert owners(lan, claim.address) == set()
    with pytest.raises(LinkError, match="closed"):
        claim.release()
    with pytest.raises(LinkError, match="closed"):
        allocator.find()


# The link goes away.

GOING = pytest.mark.parametrize(
    ("command", "said"), [("link set docker0 down", "docker0 is down"), ("link del docker0", "docker0 is gone")]
)


@GOING
def test_a_claim_on_a_lost_link_says_so(own_lan: Lan, opened: Opener, command: str, said: str) -> None:
    allocator = opened(own_lan)
    claim = allocator.claim("web")
    lost = threading.Event()
    claim.on_change(lambda state: lost.set() if state is ClaimState.LINK_LOST else None)
    own_lan.host.namespace.ip([command])
    assert lost.wait(LONG)
    assert claim.state is ClaimState.LINK_LOST
    assert said in str(claim.failure)
    with pytest.raises(LinkError, match=said):
        allocator.find()
    claim.release()
    assert opened.leases() == {FREE: LeaseState.QUARANTINED}


@GOING
def test_a_search_on_a_lost_link_ends(own_lan: Lan, opened: Opener, command: str, said: str) -> None:
    async def search() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state, timing="rfc5227") as allocator:
            task = asyncio.create_task(allocator.claim("web"))
            await until_async(probed(capture, FREE))
            own_lan.host.namespace.ip([command])
            with pytest.raises(LinkError, match=said):
                await task

    with own_lan.wire.capture() as capture:
        run_inside(own_lan.host, search)
    assert opened.leases() == {}
