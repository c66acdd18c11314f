"""Network namespaces for the tests of the link, and what is sent and heard in them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import netns

from arpipam.link.socket import Link
from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOREIGN = bytes.fromhex("0200000000aa")
"""A MAC that no interface has: that of a container to come."""
OWN_NAMESPACE = Path("/proc/thread-self/ns/net")
LONG = 20.0
"""Seconds after which a condition that was waited for will not come any more."""
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
_numbers = itertools.count()


class Space:
    """A network namespace."""

    def __init__(self) -> None:
        self.name = f"link{os.getpid()}n{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)

    def ip(self, *lines: str) -> None:
        """Run commands of ip(8) in it."""
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def run(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile."""
        before = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(f"/run/netns/{self.name}", flags=0)
            yield
        finally:
            netns.setns(before)
            os.close(before)

    def open(self, interface: str, **how: float | Callable[[str], None]) -> Link:
        with self.entered():
            return Link(interface, **how)  # type: ignore[arg-type]

    def socket(self, interface: str, protocol: int = 0) -> socket.socket:
        """A raw socket on an interface; it hears nothing unless `protocol` says what."""
        with self.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((interface, protocol))
        sock.settimeout(LONG)
        return sock


@contextlib.contextmanager
def spaces() -> Iterator[Callable[[], Space]]:
    """Makes namespaces that are removed at the end."""
    with contextlib.ExitStack() as stack:

        def one() -> Space:
            space = Space()
            stack.callback(space.remove)
            return space

        yield one


def cable(here: Space, there: Space) -> None:
    """`near` here and `far` there are the two ends of a cable."""
    here.ip(
        f"link add near type veth peer name far netns {there.name}",
        "addr add 10.7.0.1/24 dev near",
        "link set near up",
    )
    there.ip("addr add 10.7.0.2/24 dev far", "link set far up")


def number(address: str) -> int:
    return int(IPv4Address(address))


def probe(address: str = "10.7.0.9") -> bytes:
    return arp.probe(FOREIGN, number(address))


def tagged(frame: bytes, tag: int) -> bytes:
    """The frame in 802.1Q's dress: `tag` is priority and VLAN."""
    return frame[:12] + struct.pack("!HH", 0x8100, tag) + frame[12:]


def hear(listener: Link, *, until: bytes) -> list[bytes]:
    """What arrives, up to and with a frame that is known to come."""
    frames: list[bytes] = []
    end = time.monotonic() + LONG
    while until not in frames:
        assert time.monotonic() < end, f"never came; only {frames}"
        listener.wait(0.1)
        frames += listener.receive()
    return frames
