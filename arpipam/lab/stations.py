"""Stations of the lab: plain kernels, and some that misbehave."""

from __future__ import annotations

import ipaddress
import json
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from arpipam.lab.capture import who_has
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arpipam.lab.namespace import Namespace

_ETH_P_ARP = 0x0806


class LabStation:
    """A station with `addresses` (each with its prefix, say 172.16.42.3/24; a `crowd` holds all of a prefix).

    Without anything else the kernel answers for them. Otherwise a thread does: `slow` seconds late, after having been
    silent to the first `deaf` questions for each address, for `everything`, or under another MAC at each answer
    (`shifting`).
    """

    def __init__(
        self,
        namespace: Namespace,
        addresses: Sequence[str],
        *,
        crowd: str = "",
        slow: float = 0.0,
        deaf: int = 0,
        everything: bool = False,
        shifting: bool = False,
    ) -> None:
        self.namespace = namespace
        [link] = json.loads(namespace.run("ip", "-j", "link", "show", "eth0"))
        self.mac: str = link["address"]
        self._answerer: _Answerer | None = None
        if slow or deaf or everything or shifting:
            with namespace.inside():
                self._answerer = _Answerer(
                    {int(ipaddress.IPv4Interface(address).ip) for address in addresses},
                    arp.mac_bytes(self.mac),
                    slow=slow,
                    deaf=deaf,
                    everything=everything,
                    shifting=shifting,
                )
        else:
            namespace.ip([f"addr add {address} dev eth0" for address in addresses])
            if crowd:
                namespace.run("ip", "route", "add", "local", crowd, "dev", "lo")

    def who_has(self, address: str) -> set[str]:
        """The MACs that answer for an address, asked from here."""
        return who_has(self.namespace, "eth0", address)

    def ping(self, address: str, count: int = 1) -> bool:
        """Whether a machine at that address answers within 2 s."""
        words = self.namespace.enter("ping", "-c", str(count), "-W", "2", address)
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    def flood(self, seconds: float, rate: int, kind: str = "mixed") -> subprocess.Popen[bytes]:
        """Send frames in a process of its own: `arp` (well-formed), `garbage`, or `mixed`, so many per second."""
        words = [sys.executable, "-m", "arpipam.lab.flood", str(seconds), str(rate), kind]
        return subprocess.Popen(self.namespace.enter(*words), stdout=subprocess.PIPE)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send these frames."""
        with self.namespace.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sock:
            sock.bind(("eth0", 0))
            for frame in frames:
                sock.send(frame)

    def close(self) -> None:
        """Stop answering."""
        if self._answerer is not None:
            self._answerer.close()
            self._answerer = None


class _Answerer:
    """Answers ARP in the kernel's place."""

    def __init__(
        self, addresses: set[int], mac: bytes, *, slow: float, deaf: int, everything: bool, shifting: bool
    ) -> None:
        self._addresses = addresses
        self._mac = mac
        self._slow, self._deaf, self._everything, self._shifting = slow, deaf, everything, shifting
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
        self._socket.bind(("eth0", _ETH_P_ARP))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asked: Counter[int] = Counter()
        rng = random.Random(1)
        waiting: list[tuple[float, int, bytes]] = []
        while not self._stop.is_set():
            timeout = min(0.1, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 0.1
            if select.select([self._socket], [], [], timeout)[0]:
                packet = arp.dissect(self._socket.recv(128))
                if isinstance(packet, ArpPacket) and packet.operation == arp.REQUEST:
                    target = packet.target_ip
                    if (self._everything or target in self._addresses) and packet.sender_ip != target:
                        asked[target] += 1
                        if asked[target] > self._deaf:
                            mac = arp.random_mac(rng) if self._shifting else self._mac
                            due = time.monotonic() + self._slow
                            heappush(waiting, (due, asked.total(), arp.reply(mac, packet)))
            while waiting and waiting[0][0] <= time.monotonic():
                self._socket.send(heappop(waiting)[2])
