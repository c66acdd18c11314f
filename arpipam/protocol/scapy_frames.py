"""ARP packets as scapy has them, for those who work with both; nothing else here loads scapy, which takes 0.3 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scapy.layers.l2 import ARP, Ether

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.protocol.arp import ArpPacket, Refusal


def to_scapy(packet: ArpPacket) -> Ether:
    """The same frame as scapy's layers, `Ether / ARP`, with what follows the packet as its payload."""
    return Ether(arp.encode(packet))


def from_scapy(frame: Ether | ARP) -> ArpPacket | Refusal:
    """The packet in a frame of scapy's, or why there is none. Never raises for a frame that scapy can build."""
    return arp.dissect(bytes(frame if isinstance(frame, Ether) else Ether(src=frame.hwsrc) / frame))
