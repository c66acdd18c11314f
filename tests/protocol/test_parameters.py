"""What a search is told of its link, and what follows where the interface has no address."""

from __future__ import annotations

import pytest

from arpipam.protocol import arp
from arpipam.protocol.parameters import Parameters
from arpipam.protocol.search import LinkMemory
from arpipam.protocol.timing import ADAPTIVE, LAN, RFC5227, Timing
from arpipam.protocol.witnesses import SELDOM

OWN = bytes.fromhex("02005e100001")
OWN_ADDRESS = 0x0A00_0009


@pytest.mark.parametrize(
    ("own_address", "timing", "expected"),
    [
        (0, ADAPTIVE, (RFC5227, None)),
        (0, LAN, (LAN, RFC5227)),
        (OWN_ADDRESS, ADAPTIVE, (ADAPTIVE, RFC5227)),
        (OWN_ADDRESS, LAN, (LAN, RFC5227)),
    ],
)
def test_without_an_address_the_witnesses_do_not_set_the_pace(
    own_address: int, timing: Timing, expected: tuple[Timing, Timing | None]
) -> None:
    known = Parameters(OWN, own_address, timing=timing, confirm=RFC5227)
    assert (known.timing, known.confirm) == expected


def test_a_probing_may_take_its_budget_and_what_a_fixed_timing_takes() -> None:
    assert Parameters(OWN, OWN_ADDRESS, budget=3.0).longest_probing == 3.0
    assert Parameters(OWN, OWN_ADDRESS, timing=RFC5227, budget=3.0).longest_probing == 12.0


def test_without_an_address_a_request_is_a_probe() -> None:
    assert Parameters(OWN, OWN_ADDRESS).request(7) == arp.request(OWN, OWN_ADDRESS, 7)
    assert Parameters(OWN).request(7) == arp.probe(OWN, 7)


@pytest.mark.parametrize(
    ("own_address", "timing", "confirm", "remembered"),
    [
        (OWN_ADDRESS, ADAPTIVE, None, 0.5),
        (OWN_ADDRESS, RFC5227, None, 9.5),
        (OWN_ADDRESS, ADAPTIVE, RFC5227, 9.5),
        (0, ADAPTIVE, None, SELDOM),
    ],
)
def test_a_link_remembers_requests_for_as_long_as_a_search_may_need_them(
    own_address: int, timing: Timing, confirm: Timing | None, remembered: float
) -> None:
    witnesses = LinkMemory(Parameters(OWN, own_address, timing=timing, confirm=confirm, budget=0.5)).witnesses
    for at in (0.0, remembered):
        witnesses.sent(7, at)
    assert [question.at for question in witnesses.since(7, 0.0)] == [remembered, 0.0]
    witnesses.sent(7, remembered + 0.1)
    assert [question.at for question in witnesses.since(7, 0.0)] == [remembered + 0.1, remembered]
