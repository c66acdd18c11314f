"""The library on real links: what is free, what is claimed and defended, and what happens when the link goes away."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from arpipam import (
    AddressInUseError,
    Allocator,
    AsyncAllocator,
    ClaimState,
    InputError,
    LinkError,
    PoolExhaustedError,
    UnknownError,
    Verdict,
    arp,
)
from arpipam.lab import Host, Lab, Wire
from arpipam.lab.capture import who_have
from arpipam.leases import SqliteLeaseStore, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from arpipam.arp import ArpPacket
    from arpipam.lab.capture import Capture
    from arpipam.lab.stations import Station

OWN, PRINTER, FREE, FREE_TOO = (f"172.16.42.{n}" for n in (1, 3, 2, 4))
GIVEN = "172.16.42.50"
LONG = 30.0
"""Seconds after which a condition that was waited for will not come any more."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Lan:
    """A host and a printer on a wire."""

    lab: Lab
    wire: Wire
    host: Host
    printer: Station


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def make_lan(lab: Lab) -> Lan:
    wire, name = lab.wire(), next(_numbers)
    host = lab.host(f"host{name}", wire, f"{OWN}/24")
    lab.start()
    return Lan(lab, wire, host, lab.station(f"printer{name}", wire, f"{PRINTER}/24"))


@pytest.fixture(scope="module")
def lan(laboratory: Lab) -> Lan:
    return make_lan(laboratory)


@pytest.fixture
def own_lan(laboratory: Lab) -> Lan:
    """For a test that breaks it."""
    return make_lan(laboratory)


@dataclass(frozen=True)
class Opener:
    """Opens allocators on a host, which share a lease store and are closed when the test ends."""

    state: Path
    stack: ExitStack

    def __call__(self, on: Lan | Host, **options: Any) -> Allocator:
        host = on if isinstance(on, Host) else on.host
        options = {"state_dir": self.state} | options
        with host.namespace.inside():
            return self.stack.enter_context(Allocator(host.bridge, **options))

    def leases(self, *states: State) -> dict[str, State]:
        """The state of each lease in these states (default: all)."""
        with SqliteLeaseStore(self.state / "leases.db") as store:
            return {str(lease.address): lease.state for lease in store.leases(states=states or tuple(State))}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(tmp_path / "state", stack)


