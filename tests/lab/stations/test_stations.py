"""No station of any kind loses its address to us, and no address has two owners, with two hosts at work at once.

Each kind runs its real program. ARPIPAM_TRIES says how many stations there are in each order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arpipam.errors import AddressInUseError
from tests.support.meetings import FILLING, LATER, RACING, Meeting
from tests.support.profile import NIGHT, count
from tests.support.station_kinds import KINDS

if TYPE_CHECKING:
    from arpipam.lab import Lab
    from tests.support.station_kinds import Kind

TRIES = count("TRIES", day=1, night=20)
BY_DAY = {"dhcpcd", "avahi-autoipd", "networkd", "keepalived-vmac"}
WITH_AGENTS = {"dhcpcd"}
"""By day; two agents take as long to start as all the rest."""


def skip_where_missing(kind: Kind) -> None:
    if reason := kind.program.missing():
        pytest.skip(reason)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if NIGHT or kind.name in BY_DAY], ids=str)
def test_no_station_is_harmed_and_no_address_has_two_owners(lab: Lab, kind: Kind) -> None:
    skip_where_missing(kind)
    with Meeting(lab, kind, TRIES, agents=NIGHT or kind.name in WITH_AGENTS) as meeting:
        meeting.run()
        ours, theirs, asked = meeting.ours(), meeting.theirs(), meeting.owners()
        twice = [address for address, macs in asked.items() if len(macs) > 1]
        # To be seen with -s.
        print(f"\n{kind}: {TRIES} tries in each order, lost: {meeting.lost()}, two owners: {twice}")  # noqa: T201
        assert not meeting.lost()
        # Those that were there first keep what they have, whatever is asked of them.
        first = meeting.taken()
        assert all(address in theirs for address in first), first
        assert all(isinstance(meeting.refusals.get(address), AddressInUseError) for address in first), meeting.refusals
        for done in meeting.json_of("probe"):
            assert {row["verdict"] for row in done if row["address"] in first} <= {"in_use"}, done
        for [found] in meeting.json_of("find"):
            assert found["address"] not in theirs
        for seen in meeting.json_of("scan"):
            assert {row["address"] for row in seen} >= set(first)
        if not kind.program.CHECKS:
            return
        # Those that come later take something else.
        for address in meeting.groups[LATER]:
            assert address in ours, (address, meeting.claims.get(address), meeting.refusals.get(address))
            assert address not in theirs, meeting.programs[address].said()
        # And of those that come at the same moment, one has it: always beside RFC 5227's own timing, and beside a quick
        # search where the station listens until it takes the address.
        raced = {*(meeting.groups[RACING] if kind.hears else ()), *meeting.groups.get(FILLING, ())}
        quick = set(meeting.groups[RACING]) - raced
        assert {address: macs for address, macs in asked.items() if len(macs) > 1 and address not in quick} == {}
        assert set(ours) & set(theirs) <= quick
        if not kind.dhcp:  # a server gives its client another one, and then the agents need not want the first
            assert {address for address in raced if not asked[address]} <= set(meeting.refusals), asked
