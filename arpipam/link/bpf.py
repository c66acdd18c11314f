"""A socket filter in classic BPF: untagged ARP, and of that what is of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arpipam.protocol import arp

if TYPE_CHECKING:
    from arpipam.protocol.interest import Interest

# Classic BPF (linux/bpf_common.h): load a word or half-word, jump, return; and offsets in an Ethernet frame with ARP.
_LOAD_WORD, _LOAD_HALF, _EQUAL, _AT_LEAST, _ABOVE, _RETURN = 0x20, 0x28, 0x15, 0x35, 0x25, 0x06
_LOAD_TO_X, _EQUAL_X = 0x07, 0x1D  # tax; jeq x
_SENDER_IP, _TARGET_MAC, _TARGET_IP = 28, 32, 38

Step = tuple[int, int, int, int]

# ldh [12]; jne #0x806, drop; ldb vlan_avail; jeq #0, on; ldh vlan_tci; jset #0xfff, drop; on: what the interest says
_SKF_AD_OFF, _SKF_AD_VLAN_TAG, _SKF_AD_VLAN_TAG_PRESENT = 0xFFFFF000, 44, 48
_ARP_UNTAGGED = (
    (0x28, 0, 0, 12),
    (0x15, 1, 0, 0x0806),
    (0x06, 0, 0, 0),
    (0x30, 0, 0, _SKF_AD_OFF + _SKF_AD_VLAN_TAG_PRESENT),
    (0x15, 3, 0, 0),
    (0x28, 0, 0, _SKF_AD_OFF + _SKF_AD_VLAN_TAG),
    (0x45, 0, 1, 0x0FFF),
    (0x06, 0, 0, 0),
)
"""ARP of no VLAN: without a tag, or with one that only gives a priority (VLAN 0), which hosts take for untagged."""


def filter_of(interest: Interest | None, take: int) -> tuple[Step, ...]:
    """A filter that keeps `take` bytes of each frame that is of interest; None: of all ARP."""
    return _ARP_UNTAGGED + (((_RETURN, 0, 0, take),) if interest is None else program(interest, take))


def program(interest: Interest, take: int) -> tuple[Step, ...]:
    """What is of interest, as steps of classic BPF for a frame that is known to be ARP; `take` bytes of it are kept."""
    kept, dropped = (_RETURN, 0, 0, take), (_RETURN, 0, 0, 0)
    steps: list[Step] = []
    for mac in sorted(interest.macs):
        high, low = int.from_bytes(mac[:4], "big"), int.from_bytes(mac[4:], "big")
        steps += [
            (_LOAD_WORD, 0, 0, _TARGET_MAC),
            (_EQUAL, 0, 3, high),
            (_LOAD_HALF, 0, 0, _TARGET_MAC + 4),
            (_EQUAL, 0, 1, low),
            kept,
        ]
    for offset, addresses in ((_SENDER_IP, interest.addresses | interest.senders), (_TARGET_IP, interest.addresses)):
        steps.append((_LOAD_WORD, 0, 0, offset))
        for address in sorted(addresses):
            steps += [(_EQUAL, 0, 1, address), kept]
    if interest.span is not None:
        steps += [
            (_LOAD_TO_X, 0, 0, 0),  # the target, which was loaded last
            (_LOAD_WORD, 0, 0, _SENDER_IP),
            (_EQUAL, 1, 0, arp.UNSPECIFIED),
            (_EQUAL_X, 0, 4, 0),
            (_LOAD_WORD, 0, 0, _TARGET_IP),
            (_AT_LEAST, 0, 2, interest.span[0]),
            (_ABOVE, 1, 0, interest.span[1]),
            kept,
        ]
    return (*steps, dropped)
