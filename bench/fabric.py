"""What the fabric costs: an ARP probe across it, beside one over the bare tunnel, in the same run.

Two hosts. The fabric's way is bridge, Open vSwitch, tunnel, Open vSwitch, bridge (or bridge, VXLAN, bridge); the bare
tunnel's is the tunnel alone, with an address on either end. Questions go out in turn, one on each way.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from arpipam import arp
from arpipam.arp import ArpPacket
from arpipam.lab import Lab

if TYPE_CHECKING:
    from arpipam.lab import Host

ROUNDS = 1000
WARM_UP = 50
ASKER = bytes.fromhex("02a1b2c3d4e6")
BARE = "10.9.9.0"


class Prober:
    """Asks for one address over one interface."""

    def __init__(self, host: Host, interface: str, address: str) -> None:
        with host.namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
            self._socket.bind((interface, 0x0806))
            index = socket.if_nametoindex(interface)
        self._socket.setsockopt(263, 1, index.to_bytes(4, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + bytes(10))
        self._target = int.from_bytes(socket.inet_aton(address), "big")
        self._frame = arp.probe(ASKER, self._target)

    def ask(self) -> float | None:
        """The round trip, seconds; None where no answer came within one."""
        started = time.perf_counter()
        self._socket.send(self._frame)
        while (left := started + 1 - time.perf_counter()) > 0 and select.select([self._socket], [], [], left)[0]:
            packet = arp.dissect(self._socket.recv(128))
            if isinstance(packet, ArpPacket) and packet.sender_ip == self._target and packet.target_mac == ASKER:
                return time.perf_counter() - started
        return None


def bare_tunnel(hosts: list[Host], kind: str) -> str:
    """A second tunnel between the two, with nothing around it; the name of its interface."""
    for number, host in enumerate(hosts, 1):
        remote = f"192.168.122.{3 - number}"
        if host.openvswitch is not None:
            words = [
                "add-br",
                "bare",
                "--",
                "set",
                "bridge",
                "bare",
                "datapath_type=netdev",
                "--",
                "add-port",
                "bare",
                "b0",
            ]
            words += ["--", "set", "interface", "b0", f"type={kind}", f"options:remote_ip={remote}", "options:key=7"]
            host.openvswitch.vsctl(*words)
        else:
            link = f"link add bare type vxlan id 7 local 192.168.122.{number} remote {remote} dstport 4790"
            host.namespace.ip([link])
        host.namespace.ip([f"addr add {BARE[:-1]}{number}/24 dev bare", "link set bare up"])
    return "bare"


def measure(kind: str, *, openvswitch: bool) -> dict[str, object]:
    """Both ways in turn."""
    with Lab() as lab:
        wire = lab.wire()
        hosts = [
            lab.host(
                f"host{n}",
                address=f"172.16.42.{n}/24",
                underlay=wire,
                underlay_address=f"192.168.122.{n}/24",
                tunnel=kind,
                openvswitch=openvswitch,
            )
            for n in (1, 2)
        ]
        lab.start()
        bare = bare_tunnel(hosts, kind)
        probers = Prober(hosts[0], hosts[0].bridge, "172.16.42.2"), Prober(hosts[0], bare, f"{BARE[:-1]}2")
        times: tuple[list[float], list[float]] = [], []
        lost = [0, 0]
        for number in range(WARM_UP + ROUNDS):
            for way, prober in enumerate(probers):
                answer = prober.ask()
                if number < WARM_UP:
                    continue
                if answer is None:
                    lost[way] += 1
                else:
                    times[way].append(answer)
    fabric, alone = (median(way) * 1e6 for way in times)
    return {
        "tunnel": kind,
        "switch": "Open vSwitch (userspace)" if openvswitch else "kernel",
        "fabric_us": round(fabric, 1),
        "bare_us": round(alone, 1),
        "ratio": round(fabric / alone, 2),
        "lost": sum(lost),
    }


def main() -> None:
    """Print a table, or with --json one object per line."""
    rows = [measure("gre", openvswitch=True), measure("vxlan", openvswitch=True), measure("vxlan", openvswitch=False)]
    if "--json" in sys.argv[1:]:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(*rows[0], title=f"An ARP probe across the fabric and over the bare tunnel, median of {ROUNDS}")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
