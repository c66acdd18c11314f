"""The probing of chosen addresses, frame by frame: its rounds, its end, and what each verdict rests on."""

from __future__ import annotations

from collections import Counter

import pytest

from arpipam.protocol import arp
from arpipam.protocol.acd import AcdState
from arpipam.protocol.arp import ArpPacket
from arpipam.protocol.canary import Canary
from arpipam.protocol.outcome import NO_WITNESS, Outcome, Verdict
from arpipam.protocol.timing import ADAPTIVE, LAN, RFC5227, Timing
from arpipam.protocol.witnesses import LEAST_ROUNDS, LinkWitnesses, SearchWitnesses, miss_probability
from tests.support.probing import BRIDGE, FIRST, MINE, NET, OTHER, OWN, SECOND, STATION, WITNESS, Desk, asked, probed


def test_each_round_asks_the_witness_the_canary_and_the_candidate_and_three_carry_a_probe() -> None:
    desk = Desk()
    rounds = []
    while not desk.probing.done:
        before = desk.probing.rounds
        left = desk.step()
        if desk.probing.rounds > before:
            assert asked(left) == [WITNESS, NET, FIRST]
            assert desk.probing.rounds == before + 1
            rounds.append(probed(left))
    assert rounds == [[], [], [FIRST], *[[]] * (len(rounds) - 5), [FIRST], [FIRST]]
    assert len(rounds) == desk.probing.outcomes[FIRST].probes == 11


@pytest.mark.parametrize("timing", [LAN, RFC5227], ids=lambda timing: timing.name)
def test_of_a_fixed_timing_each_probe_has_a_request_beside_it(timing: Timing) -> None:
    desk = Desk(timing=timing)
    left = []
    while not desk.probing.done:
        left += desk.step()
    assert probed(left) == [FIRST] * 3
    assert asked(left) == [WITNESS, NET, FIRST] * 3


def test_where_the_interface_has_no_address_there_are_three_probes_and_the_witness_gets_one() -> None:
    desk = Desk(own_address=0, timing=RFC5227)
    desk.witnesses = SearchWitnesses(RFC5227, bound=1e-6, required=(WITNESS,), seldom=True)
    desk.probing._witnesses = desk.witnesses
    desk.probing._start([FIRST], desk.now)
    left = []
    while not desk.probing.done:
        left += desk.step()
    targets = Counter(packet.target_ip for packet in left)
    assert all(packet.is_probe for packet in left)
    assert targets == {FIRST: 3, WITNESS: 1, NET: 1}
    assert desk.probing.outcomes[FIRST] == Outcome(Verdict.FREE, probes=3)  # and no bound is stated


def test_a_station_that_answers_a_request_gets_no_further_probe() -> None:
    for rounds, probes in ((1, []), (2, []), (3, [FIRST]), (5, [FIRST])):
        desk = Desk()
        left = []
        while desk.probing.rounds < rounds:
            left += desk.step()
        desk.hear(FIRST, OTHER, after=0.001)
        assert desk.probing.done
        assert desk.run().verdict is Verdict.IN_USE
        assert probed(left + desk.flush()) == probes


def test_the_candidates_are_asked_for_in_the_same_rounds() -> None:
    desk = Desk(FIRST, SECOND)
    left = desk.step()
    assert asked(left) == [WITNESS, NET, FIRST, SECOND]
    assert desk.probing.rounds == 1
    assert desk.probing.deadline == pytest.approx(desk.now + ADAPTIVE.announce_wait)  # before the first answer
    desk.hear(FIRST, OTHER)
    assert asked(desk.step()) == [WITNESS, NET, SECOND]
    assert not desk.probing.done


def test_without_a_canary_none_is_asked() -> None:
    assert asked(Desk(canary=None).step()) == [WITNESS, FIRST]


