"""A DHCP client that asks once for what it was offered, and then hears nothing but replies until it takes the address.

`busybox udhcpc -a` does so for two seconds. A claim whose search began within them never heard its question.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from arpipam import Allocator
from arpipam.claim_state import ClaimState
from arpipam.errors import AddressInUseError
from arpipam.lab.capture import Capture
from arpipam.lab.daemons import Udhcpc, Udhcpd
from tests.support.lans import number
from tests.support.referee import Referee, owners
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Collection

    from arpipam.claim import Claim
    from arpipam.lab import Lab, Wire

IN_TIME, TOO_LATE = (0.0, 0.2, 0.5, 1.0), (1.5, 1.9)
"""Seconds from a client's question to the beginning of our search, which takes 0.4 s: by the end of the latter ones the
client has the address, or is about to take it."""
LISTENS = 2.0
"""Seconds for which a client listens at most; it counts a millisecond for each frame that it hears."""
INSTANT = 1.5
"""Seconds within which we have let go of what a client has too, once it speaks."""
WITNESS, NOBODY = "172.16.42.2", "172.16.42.250"


def test_an_address_that_a_client_asked_for_before_our_search_has_one_owner(lab: Lab) -> None:
    wire = lab.wire()
    host = lab.host("host1", wire, "172.16.42.1/24", bridge="lan0")
    lab.start()
    lab.run(Udhcpd, lab.station("server", wire, f"{WITNESS}/24"), "172.16.42.10", "172.16.42.99")
    moments = {f"172.16.42.{20 + n}": moment for n, moment in enumerate((*IN_TIME, *TOO_LATE))}
    stations = {address: lab.station(f"s{number(address) & 255}", wire) for address in moments}
    claims: dict[str, Claim] = {}
    refused: set[str] = set()
    asked: dict[str, float] = {}

    def claim(address: str) -> None:
        time.sleep(max(0.0, asked[address] + moments[address] - time.monotonic()))
        try:
            claims[address] = allocator.claim("test", address)
        except AddressInUseError:
            refused.add(address)

    with ExitStack() as stack:
        referee = stack.enter_context(Referee(stations.values()))
        with wire.namespace.inside():
            capture = stack.enter_context(Capture("wire"))
        with host.namespace.inside():
            allocator = stack.enter_context(
                Allocator("lan0", state_dir=host.directory / "claims", witnesses=[WITNESS], timing="adaptive")
            )
        pool = stack.enter_context(ThreadPoolExecutor(len(moments)))
        clients = {address: lab.run(Udhcpc, stations[address], request=address) for address in moments}

        def all_have_asked() -> bool:
            probed = {packet.target_ip: at for at, packet in capture.read() if packet.is_probe}
            for address in moments.keys() - asked.keys():
                if (at := probed.get(number(address))) is not None:
                    asked[address] = at
                    pool.submit(claim, address)
            return len(asked) == len(moments)

        until(all_have_asked, lambda: f"a question of each: {[client.said() for client in clients.values()]}")
        # Nobody asks on the wire before that: a client would hear our answer.
        until(lambda: time.monotonic() > max(asked.values()) + LISTENS)
        doubly = doubly_owned(wire, moments)
        for address, moment in moments.items():
            ours = address in claims and claims[address].state is ClaimState.DEFENDING
            assert ours != (address in clients[address].addresses), clients[address].said()
            assert ours == (moment in IN_TIME), (moment, refused)
        assert not [address for station in stations.values() for address in referee.lost(station)]
        assert {moments[address] for address in doubly} <= set(TOO_LATE), doubly
        assert all(last < INSTANT for last in doubly.values()), doubly


def doubly_owned(wire: Wire, addresses: Collection[str]) -> dict[str, float]:
    """The addresses that two answered for, and for how many seconds from now on."""
    began, doubly = time.monotonic(), {}
    while (after := time.monotonic() - began) < 2 * INSTANT:
        macs = owners(wire, addresses, NOBODY)
        doubly.update({address: after for address in addresses if len(macs[address]) > 1})
    return doubly
