"""The search in the simulation: the right address, no duplicate, no false "free"; each case from a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.errors import PoolExhaustedError, UnknownError
from arpipam.lab.simulation import Claimer, Faults
from arpipam.protocol import arp
from arpipam.protocol.first_free import FirstFree
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.timing import LAN, RFC5227
from tests.support.profile import count
from tests.support.search import FIRST, NET, RACE, WITNESS, World, mac, parameters

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket

RACES = count("RACES", day=80, night=1000)
USED = count("USED", day=2000, night=10_000)
"""Searches where each address is used, for each loss."""


def test_one_free_address_takes_one_listening_period() -> None:
    world = World(1)
    claimer = world.claimer(range(FIRST, FIRST + 50))
    assert world.run() == [FIRST]
    assert claimer.claimed_at == pytest.approx(0.32, abs=0.01)


def test_a_nearly_full_network_takes_one_listening_period_too_and_gives_the_right_address() -> None:
    used = [address for address in range(FIRST, FIRST + 253) if address not in {NET + 101, NET + 200, NET + 201}]
    world = World(1, used=used)
    claimer = world.claimer(range(FIRST, FIRST + 253))
    assert world.run() == [NET + 101]
    assert claimer.claimed_at is not None
    assert claimer.claimed_at < 0.4


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_a_used_address_is_never_called_free(loss: float) -> None:
    unknown = 0
    for seed in range(USED):
        world = World(seed, Faults(loss=loss), used=[FIRST])
        claimer = world.claimer(range(FIRST, FIRST + 1))
        assert world.run() == [], f"seed {seed}"
        unknown += isinstance(claimer.error, UnknownError)
    assert unknown <= USED * (0.0 if loss == 0 else 0.25)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_nor_by_searches_that_share_their_witness(loss: float) -> None:
    unknown = 0
    for seed in range(USED // 8):
        world = World(seed, Faults(loss=loss), used=range(FIRST, FIRST + 8))
        world.host(0, [range(address, address + 1) for address in range(FIRST, FIRST + 8)])
        assert world.run() == [], f"seed {seed}"
        unknown += sum(isinstance(claimer.error, UnknownError) for claimer in world.claimers)
    assert unknown <= USED * (0.0 if loss == 0 else 0.25)


def test_races_of_eight_for_one_address_have_one_owner_at_most() -> None:
    won = 0
    for seed in range(RACES):
        world = World(seed, RACE)
        for number in range(8):
            world.claimer(range(FIRST, FIRST + 1), at=number * 0.01 * (seed % 5))
        owners = world.run()
        assert len(owners) <= 1, f"seed {seed}"
        won += len(owners)
    assert won >= 0.99 * RACES


@pytest.mark.parametrize("seed", range(3))
def test_sixty_four_at_once_get_sixty_four_addresses_even_when_there_are_no_more(seed: int) -> None:
    world = World(seed, Faults(loss=0.1))
    for _ in range(64):
        world.claimer(range(FIRST, FIRST + 64))
    held = world.run()
    assert sorted(held) == list(range(FIRST, FIRST + 64))


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_sixty_four_at_once_take_at_most_twice_the_time_of_one() -> None:
    single = []
    for seed in range(64):
        world = World(seed, Faults(loss=0.1))
        claimer = world.claimer(range(FIRST, FIRST + 150))
        world.run()
        single.append(claimer.claimed_at or 0.0)
    last = []
    for seed in range(3):
        world = World(seed, Faults(loss=0.1))
        for _ in range(64):
            world.claimer(range(FIRST, FIRST + 150))
        assert len(set(world.run())) == 64
        last.append(max(claimer.claimed_at or 0.0 for claimer in world.claimers))
    assert median(last) <= 2 * max(single)  # virtual time: the same in every run


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_eight_searches_of_one_host_take_no_longer_than_on_eight_hosts_and_half_the_frames(loss: float) -> None:
    frames, seconds = [0, 0], [0.0, 0.0]
    for seed in range(30):
        pools = [[FIRST + (first + n) % 32 for n in range(32)] for first in range(8)]
        one, eight = World(seed, Faults(loss=loss)), World(seed, Faults(loss=loss))
        one.host(0, pools)
        for number, pool in enumerate(pools):
            eight.host(number, [pool])
        for kind, world in enumerate((one, eight)):
            assert len(world.run()) == 8
            frames[kind] += world.link.frames
            seconds[kind] += max(claimer.claimed_at or 0.0 for claimer in world.claimers)
    assert frames[0] <= frames[1] / 2
    assert seconds[0] <= seconds[1]  # virtual time: the same in every run


def test_without_a_witness_nothing_is_free() -> None:
    world = World(1, witness=False)
    claimer = world.claimer(range(FIRST, FIRST + 50), witnesses=())
    assert world.run() == []
    assert isinstance(claimer.error, UnknownError)
    assert "--witness" in str(claimer.error)


def test_a_used_candidate_is_a_witness() -> None:
    world = World(1, used=[FIRST], witness=False)
    world.claimer(range(FIRST, FIRST + 50), witnesses=())
    assert world.run() == [FIRST + 1]


def test_alone_needs_no_witness() -> None:
    world = World(1, witness=False)
    world.claimer(range(FIRST, FIRST + 50), witnesses=(), alone=True)
    assert world.run() == [FIRST]


def test_a_silent_witness_is_named() -> None:
    world = World(1, used=range(FIRST, FIRST + 10))
    claimer = world.claimer(range(FIRST, FIRST + 50), witnesses=(WITNESS, NET + 0x99))
    assert world.run() == []
    assert "10.0.0.153" in str(claimer.error)


def test_this_hosts_own_addresses_are_never_free() -> None:
    world = World(1)
    world.claimer(range(FIRST, FIRST + 5), local_addresses=frozenset({FIRST, FIRST + 1}))
    assert world.run() == [FIRST + 2]


def test_a_station_that_answers_for_everything_is_found_out() -> None:
    world = World(1, used=range(NET, NET + 256))
    claimer = world.claimer(range(FIRST, FIRST + 50))
    assert world.run() == []
    assert isinstance(claimer.error, UnknownError)
    assert arp.mac_text(mac(2)) in str(claimer.error)


def test_a_full_pool_is_said_to_be_full() -> None:
    world = World(1, used=range(FIRST, FIRST + 50))
    claimer = world.claimer(range(FIRST, FIRST + 50))
    assert world.run() == []
    assert isinstance(claimer.error, PoolExhaustedError)
    assert "50 in use" in str(claimer.error)


@pytest.mark.parametrize("timing", [LAN, RFC5227])
def test_fixed_timings_find_the_same(timing: Any) -> None:
    world = World(1, used=[FIRST])
    claimer = world.claimer(range(FIRST, FIRST + 50), timing=timing)
    assert world.run() == [FIRST + 1]
    fixed = timing.probe_num * timing.probe_min + timing.announce_wait - timing.probe_min
    assert (claimer.claimed_at or 0) >= fixed


def test_two_claimers_of_the_standards_own_timing_never_share() -> None:
    for seed in range(200):
        world = World(seed, RACE)
        world.claimer(range(FIRST, FIRST + 1), timing=RFC5227)
        world.claimer(range(FIRST, FIRST + 1), timing=RFC5227, at=(seed % 40) / 10)
        assert len(world.run(600)) <= 1, f"seed {seed}"


def test_where_the_interface_has_no_address_it_still_finds_one() -> None:
    world = World(1, used=range(FIRST, FIRST + 6))
    world.claimers.append(
        Claimer(
            world.link,
            mac(100),
            Parameters(own_mac=mac(1000), witnesses=(WITNESS,), canary=NET),
            lambda: range(FIRST, FIRST + 50),
            seed=1,
        )
    )
    world.link.attach(world.claimers[-1])
    assert world.run() == [FIRST + 6]


def test_reserved_addresses_are_passed_over_and_given_back_when_not_free() -> None:
    asked: list[int] = []
    back: list[int] = []
    search = FirstFree(
        iter(range(FIRST, FIRST + 9)),
        mac(1),
        parameters(witnesses=(), alone=True),
        rng=random.Random(1),
        now=0.0,
        reserve=lambda address: asked.append(address) or address != FIRST,  # type: ignore[func-returns-value]
        unreserve=back.append,
    )
    now = 0.0
    for turn in range(200):
        for outbox in search.outboxes():
            while frames := outbox.peek(7):
                outbox.sent(len(frames), now)
        if turn == 5:
            search.receive(announcement(FIRST + 1), now)
        now += 0.02
        search.advance(now)
    assert asked == [FIRST, FIRST + 1, FIRST + 2]
    assert back == [FIRST + 1]
    assert search.found is not None
    assert search.found.acd.address == FIRST + 2


def announcement(address: int) -> ArpPacket:
    packet = arp.dissect(arp.announcement(mac(77), address))
    assert not isinstance(packet, arp.Refusal)
    return packet


def test_dropped_frames_void_the_silence() -> None:
    search = FirstFree(
        iter(range(FIRST, FIRST + 9)), mac(1), parameters(witnesses=(), alone=True), rng=random.Random(1), now=0.0
    )
    now = 0.0
    for _ in range(400):
        for outbox in search.outboxes():
            while frames := outbox.peek(7):
                outbox.sent(len(frames), now)
        now += 0.02
        search.overflow(3, now)
        search.advance(now)
    assert search.found is None
    assert isinstance(search.error, UnknownError)
    assert "dropped" in str(search.error)


MACS = st.sampled_from([mac(1), mac(100), mac(1000), mac(3), arp.NO_MAC, arp.BROADCAST])
IPS = st.one_of(st.sampled_from([0, NET, WITNESS, FIRST, FIRST + 1, 2**32 - 1]), st.integers(0, 2**32 - 1))
PACKETS = st.builds(arp.ArpPacket, st.sampled_from([1, 2]), MACS, IPS, MACS, IPS, MACS, MACS)


@given(st.integers(0, 2**32), st.lists(st.tuples(st.floats(0, 1), PACKETS), max_size=60))
def test_no_frame_makes_it_crash_or_give_out_a_used_address(
    seed: int, packets: list[tuple[float, arp.ArpPacket]]
) -> None:
    world = World(seed, used=[FIRST, FIRST + 1])
    claimer = world.claimer(range(FIRST, FIRST + 4))
    for at, packet in packets:
        world.link._schedule(at, lambda packet=packet: world.link._deliver(2, packet))  # type: ignore[misc]
    assert not set(world.run()) & {FIRST, FIRST + 1}
    assert claimer.ended
    survey = claimer._search.survey if claimer._search else None
    assert survey is None or len(survey.silent) + len(survey.answers) <= 4