def test_a_round_that_another_search_has_sent_stands_beside_ours() -> None:
    link = LinkWitnesses()
    one, two = Desk(link=link), Desk(SECOND, link=link, mac=OTHER)
    assert asked(one.step()) == [WITNESS, NET, FIRST]
    left = two.step()
    assert asked(left) == [SECOND]
    assert two.witnesses.counts(WITNESS, two.now, 0.0) == one.witnesses.counts(WITNESS, one.now, 0.0) == (1, 0)
    two.now += 0.1
    assert asked(two.step()) == [WITNESS, NET, SECOND]
    assert one.witnesses.counts(WITNESS, two.now, 0.0) == (2, 0)


def test_a_silent_address_is_free_and_what_that_rests_on() -> None:
    desk = Desk()
    outcome = desk.run()
    acd = desk.probing.acds[FIRST]
    assert acd.state is AcdState.FREE
    assert outcome.verdict is Verdict.FREE
    assert (outcome.mac, outcome.round_trip, outcome.reason) == (None, None, "")
    assert outcome.probes == acd.rounds == desk.probing.rounds >= LEAST_ROUNDS
    assert outcome.miss_probability == pytest.approx(miss_probability(outcome.probes, outcome.probes, 0))
    assert outcome.miss_probability is not None
    assert outcome.miss_probability <= 1e-6
    assert desk.probing.deadline == 10.0  # it is done, so it is due at once


def test_an_address_that_is_used() -> None:
    desk = Desk()
    desk.step()
    desk.hear(FIRST, OTHER, after=0.004)
    assert desk.probing.done
    outcome = desk.run()
    assert outcome == Outcome(Verdict.IN_USE, OTHER, outcome.round_trip, 1)
    assert outcome.round_trip == pytest.approx(0.004)
    assert desk.flush() == []


def test_an_address_that_another_probes_for() -> None:
    desk = Desk()
    desk.step()
    desk.rival(FIRST)
    assert desk.run() == Outcome(Verdict.CONTENDED, OTHER, None, 1)


def test_a_probe_of_this_host_is_no_contention() -> None:
    desk = Desk()
    desk.step()
    desk.rival(FIRST, BRIDGE)
    assert desk.run().verdict is Verdict.FREE


def test_what_is_free_is_watched_until_it_is_claimed() -> None:
    desk = Desk(FIRST, SECOND)
    desk.run()
    assert {outcome.verdict for outcome in desk.probing.outcomes.values()} == {Verdict.FREE}
    desk.rival(FIRST)
    desk.hear(SECOND, OTHER)
    assert [outcome.verdict for outcome in desk.probing.outcomes.values()] == [Verdict.CONTENDED, Verdict.IN_USE]


def test_only_an_answer_to_the_hosts_own_mac_counts_for_the_witness() -> None:
    desk = Desk()
    desk.answers = False
    desk.step()
    desk.hear(WITNESS, STATION, to=MINE)
    desk.probing.receive(ArpPacket(arp.REQUEST, STATION, WITNESS, BRIDGE, 9, STATION, BRIDGE), desk.now)
    assert desk.witnesses.silent() == [WITNESS]
    desk.hear(WITNESS, STATION)
    assert desk.witnesses.silent() == []


# The end.


def test_the_budget_ends_on_time() -> None:
    desk = Desk(budget=1.5)
    desk.answers = False
    desk.step()
    while desk.probing.deadline < 11.5:  # as long as the witness is silent no number of probes is enough
        desk.step()
    desk.probing.advance(11.5 - 1e-6)
    assert not desk.probing.done
    desk.probing.advance(11.5)
    outcome = desk.run()
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.miss_probability is None
    assert outcome.probes == desk.probing.acds[FIRST].rounds
    assert outcome.reason == (
        "no answer from witness host2 (10.0.0.1): what is behind it would look free; bring it back (is the tunnel "
        "up?), or do not name it as a witness"
    )


