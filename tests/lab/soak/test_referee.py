"""The soak's referee sees what is wrong on a wire that we made wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.lab.soak.referee import EVERY, Referee
from tests.support.until import until

if TYPE_CHECKING:
    from arpipam.lab import Lab

A, B = "172.16.42.9", "172.16.42.10"


def test_it_sees_owners_duplicates_and_silences_on_both_sides_of_a_cut(lab: Lab) -> None:
    wire = lab.wire()
    hosts = [lab.host(f"host{n}", wire, f"172.16.42.{n}/24") for n in (1, 2)]
    lab.start()
    posts = {
        host.name: (lab.station(f"post{n}", host, f"172.16.42.5{n}/24"), f"172.16.42.5{n}")
        for n, host in enumerate(hosts)
    }
    one, other = (lab.station(f"s{n}", host, f"{A}/24") for n, host in enumerate(hosts))
    other.namespace.ip([f"addr del {A}/24 dev eth0"])
    began = time.monotonic()
    with Referee(posts, [A, B], began) as referee:
        spells = referee.journal.spells

        def owners() -> list[set[str]]:
            return [set(macs) for macs in spells[A][-1].answers] if A in spells else []

        until(lambda: owners() == [{one.mac}, {one.mac}], lambda: str(owners()))
        wire.cut(hosts[1])
        until(lambda: owners() == [{one.mac}, set()], lambda: str(owners()))
        other.namespace.ip([f"addr add {A}/24 dev eth0"])
        until(lambda: owners() == [{one.mac}, {other.mac}], lambda: str(owners()))
        wire.heal()
        until(lambda: owners() == [{one.mac, other.mac}] * 2, lambda: str(owners()))
        ended = time.monotonic() - began
        one.namespace.ip([f"addr del {A}/24 dev eth0"])
        until(lambda: owners() == [{other.mac}] * 2, lambda: str(owners()))
    [duplicate] = referee.journal.duplicates()
    assert duplicate.address == A
    assert duplicate.macs == {one.mac, other.mac}
    assert duplicate.since < ended
    assert abs(duplicate.until - ended) < 4 * EVERY
    assert [len(list(referee.journal.silences(A, one.mac, host, 0, ended))) for host in posts] == [0, 1]
    assert all(not spell.owners for spell in spells[B])
