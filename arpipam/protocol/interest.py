"""Which ARP packets anybody here has a use for, so that the kernel can drop the others before they cost us anything.

On a busy network, and the more when many search at the same moment, most frames are questions and answers between
others. What is wanted is what RFC 5227 (2.1.1, 2.4) says of the addresses that we probe or hold, the answers to our own
questions, and what others probe for or announce among the addresses that we may choose next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from arpipam.protocol.arp import ArpPacket

T = TypeVar("T")

MOST_ADDRESSES = 128
"""A filter that names more takes more memory than the kernel allows by default (net.core.optmem_max)."""


class Interest(NamedTuple):
    """What somebody has a use for."""

    addresses: frozenset[int] = frozenset()
    """Packets from or for these."""
    macs: frozenset[bytes] = frozenset()
    """Packets whose target MAC is one of these: answers to our questions."""
    span: tuple[int, int] | None = None
    """Probes for and announcements of addresses from the first to the last of these."""
    senders: frozenset[int] = frozenset()
    """Packets from these, if not for them."""

    def wants(self, packet: ArpPacket) -> bool:
        """Whether the packet is of use. The filter made of it (link/bpf.py) decides in the same way."""
        sender, target = packet.sender_ip, packet.target_ip
        if sender in self.addresses or target in self.addresses or packet.target_mac in self.macs:
            return True
        if sender in self.senders:
            return True
        if self.span is None or sender not in {arp.UNSPECIFIED, target}:
            return False
        return self.span[0] <= target <= self.span[1]


def union(interests: Iterable[Interest | None]) -> Interest | None:
    """What anybody has a use for; None: everything."""
    addresses: set[int] = set()
    macs: set[bytes] = set()
    spans: list[tuple[int, int]] = []
    senders: set[int] = set()
    for interest in interests:
        if interest is None:
            return None
        addresses |= interest.addresses
        macs |= interest.macs
        senders |= interest.senders
        if interest.span is not None:
            spans.append(interest.span)
    if len(addresses | senders) > MOST_ADDRESSES or len(macs) > MOST_ADDRESSES:
        return None
    span = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None
    return Interest(frozenset(addresses), frozenset(macs), span, frozenset(senders))


class Routes(Generic[T]):
    """Who has a use for a packet: each receiver gets what its own interest wants, as if it were alone on the link.

    Where many search at the same moment, most packets concern one of them; looking each up costs less than asking all.
    """

    def __init__(self, wanted: Iterable[tuple[Interest | None, T]] = ()) -> None:
        self._everything: list[T] = []
        self._by_sender: dict[int, list[T]] = {}
        self._by_target: dict[int, list[T]] = {}
        self._by_mac: dict[bytes, list[T]] = {}
        self._spans: list[tuple[tuple[int, int], T]] = []
        self._particular = False
        """Somebody has a use for some packets only."""
        for interest, receiver in wanted:
            if interest is None:
                self._everything.append(receiver)
                continue
            self._particular = True
            for address in interest.addresses | interest.senders:
                self._by_sender.setdefault(address, []).append(receiver)
            for address in interest.addresses:
                self._by_target.setdefault(address, []).append(receiver)
            for mac in interest.macs:
                self._by_mac.setdefault(mac, []).append(receiver)
            if interest.span is not None:
                self._spans.append((interest.span, receiver))

    def receivers(self, packet: ArpPacket) -> Collection[T]:
        """Each of them once."""
        if not self._particular:
            return self._everything
        sender, target = packet.sender_ip, packet.target_ip
        found = dict.fromkeys(self._everything)
        for receivers in (
            self._by_sender.get(sender),
            self._by_target.get(target),
            self._by_mac.get(packet.target_mac),
        ):
            if receivers is not None:
                found.update(dict.fromkeys(receivers))
        if sender in {arp.UNSPECIFIED, target}:
            found.update((receiver, None) for (first, last), receiver in self._spans if first <= target <= last)
        return found