def test_a_fixed_timing_takes_as_long_as_it_takes_whatever_the_budget() -> None:
    for timing in (LAN, RFC5227):
        desk = Desk(timing=timing, budget=0.001)
        desk.now += timing.probe_wait
        assert desk.run().verdict is Verdict.FREE
        desk = Desk(timing=timing, budget=0.25)
        desk.probing.advance(10.0 + timing.longest + 0.25 - 1e-6)
        assert not desk.probing.done
        desk.probing.advance(10.0 + timing.longest + 0.25)
        assert desk.probing.done


def test_the_end_of_the_budget_is_the_last_deadline() -> None:
    desk = Desk(budget=1.5)
    desk.probing.advance(desk.now)
    assert desk.probing.deadline == 11.5  # the probes have yet to leave
    desk.probing.advance(11.5 - 1e-6)
    assert not desk.probing.done
    desk.probing.advance(11.5)
    assert desk.probing.done


def test_at_the_end_of_the_budget_what_is_known_stays() -> None:
    desk = Desk(FIRST, SECOND, budget=1.5)
    desk.step()
    desk.hear(FIRST, OTHER)
    desk.answers = False
    desk.probing.advance(11.5)
    assert [outcome.verdict for outcome in desk.probing.outcomes.values()] == [Verdict.IN_USE, Verdict.UNKNOWN]


def test_a_link_that_loses_too_much_is_told_with_its_figures() -> None:
    desk = Desk(budget=1.5)
    desk.step()
    desk.answers = False
    for _ in range(3):
        desk.step()
    desk.now = 11.5
    desk.probing.advance(desk.now)
    outcome = desk.run()
    assert outcome.verdict is Verdict.UNKNOWN
    miss = miss_probability(4, 1, 3)
    assert outcome.miss_probability == pytest.approx(miss)
    assert outcome.reason == (
        "75% of the requests to witnesses were lost: after 4 rounds a used address would still look free with a chance "
        f"of {miss:.1g}, and the budget of 1.5 s is over; fix the link, or allow a higher miss probability"
    )


def test_where_no_station_ever_answered_nothing_is_free() -> None:
    desk = Desk(witnesses=(), budget=1.5)
    desk.step()
    assert desk.probing.doubt() == NO_WITNESS
    desk.probing.advance(11.5)
    assert desk.run() == Outcome(Verdict.UNKNOWN, probes=1, reason=NO_WITNESS)


def test_alone_on_the_link_silence_is_enough_but_has_no_figure() -> None:
    desk = Desk(witnesses=(), alone=True)
    assert desk.run() == Outcome(Verdict.FREE, probes=LEAST_ROUNDS)


def test_alone_and_without_a_free_processor_the_chance_is_one() -> None:
    desk = Desk(witnesses=(), alone=True, budget=1.5)
    desk.step()
    desk.probing.advance(11.5)
    reason = desk.run().reason
    assert reason.startswith("0% of the requests to witnesses were lost: after ")
    assert " with a chance of 1, and the budget of 1.5 s is over; " in reason


# The canary.


def test_where_the_canary_is_answered_for_neither_silence_nor_answers_mean_anything() -> None:
    desk = Desk(FIRST, SECOND)
    desk.step()
    desk.canary.receive(ArpPacket(arp.REPLY, OTHER, NET, MINE, 0, OTHER, MINE))
    doubt = desk.canary.doubt()
    assert desk.probing.doubt() == doubt != ""
    desk.hear(FIRST, OTHER)
    assert desk.probing.outcomes[FIRST].verdict is Verdict.UNKNOWN
    assert desk.probing.outcomes[FIRST].reason == doubt
    assert desk.probing.outcomes[FIRST].probes == 1
    desk.run()
    assert desk.probing.outcomes[SECOND].verdict is Verdict.UNKNOWN
    assert desk.probing.outcomes[SECOND].reason == doubt