def run_inside(host: Host, main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine on a thread that is in the host's namespace."""

    async def everything() -> None:
        await main()

    with host.namespace.inside():
        asyncio.run(everything())


def until(condition: Callable[[], Any]) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + LONG
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
    return value


async def until_async(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.005)


def number(address: IPv4Address | str) -> int:
    return int(IPv4Address(address))


def owners(lan: Lan, address: IPv4Address | str) -> set[str]:
    """The MACs that answer for an address at this moment."""
    return who_have(lan.printer.namespace, "eth0", [str(address)], timeout=0.1, tries=1)[str(address)]


def announcement(station: Station, address: IPv4Address | str) -> bytes:
    return arp.announcement(arp.mac_bytes(station.mac), number(address))


def announcements(packets: list[tuple[float, ArpPacket]], address: IPv4Address | str) -> list[str]:
    """The MAC of each announcement of the address."""
    told = (packet for _, packet in packets if packet.operation == arp.REQUEST)
    return [arp.mac_text(p.sender_mac) for p in told if p.sender_ip == p.target_ip == number(address)]


def probed(capture: Capture, address: str) -> Callable[[], bool]:
    """Whether somebody has probed for the address."""

    def seen() -> bool:
        capture.read()
        return any(packet.is_probe and packet.target_ip == number(address) for _, packet in capture.packets)

    return seen


# Looking.


def test_a_fixed_timing_probes_three_times(lan: Lan, opened: Opener) -> None:
    [one] = opened(lan, timing="lan", witnesses=[PRINTER]).probe([FREE])
    assert (one.verdict, one.probes) == (Verdict.FREE, 3)


def test_finds_the_first_address_that_nobody_has(lan: Lan, opened: Opener) -> None:
    found = opened(lan).find()
    assert (str(found.address), found.prefix, found.in_use) == (FREE, 24, 1)
    assert found.probed >= 2
    assert found.miss_probability is not None
    assert 0 < found.miss_probability <= 1e-6


def test_gives_a_verdict_on_each_address_once(lan: Lan, opened: Opener) -> None:
    verdicts = opened(lan).probe([PRINTER, FREE, IPv4Address(PRINTER)])
    assert [(str(one.address), one.verdict) for one in verdicts] == [(PRINTER, Verdict.IN_USE), (FREE, Verdict.FREE)]
    assert verdicts[0].mac == lan.printer.mac


def test_scans_for_every_station_and_tells_of_each_at_once(lan: Lan, opened: Opener) -> None:
    heard: list[str] = []
    stations = opened(lan, ranges=["172.16.42.1-172.16.42.20"]).scan(lambda station: heard.append(str(station.address)))
    assert [(str(station.address), station.mac) for station in stations] == [(PRINTER, lan.printer.mac)]
    assert heard == [PRINTER]


def test_a_scan_lists_witness_and_gateway_too(lan: Lan, opened: Opener) -> None:
    allocator = opened(lan, ranges=["172.16.42.1-172.16.42.9"], witnesses=[PRINTER], gateway=PRINTER)
    assert [str(station.address) for station in allocator.scan()] == [PRINTER]


@pytest.mark.parametrize("behaviour", [{"slow": 0.08}, {"deaf": 2}, {"shifting": True}], ids=str)
def test_a_station_that_answers_badly_is_never_called_free(lan: Lan, opened: Opener, behaviour: dict[str, Any]) -> None:
    first, second, third = (f"172.16.42.{200 + next(_numbers)}" for _ in range(3))  # deaf to what each of them hears
    # A network is as slow as its witnesses are, and so is this one's.
    witness = f"172.16.42.{200 + next(_numbers)}"
    bad = lan.lab.station(f"bad{next(_numbers)}", lan.wire, *(f"{at}/24" for at in (first, second, third)), **behaviour)
    slow = {"slow": behaviour["slow"]} if "slow" in behaviour else {}
    helper = lan.lab.station(f"helper{next(_numbers)}", lan.wire, f"{witness}/24", **slow)
    try:
        allocator = opened(lan, witnesses=[witness], ranges=[second])
        [one] = allocator.probe([first])
        assert one.verdict is Verdict.IN_USE
        with pytest.raises(PoolExhaustedError):
            allocator.find()
        with pytest.raises(AddressInUseError, match=f"{third} is in use by"):
            opened(lan, witnesses=[witness]).claim("web", third)
        assert opened.leases() == {}
    finally:
        bad.close()
        helper.close()


def test_a_third_of_the_frames_lost_makes_no_used_address_free(own_lan: Lan, opened: Opener) -> None:
    gateway = own_lan.lab.station("gateway", own_lan.wire, "172.16.42.254/24")
    own_lan.wire.loss = 30
    allocator = opened(own_lan, witnesses=["172.16.42.254"], ranges=["172.16.42.2-172.16.42.3"], budget=LONG)
    used, free = allocator.probe([PRINTER, FREE])
    assert (used.verdict, used.mac) == (Verdict.IN_USE, own_lan.printer.mac)
    assert free.verdict is Verdict.FREE
    assert free.probes > 8  # a witness that loses half of its answers makes it look longer
    assert free.miss_probability is not None
    assert free.miss_probability <= 1e-6
    claim = allocator.claim("web")
    own_lan.wire.loss = 0
    assert own_lan.wire.who_has(str(claim.address)) == {claim.mac}
    assert own_lan.wire.who_has("172.16.42.254") == {gateway.mac}


def test_a_link_that_loses_too_much_is_unknown(own_lan: Lan, opened: Opener) -> None:
    own_lan.wire.loss = 30
    allocator = opened(own_lan, witnesses=[PRINTER], miss_probability=1e-300, budget=0.3)
    [one] = allocator.probe([FREE])
    assert one.verdict is Verdict.UNKNOWN
    assert one.reason


def test_nothing_is_free_while_the_witness_is_silent(own_lan: Lan, opened: Opener) -> None:
    allocator = opened(own_lan, witnesses=[PRINTER], budget=0.3)
    own_lan.wire.cut(own_lan.printer)
    with pytest.raises(UnknownError, match=f"no answer from witness {PRINTER}"):
        allocator.find()
    with pytest.raises(UnknownError, match=f"no answer from witness {PRINTER}"):
        allocator.claim("web", FREE)
    assert opened.leases() == {}
    own_lan.wire.heal()
    assert str(allocator.find().address) == FREE


def test_silence_counts_only_for_who_says_that_nobody_else_is_there(own_lan: Lan, opened: Opener) -> None:
    own_lan.wire.cut(own_lan.printer)
    with pytest.raises(UnknownError, match="no station answered"):
        opened(own_lan).find()
    found = opened(own_lan, alone=True).find()
    assert (str(found.address), found.miss_probability) == (FREE, None)


def test_a_bridge_without_another_end_needs_no_witness(laboratory: Lab, opened: Opener) -> None:
    host = laboratory.host(f"host{next(_numbers)}", None, f"{OWN}/24")
    laboratory.start()
    claim = opened(host).claim("web")
    assert str(claim.address) == FREE
    assert claim.found.miss_probability is None


def test_a_part_of_the_interfaces_network_may_start_with_a_station(own_lan: Lan, opened: Opener) -> None:
    own_lan.lab.station("middle", own_lan.wire, "172.16.42.128/24")
    allocator = opened(own_lan, subnet="172.16.42.128/25", witnesses=["172.16.42.128"])
    assert str(allocator.find().address) == "172.16.42.129"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interface": "none0"}, "no interface 'none0'"),
        ({"subnet": "172.16.42.1/24"}, "host bits set"),
        ({"witnesses": ["printer"]}, "witness 'printer' is no IPv4 address"),
        ({"witnesses": [OWN]}, "this host's own address"),
        ({"miss_probability": 0}, "miss probability"),
        ({"rate": 0}, "must be above 0"),
        ({"timing": "fast"}, "timing 'fast'"),
        ({"order": "last"}, "order 'last'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_says_what_makes_no_sense(lan: Lan, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    known: dict[str, Any] = {"interface": "docker0", "state_dir": tmp_path} | options
    with lan.host.namespace.inside(), pytest.raises(InputError, match=said) as caught:  # noqa: SIM117 - one block raises
        with Allocator(**known):
            pass
    assert "\n" not in str(caught.value)


# Claiming.


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
    assert opened.leases() == {FREE: State.QUARANTINED}
    assert str(allocator.find("db").address) == FREE_TOO
    with pytest.raises(AddressInUseError, match="leased on this host"):
        allocator.claim("db", FREE)
    with allocator.claim("db") as other, allocator.claim("web") as again:
        assert (str(other.address), str(again.address)) == (FREE_TOO, FREE)
        again.release(quarantine=0)
        assert str(allocator.claim("cache").address) == FREE


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
        claim.handed_over()
    assert claim.state is ClaimState.HANDED_OVER
    assert opened.leases() == {GIVEN: State.BOUND}
    until(lambda: owners(lan, GIVEN) == {claim.mac})  # by its owner
    owner.delete()
    assert owners(lan, GIVEN) == set()


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
    assert opened.leases() == {FREE: State.QUARANTINED}


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


# The same for asyncio.


def test_the_asynchronous_one_does_the_same(lan: Lan, opened: Opener) -> None:
    async def all_of_them() -> None:
        few = ["172.16.42.1-172.16.42.20"]
        async with AsyncAllocator("docker0", state_dir=opened.state, ranges=few, witnesses=[PRINTER]) as allocator:
            found, verdicts, stations = await asyncio.gather(
                allocator.find(), allocator.probe([PRINTER, "172.16.42.9"]), allocator.scan()
            )
            assert str(found.address) == FREE
            assert [one.verdict for one in verdicts] == [Verdict.IN_USE, Verdict.FREE]
            assert [(str(one.address), one.mac) for one in stations] == [(PRINTER, lan.printer.mac)]
            with await allocator.claim("web") as claim:
                until(lambda: owners(lan, FREE) == {claim.mac})
                assert [str(lease.address) for lease in allocator.leases.leases()] == [FREE]
            with pytest.raises(InputError, match="outside of"):
                await allocator.probe(["10.0.0.1"])

    run_inside(lan.host, all_of_them)


def test_claims_at_once_get_an_address_each(lan: Lan, opened: Opener) -> None:
    async def claim_several() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state, witnesses=[PRINTER]) as allocator:
            claims = await asyncio.gather(*(allocator.claim(f"web-{n}") for n in range(4)))
            seen = lan.wire.who_have(str(claim.address) for claim in claims)
            assert seen == {str(claim.address): {claim.mac} for claim in claims}
            assert len(seen) == 4

    run_inside(lan.host, claim_several)


def test_claims_at_once_share_the_station_that_answers(own_lan: Lan, opened: Opener) -> None:
    async def claim_two() -> None:
        # At this pace both have started before the first of them asks for the only station.
        few = ["172.16.42.2-172.16.42.9"]
        async with AsyncAllocator("docker0", state_dir=opened.state, ranges=few, rate=200) as allocator:
            claims = await asyncio.gather(*(allocator.claim(f"web-{n}") for n in range(2)))
            assert {str(claim.address) for claim in claims} == {FREE, FREE_TOO}

    run_inside(own_lan.host, claim_two)


def test_a_cancelled_claim_leaves_no_lease(lan: Lan, opened: Opener) -> None:
    async def cancel() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state, timing="rfc5227") as allocator:
            for address in (None, GIVEN):
                task = asyncio.create_task(allocator.claim("web", address))
                await until_async(probed(capture, address or FREE))
                assert opened.leases() == {address or FREE: State.CLAIMED}
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until_async(lambda: opened.leases() == {})

    with lan.wire.capture() as capture:
        run_inside(lan.host, cancel)
    assert announcements(capture.packets, FREE) == announcements(capture.packets, GIVEN) == []


@pytest.mark.parametrize("given", [GIVEN, None])
def test_a_claim_that_is_cancelled_too_late_is_released(lan: Lan, opened: Opener, given: str | None) -> None:
    address = given or FREE

    async def cancel() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state) as allocator:
            task = asyncio.create_task(allocator.claim("web", given))
            await until_async(probed(capture, address))
            # From here on this thread does not yield, so that the task hears nothing of its result.
            until(lambda: capture.read() and announcements(capture.packets, address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_async(lambda: opened.leases() == {address: State.QUARANTINED})
            assert owners(lan, address) == set()

    with lan.wire.capture() as capture:
        run_inside(lan.host, cancel)
