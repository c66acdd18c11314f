"""A station that asks for addresses all the time, and knows which of its questions nobody answered."""

from __future__ import annotations

import threading
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from arpipam.lab.capture import Capture
from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from arpipam.lab.stations import LabStation


class Asker:
    """Asks for addresses every 20 ms, from a station and each time under another MAC, so that each answer is told."""

    EVERY = 0.02
    PATIENCE = 0.5
    """Seconds after which an answer will not come any more."""

    def __init__(self, station: LabStation, addresses: Iterable[str], sender: str = "172.16.42.250") -> None:
        self._targets = [int(IPv4Address(address)) for address in addresses]
        self._sender = int(IPv4Address(sender))
        with station.namespace.inside():
            self._capture = Capture("eth0")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._asked: dict[bytes, tuple[str, float]] = {}

    def _run(self) -> None:
        while not self._ending.wait(self.EVERY):
            for target in self._targets:
                mac = bytes.fromhex("02a1b2") + len(self._asked).to_bytes(3, "big")
                self._asked[mac] = str(IPv4Address(target)), time.monotonic()
                self._capture.socket.send(arp.request(mac, self._sender, target))
            self._capture.read()

    def count(self, address: str) -> tuple[int, list[float]]:
        """How often it was asked for, and when (monotonic) nobody answered."""
        answered = {packet.target_mac for _, packet in self._capture.packets if packet.operation == arp.REPLY}
        mine = {mac: at for mac, (asked, at) in self._asked.items() if asked == address}
        return len(mine), [at for mac, at in mine.items() if mac not in answered]

    def senders(self, address: str) -> list[tuple[float, str]]:
        """When, and under which MACs, frames came that had that address as theirs."""
        wanted = int(IPv4Address(address))
        return [
            (at, arp.mac_text(packet.sender_mac)) for at, packet in self._capture.packets if packet.sender_ip == wanted
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        time.sleep(self.PATIENCE)
        with self._capture:
            pass
