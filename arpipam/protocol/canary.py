"""The canary: an address that no station can have, the network's own. A station that answers for it answers for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket


class Canary:
    """Whether a station answers for `address`; None: the link has no such address."""

    def __init__(self, address: int | None) -> None:
        self.address = address
        self.mac: bytes | None = None
        """Of the station that answered."""

    def receive(self, packet: ArpPacket) -> None:
        """Note an answer."""
        if packet.sender_ip == self.address:
            self.mac = packet.sender_mac

    def doubt(self) -> str:
        """What an answer means; empty where there was none."""
        if self.mac is None:
            return ""
        return (
            f"{arp.mac_text(self.mac)} answers for every address, even {arp.address_texts([self.address or 0])} (proxy "
            "ARP, or a cloud's network): silence and answers mean nothing here; switch that off, or use another link"
        )