def test_a_station_that_answers_for_itself_is_believed_though_another_answers_for_everything() -> None:
    desk = Desk()
    desk.step()
    desk.canary.receive(ArpPacket(arp.REPLY, OTHER, NET, MINE, 0, OTHER, MINE))
    desk.hear(FIRST, STATION)
    assert desk.run().verdict is Verdict.IN_USE


def test_what_answers_for_the_canary_is_named() -> None:
    canary = Canary(NET)
    canary.receive(ArpPacket(arp.REPLY, OTHER, FIRST, MINE, 0, OTHER, MINE))
    assert canary.doubt() == ""
    canary.receive(ArpPacket(arp.REPLY, OTHER, NET, MINE, 0, OTHER, MINE))
    assert canary.doubt() == (
        "02:00:00:00:00:03 answers for every address, even 10.0.0.0 (proxy ARP, or a cloud's network): silence and "
        "answers mean nothing here; switch that off, or use another link"
    )


def test_the_canary_of_the_network_of_all_addresses_is_named_too() -> None:
    canary = Canary(0)
    canary.receive(ArpPacket(arp.REPLY, OTHER, 0, MINE, 0, OTHER, MINE))
    assert " even 0.0.0.0 " in canary.doubt()


def test_the_chance_is_stated_with_a_doubt_too_as_of_that_moment() -> None:
    desk = Desk(FIRST, SECOND, timing=LAN)
    desk.step()
    desk.answers = False
    desk.step()
    desk.now += 1.0
    desk.canary.receive(ArpPacket(arp.REPLY, OTHER, NET, MINE, 0, OTHER, MINE))
    desk.hear(FIRST, OTHER)
    assert desk.probing.outcomes[FIRST].miss_probability is not None
    while not desk.probing.done:
        desk.step()
    outcome = desk.probing.outcomes[SECOND]
    assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, desk.canary.doubt())
    assert outcome.miss_probability is not None


# Dropped frames.


def test_dropped_frames_start_the_count_anew_and_discard_what_has_not_left() -> None:
    desk = Desk(FIRST, SECOND)
    desk.until_round(2)
    desk.hear(SECOND, OTHER)
    desk.now = desk.probing.deadline
    desk.probing.advance(desk.now)  # its frames have not left yet
    desk.probing.overflow(5, desk.now)
    assert list(desk.probing.acds) == [FIRST]
    assert desk.probing.outcomes[SECOND].verdict is Verdict.IN_USE
    assert desk.probing.rounds == 0
    assert desk.witnesses.answers(WITNESS) == 0
    assert desk.flush() == []
    desk.now += ADAPTIVE.probe_max  # the round before may have left just now
    assert asked(desk.step()) == [WITNESS, NET, FIRST]
    while not desk.probing.done:
        desk.step()
    assert desk.probing.outcomes[FIRST].verdict is Verdict.FREE
    assert desk.probing.outcomes[FIRST].probes == desk.probing.rounds


def test_what_was_free_is_probed_again_after_dropped_frames() -> None:
    desk = Desk()
    desk.run()
    desk.probing.overflow(1, desk.now)
    assert not desk.probing.done
    assert desk.probing.acds[FIRST].state is AcdState.WAITING
    assert desk.run().verdict is Verdict.FREE


def test_a_flood_until_the_end_of_the_budget_is_told_with_the_number_of_frames() -> None:
    desk = Desk(budget=1.5)
    for dropped in (3, 4):
        desk.step()
        desk.probing.overflow(dropped, desk.now)
    desk.step()
    desk.probing.advance(11.5)
    assert desk.run().reason == (
        "the kernel dropped 7 frames that we could not read in time (a flood on the link?); find its source, or try "
        "again"
    )


def test_a_witness_on_this_host_itself_is_known_for_one() -> None:
    desk = Desk(outward=lambda mac: mac != STATION)
    desk.probing.receive(ArpPacket(arp.REPLY, STATION, WITNESS, BRIDGE, OWN, STATION, BRIDGE), desk.now)
    assert desk.witnesses.local == {WITNESS}
