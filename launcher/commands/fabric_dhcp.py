"""What `arpipam fabric check` says of DHCP servers whose addresses containers might get."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError
from arpipam.fabric.check import Condition, Finding
from arpipam.link.dhcp_socket import DhcpSocket
from arpipam.protocol import dhcp
from launcher.agent.client.client import AgentClient
from launcher.defaults import DEFAULT_SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.fabric import Fabric

MOST_FRAMES = 1024
"""That are looked at in one check."""
_REMEDY = 'a pool outside of its range: docker network create --ip-range …, or exclude = "dhcp" in the agent\'s file'


@contextmanager
def hearing(bridge: str) -> Iterator[list[bytes]]:
    """Hear DHCP on the bridge; what came is in the list once the context ends, nothing where there is no bridge."""
    heard: list[bytes] = []
    try:
        sock = DhcpSocket(bridge)
    except OSError:
        yield heard
        return
    try:
        yield heard
        heard += sock.receive(MOST_FRAMES)
    finally:
        sock.close()


def findings(fabric: Fabric, heard: list[bytes]) -> Iterator[Finding]:
    """A warning for each server: what the agent has seen since it runs, and what was heard during this check."""
    told = False
    for warning in _of_the_agent(fabric):
        told = True
        yield Finding(Condition.WARNING, "dhcp", warning, _REMEDY)
    if told:
        return
    given = {seen.server: seen for frame in heard if isinstance(seen := dhcp.dissect(frame), dhcp.Given)}
    for seen in given.values():
        if (address := IPv4Address(seen.address)) in fabric.subnet:
            text = f"DHCP server {IPv4Address(seen.server)} gives out {address} of {fabric.subnet}"
            yield Finding(Condition.WARNING, "dhcp", text, _REMEDY)


def _of_the_agent(fabric: Fabric) -> Iterator[str]:
    client = AgentClient(Path(os.environ.get("ARPIPAM_SOCKET") or DEFAULT_SOCKET))
    with suppress(ArpipamError):  # no agent runs here
        for network in client.status().networks:
            if network.interface == fabric.bridge:
                yield from network.dhcp_warnings
