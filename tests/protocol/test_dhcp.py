"""DHCP frames: what they tell, held against scapy, and that no frame does harm."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from arpipam.protocol.dhcp import DhcpRefusal, Given, dissect

SERVER, ADDRESS = "172.16.42.2", "172.16.42.5"
GIVEN = Given(int(IPv4Address(ADDRESS)), int(IPv4Address(SERVER)))


def message(operation: int, *options: Any, address: str = "0.0.0.0", ports: tuple[int, int] = (67, 68)) -> bytes:  # noqa: S104
    body = BOOTP(op=operation, yiaddr=address, chaddr=b"\x02\x00\x00\x00\x00\x07") / DHCP(options=[*options, "end"])
    return bytes(
        Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:02")
        / IP(src=SERVER)
        / UDP(sport=ports[0], dport=ports[1])
        / body
    )


def reply(kind: str, *options: Any, address: str = ADDRESS) -> bytes:
    return message(2, ("message-type", kind), ("server_id", SERVER), *options, address=address)


def request(*options: Any) -> bytes:
    return message(1, ("message-type", "request"), *options, ports=(68, 67))


@pytest.mark.parametrize(
    "frame",
    [
        reply("offer"),
        reply("ack", ("lease_time", 3600), ("subnet_mask", "255.255.255.0")),
        reply("offer") + bytes(20),  # the padding of a switch
        request(("requested_addr", ADDRESS), ("server_id", SERVER)),
        message(1, ("message-type", "request"), ("requested_addr", ADDRESS), ("server_id", SERVER), ports=(67, 67)),
    ],
    ids=["offer", "ack", "padded", "request", "relayed"],
)
def test_an_address_is_given_out(frame: bytes) -> None:
    assert dissect(frame) == GIVEN


@pytest.mark.parametrize(
    "frame",
    [
        reply("nak", address="0.0.0.0"),  # noqa: S104
        reply("ack", address="0.0.0.0"),  # noqa: S104 - of settings only
        request(("requested_addr", ADDRESS)),  # what it had once
        message(1, ("message-type", "discover"), ("requested_addr", ADDRESS), ports=(68, 67)),
        message(1, ("message-type", "offer"), ("server_id", SERVER), address=ADDRESS),
        message(1, ("message-type", "decline"), ("requested_addr", ADDRESS), ("server_id", SERVER), ports=(68, 67)),
        message(2, ("message-type", "request"), ("requested_addr", ADDRESS), ("server_id", SERVER)),
        request(("server_id", SERVER)),
    ],
    ids=["nak", "inform", "reboot", "discover", "an offer of a client", "decline", "a request of a server", "of none"],
)
def test_nothing_is_given_out(frame: bytes) -> None:
    assert dissect(frame) is DhcpRefusal.OTHER


def changed(frame: bytes, at: int, *values: int) -> bytes:
    return frame[:at] + bytes(values) + frame[at + len(values) :]


OFFER = reply("offer")
OPTIONS = 14 + 20 + 8 + 240


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        (b"", DhcpRefusal.SHORT),
        (OFFER[:33], DhcpRefusal.SHORT),
        (OFFER[:100], DhcpRefusal.SHORT),
        (changed(OFFER, 14, 0x44), DhcpRefusal.SHORT),  # a header of 16 bytes
        (changed(OFFER, 16, 0xFF, 0xFF), DhcpRefusal.SHORT),
        (changed(OFFER, 38, 0, 7), DhcpRefusal.SHORT),  # a UDP length that has no room for its own header
        (changed(OFFER, 38, 0xFF, 0xFF), DhcpRefusal.SHORT),
        (changed(OFFER, 38, 0, 100), DhcpRefusal.SHORT),
        (changed(OFFER, 20, 0x20, 0), DhcpRefusal.FRAGMENT),
        (changed(OFFER, 20, 0, 1), DhcpRefusal.FRAGMENT),
        (changed(OFFER, 34, 0, 53), DhcpRefusal.NOT_DHCP),
        (changed(OFFER, 14, 0x65), DhcpRefusal.NOT_DHCP),
        (changed(OFFER, 23, 6), DhcpRefusal.NOT_DHCP),
        (changed(OFFER, 42, 3), DhcpRefusal.NOT_DHCP),
        (changed(OFFER, OPTIONS - 1, 0), DhcpRefusal.NOT_DHCP),  # BOOTP without DHCP's cookie
        (changed(OFFER, OPTIONS + 1, 2), DhcpRefusal.OPTIONS),  # a kind of two bytes
        (changed(OFFER, OPTIONS + 1, 200), DhcpRefusal.OPTIONS),
        (message(2, ("server_id", SERVER), address=ADDRESS), DhcpRefusal.OPTIONS),  # no kind
        (bytes(Ether() / Dot1Q(vlan=5) / IP() / UDP()), DhcpRefusal.NOT_DHCP),
        (bytes(Ether() / ARP()), DhcpRefusal.NOT_DHCP),
    ],
)
def test_what_is_malformed_or_something_else_is_refused(frame: bytes, refusal: DhcpRefusal) -> None:
    assert dissect(frame) is refusal


def test_of_an_option_that_is_there_twice_the_first_counts() -> None:
    assert dissect(reply("offer", ("server_id", "9.9.9.9"))) == GIVEN


# Options, byte by byte.

HEAD = bytes(BOOTP(op=2, secs=0xFF, yiaddr=ADDRESS, options=b"\x63\x82\x53\x63"))
IS_OFFER, FROM_SERVER = b"\x35\x01\x02", b"\x36\x04" + IPv4Address(SERVER).packed


def datagram(payload: bytes, ports: tuple[int, int] = (67, 68)) -> bytes:
    return bytes(Ether() / IP(src=SERVER) / UDP(sport=ports[0], dport=ports[1]) / Raw(payload))


@pytest.mark.parametrize(
    "options",
    [
        IS_OFFER + FROM_SERVER,
        IS_OFFER + FROM_SERVER + b"\x0c\x00",
        b"\x0c\x01\xff" + b"\x00" + IS_OFFER + b"\x00\x00" + FROM_SERVER,
    ],
    ids=["no end", "no end after an empty one", "padded"],
)
def test_options_are_found_wherever_they_stand(options: bytes) -> None:
    assert dissect(datagram(HEAD + options)) == GIVEN


@pytest.mark.parametrize("cut", [b"\x0c", b"\x0c\x05host", b"\x0c\xffhost"])
def test_an_option_that_is_cut_spoils_the_message(cut: bytes) -> None:
    assert dissect(datagram(HEAD + IS_OFFER + FROM_SERVER + cut)) is DhcpRefusal.OPTIONS


def test_what_ends_where_a_header_does_is_refused_for_what_is_missing() -> None:
    assert dissect(datagram(HEAD)) is DhcpRefusal.OPTIONS
    assert dissect(datagram(HEAD[:-1])) is DhcpRefusal.SHORT
    assert dissect(datagram(b"")) is DhcpRefusal.SHORT
    assert dissect(datagram(b"", ports=(53, 53))) is DhcpRefusal.NOT_DHCP
    assert dissect(changed(OFFER[:34], 16, 0, 20)) is DhcpRefusal.SHORT  # no UDP at all
    whole = datagram(HEAD + IS_OFFER + FROM_SERVER + b"\xff" + bytes(200))
    assert dissect(whole) == GIVEN
    assert dissect(changed(whole, 38, 0xFF, 0x9C)) is DhcpRefusal.SHORT  # a UDP length beyond all bounds
    assert dissect(changed(OFFER[:34], 23, 6)) is DhcpRefusal.NOT_DHCP


@given(st.binary(max_size=1600))
def test_no_bytes_do_harm(frame: bytes) -> None:
    assert isinstance(dissect(frame), Given | DhcpRefusal)


@given(st.sampled_from([OFFER, request(("requested_addr", ADDRESS), ("server_id", SERVER))]), st.data())
def test_no_change_and_no_cut_of_a_true_frame_does_harm(frame: bytes, data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.integers(14, len(frame) - 1), st.integers(0, 255), max_size=8))
    hostile = bytes(changes.get(at, byte) for at, byte in enumerate(frame))
    hostile = hostile[: data.draw(st.integers(0, len(frame)))] + data.draw(st.binary(max_size=40))
    assert isinstance(dissect(hostile), Given | DhcpRefusal)
