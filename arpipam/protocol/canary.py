"""The canaries: addresses that no station should have. A station that answers for two of them answers for everything.

The first is the network's own address, which stations rarely have. But one may, as where the network has grown since:
if it is answered for, a second one is drawn at random. Only who answers for both is taken for a proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from arpipam.protocol.arp import ArpPacket

_DRAWS = 64


class Canary:
    """Whether a station answers for everything; asked through `addresses`, told of answers by `receive`.

    `first`: the network's own address, None where the link has none. `last`: the network's last address; the second
    canary is drawn from those between, but for those that are `taken(address)`: used, or about to be tried.
    """

    def __init__(
        self,
        first: int | None,
        last: int | None = None,
        *,
        rng: random.Random | None = None,
        taken: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.mac: bytes | None = None
        """Of the station that answers for everything."""
        self._first, self._last = first, last
        self._second: int | None = None
        self._suspect: bytes | None = None
        """The MAC that answered for the first."""
        self._used: set[int] = set()
        """Drawn before, and answered for by another station: it has that address."""
        self._rng = rng
        self._taken = taken

    def addresses(self) -> tuple[int, ...]:
        """What to ask for now."""
        return tuple(address for address in (self._first, self._second) if address is not None)

    def receive(self, packet: ArpPacket) -> bool:
        """Note an answer; whether there is more to ask for now."""
        mac, address = packet.sender_mac, packet.sender_ip
        if address == self._first and address is not None:
            if self._suspect is None or self._suspect != mac:
                self._suspect = mac
                return self._draw()
        elif address == self._second and address is not None and self.mac is None:
            if mac == self._suspect:
                self.mac = mac
            else:
                self._used.add(address)
                return self._draw()
        return False

    def doubt(self) -> str:
        """What an answer means; empty where there was none."""
        if self.mac is None:
            return ""
        return (
            f"{arp.mac_text(self.mac)} answers for every address, even {arp.address_texts(self.addresses())} (proxy "
            "ARP, or a cloud's network): silence and answers mean nothing here; switch that off, or use another link"
        )

    def _draw(self) -> bool:
        """Choose a second canary; where there is none to choose, the first one's word has to do."""
        assert self._first is not None  # noqa: S101 - it has been answered for
        if self._rng is not None and self._last is not None and self._last - self._first > 1:
            for _ in range(_DRAWS):
                address = self._rng.randrange(self._first + 1, self._last)
                if address not in self._used and not self._taken(address):
                    self._second = address
                    return True
        self._second = None
        self.mac = self._suspect
        return False
