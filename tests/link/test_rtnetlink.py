"""What the kernel is asked, read from its answers."""

from __future__ import annotations

import errno
from contextlib import closing

import pytest

from arpipam.link.rtnetlink import Questions
from tests.support.link_spaces import NEEDS_ROOT, Space, number

pytestmark = [NEEDS_ROOT, pytest.mark.usefixtures("wire")]


def test_the_next_hops_of_a_link_from_all_tables_of_one_hop_and_of_several(here: Space) -> None:
    here.ip(
        "link add other type bridge",
        "addr add 10.9.0.1/24 dev other",
        "link set other up",
        "route add 10.50.0.0/16 via 10.7.0.20",
        "route add 10.51.0.0/16 via 10.7.0.20",
        "route add 10.52.0.0/16 via 10.9.0.20",
        "route add 10.53.0.0/16 nexthop via 10.7.0.21 nexthop via 10.9.0.21 nexthop via 10.7.0.22",
        "route add default via 10.7.0.23 table 77",
    )
    with here.entered(), closing(Questions()) as questions:
        links = {link.name: link.number for link in questions.links()}
        near, other = (sorted(questions.gateways(links[name])) for name in ("near", "other"))
    assert near == [number(f"10.7.0.{last}") for last in (20, 21, 22, 23)]
    assert other == [number("10.9.0.20"), number("10.9.0.21")]


def test_the_stations_of_one_link(here: Space) -> None:
    here.ip(
        "link add other type bridge",
        "addr add 10.9.0.1/24 dev other",
        "link set other up",
        "neigh add 10.7.0.30 lladdr 02:00:00:00:00:30 dev near nud permanent",
        "neigh add 10.9.0.31 lladdr 02:00:00:00:00:31 dev other nud permanent",
    )
    with here.entered(), closing(Questions()) as questions:
        near = next(link for link in questions.links() if link.name == "near")
        [neighbour] = [one for one in questions.neighbours(near.number) if one.mac]
    assert (neighbour.address, neighbour.mac) == (number("10.7.0.30"), bytes.fromhex("020000000030"))


def test_what_the_kernel_refuses_is_no_empty_answer(here: Space) -> None:
    with here.entered(), closing(Questions()) as questions:
        with pytest.raises(OSError, match="No such device") as raised:
            questions.gateways(9999)
        assert raised.value.errno == errno.ENODEV
        assert questions.links()  # and it can be asked on
