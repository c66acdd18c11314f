"""What each kind of network costs a probe, and whether the first one over a cold tunnel arrives."""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from arpipam.lab import Lab
from arpipam.protocol import arp
from arpipam.protocol.arp import ArpPacket
from bench.harness import Case, Plot, Scenario, nothing
from bench.results import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from arpipam.lab import Namespace
    from bench.harness import Taken, Values

VETH, BRIDGE = "bare veth", "bridge"
OVS = "bridge + Open vSwitch"
GRE, VXLAN, KERNEL_VXLAN = "GRE (Open vSwitch)", "VXLAN (Open vSwitch)", "VXLAN (kernel)"
COLD, WARM = "cold", "warm"
BATCH = 100
PATIENCE = 1.0
_ASKER = bytes.fromhex("02a1b2c3d4e6")
_FAR = "172.16.42.2"
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1


class Way:
    """Where questions are asked, over one socket: to close one takes the kernel longer than an answer does."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
            index = socket.if_nametoindex(interface)
        self._socket.bind((interface, 0x0806))
        membership = index.to_bytes(4, sys.byteorder) + _PROMISCUOUS.to_bytes(2, sys.byteorder) + bytes(10)
        self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        self._target = int.from_bytes(socket.inet_aton(_FAR), "big")
        self._frame = arp.probe(_ASKER, self._target)

    def ask(self) -> Values:
        """One probe; lost where no answer came within a second."""
        started = time.perf_counter()
        self._socket.send(self._frame)
        while (left := started + PATIENCE - time.perf_counter()) > 0 and select.select([self._socket], [], [], left)[0]:
            packet = arp.dissect(self._socket.recv(128))
            if isinstance(packet, ArpPacket) and packet.sender_ip == self._target and packet.target_mac == _ASKER:
                return {"round trip": time.perf_counter() - started, "lost": 0.0}
        return {"lost": 1.0}

    def close(self) -> None:
        """No more questions."""
        self._socket.close()


class Fabric(Scenario[None]):
    """One question at a time over each way, in turn."""

    name = "fabric"
    title = "a probe's round trip over each kind of network"
    about = """
        A probe is sent from one host for the address of another, and the next one when it is answered. `warm`: the way
        has carried frames before. `cold`: these are the first frames since it came up. All ways of a case stand side by
        side and are asked in turn. No arpipam is in this but its frames: it says what a network costs any ARP probe.
        """
    metrics = (Metric(name="round trip"), Metric(name="lost", share=True))
    plots = (
        Plot(
            "round-trip",
            "round trip",
            "way",
            "The round trip of a probe, and the first ones after coming up",
            log_y=True,
        ),
    )
    reference = VETH

    def world(self) -> AbstractContextManager[None]:
        """Each case has a lab of its own, or nothing would be cold."""
        return nothing()

    def cases(self) -> Iterable[Case]:
        """Cold and warm."""
        yield Case({"way": COLD}, 1 if self.quick else 5, {OVS: 0, VXLAN: 0} if self.quick else {})
        yield Case({"way": WARM}, 2 if self.quick else 10)

    @contextmanager
    def subjects(self, world: None, case: Case) -> Iterator[Mapping[str, Callable[[int], Taken]]]:  # noqa: ARG002
        """Every way; a cold one is made anew for every sample."""
        if case.vary["way"] == COLD:

            def cold(kind: str) -> Callable[[int], Taken]:
                def take(_: int) -> Taken:
                    with Lab() as lab, closing(build(lab, kind)) as way:
                        return [way.ask()]

                return take

            yield {kind: cold(kind) for kind in KINDS}
            return

        def warm(way: Way) -> Callable[[int], Taken]:
            return lambda _: [way.ask() for _ in range(BATCH)]

        with Lab() as lab, ExitStack() as stack:
            ways = {kind: stack.enter_context(closing(build(lab, kind))) for kind in KINDS}
            for way in ways.values():
                for _ in range(BATCH):
                    way.ask()
            yield {kind: warm(way) for kind, way in ways.items()}


KINDS = (VETH, BRIDGE, OVS, GRE, VXLAN, KERNEL_VXLAN)


def build(lab: Lab, kind: str) -> Way:
    """A network of that kind whose far end has the address."""
    tag = str(KINDS.index(kind))
    if kind == VETH:
        near, far = lab.namespace("near"), lab.namespace("far")
        near.ip([f"link add eth0 type veth peer name eth0 netns {far.name}", "link set eth0 up"])
        far.ip([f"addr add {_FAR}/24 dev eth0", "link set eth0 up"])
        return Way(near, "eth0")
    if kind in {BRIDGE, OVS}:
        wire = lab.wire()
        hosts = [lab.host(f"b{tag}{n}", wire, f"172.16.42.{n}/24") for n in (1, 2)]
        lab.start()
        if kind == OVS:
            return _behind_switch(lab, hosts[0].namespace, tag)
        return Way(hosts[0].namespace, hosts[0].bridge)
    wire = lab.wire()
    tunnel = "gre" if kind == GRE else "vxlan"
    hosts = [
        lab.host(
            f"t{tag}{n}",
            address=f"172.16.42.{n}/24",
            underlay=wire,
            underlay_address=f"192.168.122.{n}/24",
            tunnel=tunnel,
            openvswitch=kind != KERNEL_VXLAN,
        )
        for n in (1, 2)
    ]
    lab.start()
    return Way(hosts[0].namespace, hosts[0].bridge)


def _behind_switch(lab: Lab, namespace: Namespace, tag: str) -> Way:
    """An Open vSwitch whose bridge is a port of the Linux bridge, and a port of the switch to ask from."""
    from arpipam.lab.openvswitch import OpenVSwitch  # noqa: PLC0415 - for this way only

    switch = OpenVSwitch(namespace, lab.directory / f"ovs{tag}")
    switch.start()
    namespace.ip(["link add inner type veth peer name outer", "link set inner up", "link set outer up"])
    words = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "--", "add-port", "br0", "outer"]
    switch.vsctl(*words)
    namespace.ip(["link set br0 master docker0 up"])
    return Way(namespace, "inner")
