"""Is the fabric as declared, and does it carry frames? Each answer with its evidence and, where it is no, a remedy."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from icmplib import ICMPLibError, multiping

from arpipam.errors import ArpipamError, LinkError
from arpipam.fabric.last_seen import LastSeen
from arpipam.fabric.planner import UNDERLAY_BRIDGE, plan
from arpipam.fabric.steps import OVS, Step
from arpipam.fabric.survey_task import Look
from arpipam.link import floating
from arpipam.link.loop import Loop
from arpipam.link.socket import Link
from arpipam.link.task import Run
from arpipam.protocol import arp
from arpipam.protocol.timing import RATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arpipam.fabric.apply import Site
    from arpipam.fabric.config import DeclaredHost
    from arpipam.fabric.observed import Observed
    from arpipam.fabric.ovsdb import Ovsdb
    from arpipam.fabric.planner import Plan

UP = "arpipam fabric up"
_LARGEST_CENSUS = 4096
"""Addresses of the subnet that are asked at most."""
_IP_AND_ICMP = 28
_VIRTUAL_ROUTER = bytes.fromhex("00005e0001")
"""VRRP's MACs (RFC 5798, 7.3): the owner of the address has one more of its own."""
_BRIDGE_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
_FORWARDING = 3
_MUCH_LOSS = 0.3


class Condition(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but may not always."""
    FAULT = "fault"
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True)
class Finding:
    """One line of a check."""

    condition: Condition
    subject: str
    evidence: str
    remedy: str = ""


def check(site: Site) -> Iterator[Finding]:
    """Everything there is to say of this host's part of the fabric, and of its peers."""
    with ExitStack() as stack:
        try:
            database = site.database(stack)
            observed = site.observe(database)
            wanted = plan(site.fabric, site.local, observed)
        except ArpipamError as error:
            yield Finding(Condition.UNKNOWN, "host", str(error), "fix that first")
            return
        yield from _running(database)
        yield from _as_declared(site, wanted, observed)
        yield from _ports(site, observed)
        yield from _settings(site, observed)
        yield from _underlay(site)
        declared = site.local.address in {
            address for link in observed.kernel.links.values() for address in link.addresses
        }
        yield from _alive(site, wanted.mtu if declared else None, database)


def _fault(subject: str, evidence: str, remedy: str = UP) -> Finding:
    return Finding(Condition.FAULT, subject, evidence, remedy)


def _ok(subject: str, evidence: str) -> Finding:
    return Finding(Condition.OK, subject, evidence)


def _running(database: Ovsdb | None) -> Iterator[Finding]:
    """Whether somebody does what the database says."""
    if database is not None:
        try:
            database.alive()
        except LinkError as error:
            yield _fault("Open vSwitch", str(error), "systemctl restart openvswitch-switch")
        else:
            yield _ok("Open vSwitch", "ovs-vswitchd answers")


# As declared: what `up` would change is a fault, and the rest is well.


def _as_declared(site: Site, wanted: Plan, observed: Observed) -> Iterator[Finding]:
    fabric, local = site.fabric, site.local
    subjects: dict[str, str] = {f"bridge {fabric.bridge}": f"up, {local.address}, MTU {wanted.mtu}"}
    if observed.ovs is not None:
        subjects[f"Open vSwitch bridge {fabric.ovs_bridge}"] = f"datapath {wanted.datapath}, port of {fabric.bridge}"
        if wanted.datapath == "netdev":
            subjects[f"Open vSwitch bridge {UNDERLAY_BRIDGE}"] = "holds the underlay NIC"
    for peer in fabric.peers(local) if fabric.tunnel else []:
        subjects[f"tunnel to {peer.name}"] = f"{fabric.tunnel} from {local.underlay} to {peer.underlay}"
    pending: dict[str, list[str]] = {}
    for change in wanted.changes:
        pending.setdefault(_subject(site, change.do), []).append(change.do.lack)
    for port in observed.ovs.ports.values() if observed.ovs is not None else []:
        if port.error or port.ofport == -1:
            subject = next(
                (f"tunnel to {p.name}" for p in fabric.peers(local) if fabric.port_of(p) == port.name),
                f"Open vSwitch port {port.name}",
            )
            pending.setdefault(subject, []).append(f"Open vSwitch says: {port.error or 'not set up'}")
    for subject, evidence in subjects.items():
        if subject not in pending:
            yield _ok(subject, evidence)
    for subject, lines in pending.items():
        yield _fault(subject, "; ".join(lines))


def _subject(site: Site, step: Step) -> str:
    """What a change is about, as the reader of the check knows it."""
    fabric, local = site.fabric, site.local
    name = str(getattr(step, "name", ""))
    for peer in fabric.peers(local):
        if name == fabric.port_of(peer) or getattr(step, "remote", None) == str(peer.underlay):
            return f"tunnel to {peer.name}"
    if isinstance(step, OVS) or name in {fabric.ovs_bridge, UNDERLAY_BRIDGE}:
        return f"Open vSwitch bridge {UNDERLAY_BRIDGE if name == UNDERLAY_BRIDGE else fabric.ovs_bridge}"
    return f"bridge {fabric.bridge}" if name == fabric.bridge else f"link {name}"


def _ports(site: Site, observed: Observed) -> Iterator[Finding]:
    """Ports of the bridge that carry nothing, or keep probes to themselves."""
    links = observed.kernel.links.values()
    ports = [link for link in links if link.master == site.fabric.bridge]
    up = site.fabric.bridge in observed.kernel.links and observed.kernel.links[site.fabric.bridge].up
    closed = [p for p in ports if up and p.up and p.carrier and p.state not in (None, _FORWARDING)]
    for port in closed:
        yield _fault(
            f"port {port.name}",
            f"STP holds it: {_BRIDGE_STATES[port.state or 0]}",
            f"switch STP off, which these tunnels need not: ip link set {site.fabric.bridge} type bridge stp_state 0",
        )
    for port in ports:
        if port.neigh_suppress:
            yield _fault(
                f"port {port.name}",
                "neighbour suppression: probes do not leave by it, used addresses look free",
                f"bridge link set dev {port.name} neigh_suppress off",
            )
    if not closed:
        yield _ok("spanning tree", f"{len(ports)} ports, none held back")


# Settings of the kernel that spoil probing, or leave stale neighbours.


def _settings(site: Site, observed: Observed) -> Iterator[Finding]:
    bridge = site.fabric.bridge
    bad = False
    for name, most, evidence in (
        ("arp_ignore", 1, "this host does not answer for its own address"),
        ("proxy_arp", 0, "this host answers for addresses that are not its own"),
        ("arp_filter", 0, "this host may leave questions unanswered that arrive here"),
    ):
        values = {where: _sysctl(f"ipv4/conf/{where}/{name}") for where in ("all", bridge)}
        if max(value or 0 for value in values.values()) > most:
            where = max(values, key=lambda where: values[where] or 0)
            bad = True
            yield _fault(
                f"setting {name}",
                f"net.ipv4.conf.{where}.{name} = {values[where]}: {evidence}",
                f"sysctl -w net.ipv4.conf.{where}.{name}=0",
            )
    if _sysctl("bridge/bridge-nf-call-arptables"):
        yield Finding(
            Condition.WARNING,
            "setting bridge-nf-call-arptables",
            "arptables rules of this host apply to the containers' ARP",
            "sysctl -w net.bridge.bridge-nf-call-arptables=0",
        )
    stale = [name for name in ("arp_accept", "arp_notify") if not _sysctl(f"ipv4/conf/{bridge}/{name}")]
    if stale:
        yield Finding(
            Condition.WARNING,
            "setting " + ", ".join(stale),
            "after an address moves, neighbours may use the old MAC for a minute",
            "sysctl -w " + " ".join(f"net.ipv4.conf.{bridge}.{name}=1" for name in stale),
        )
    link = observed.kernel.links.get(bridge)
    if link is not None and (fix := floating.remedy(bridge, link.index, arp.mac_bytes(link.mac))):
        yield Finding(
            Condition.WARNING,
            f"MAC of {bridge}",
            f"{link.mac} is that of a port, and changes as containers come and go",
            fix,
        )
    if not bad:
        yield _ok("settings", "nothing that spoils probing")


def _sysctl(path: str) -> int | None:
    try:
        return int((Path("/proc/sys/net") / path).read_text())
    except (OSError, ValueError):
        return None


# The other hosts.


def _underlay(site: Site) -> Iterator[Finding]:
    peers = [peer for peer in site.fabric.peers(site.local) if peer.underlay is not None]
    if not peers or site.fabric.tunnel is None:
        return
    answers = _ping([str(peer.underlay) for peer in peers], 56)
    if answers is None:
        yield Finding(Condition.UNKNOWN, "underlay", "no ping may be sent", "run as root")
        return
    for peer in peers:
        round_trip = answers.get(str(peer.underlay))
        subject = f"underlay of {peer.name}"
        if round_trip is None:
            yield Finding(
                Condition.WARNING,
                subject,
                f"{peer.underlay} answers no ping",
                f"is {peer.name} up, and the network between you? (a firewall may swallow pings alone)",
            )
        else:
            yield _ok(subject, f"{peer.underlay} answers in {round_trip:.3g} ms")


def _ping(addresses: list[str], payload: int) -> dict[str, float] | None:
    """By address that answered: the shortest round trip, milliseconds; None where none may be sent."""
    try:
        answers = multiping(addresses, count=3, interval=0.1, timeout=0.7, payload_size=payload)
    except (OSError, ICMPLibError):
        return None
    return {answer.address: answer.min_rtt for answer in answers if answer.is_alive}


def _alive(site: Site, mtu: int | None, database: Ovsdb | None) -> Iterator[Finding]:
    fabric, local = site.fabric, site.local
    peers = fabric.peers(local)
    try:
        with Link(fabric.bridge, stp_timeout=0.0) as link:
            look = _look(site, link, peers)
    except ArpipamError as error:
        yield Finding(Condition.UNKNOWN, "link", str(error), UP)
        return
    if look.returned:
        yield _fault(
            "loop",
            f"a broadcast frame of ours came back {look.returned} times",
            "two ways lead to the same place: look for a second cable, tunnel or bridge between the hosts",
        )
    else:
        yield _ok("loop", "no frame of ours came back")
    yield from _doubles(look)
    learned = _learned(site, database)
    answering = [str(peer.address.ip) for peer in peers if int(peer.address.ip) in look.macs]
    full = _ping(answering, mtu - _IP_AND_ICMP) if answering and mtu else None
    for peer in peers:
        yield from _peer(peer, look, learned)
        if full is not None and int(peer.address.ip) in look.macs:
            if str(peer.address.ip) in full:
                yield _ok(f"path MTU to {peer.name}", f"packets of {mtu} bytes cross")
            else:
                yield _fault(
                    f"path MTU to {peer.name}",
                    f"packets of {mtu} bytes do not cross, small ones do",
                    "something between the underlays carries less than their MTU: raise it there, or set a lower mtu "
                    "in the file",
                )
    _remember(site, look, learned)


def _look(site: Site, link: Link, peers: list[DeclaredHost]) -> Look:
    fabric, local = site.fabric, site.local
    subnet: IPv4Network = fabric.subnet
    hosts = range(int(subnet.network_address) + 1, int(subnet.broadcast_address))
    everybody = hosts[:_LARGEST_CENSUS]
    look = Look(
        link.mac,
        int(local.address.ip),
        [int(peer.address.ip) for peer in peers],
        everybody,
        int(subnet.network_address),
        rng=random.Random(),
    )
    loop = Loop(link, RATE)
    try:
        return loop.run(Run(look)).future.result()
    finally:
        loop.close()


def _doubles(look: Look) -> Iterator[Finding]:
    doubles = {
        address: macs
        for address, macs in look.macs.items()
        if len(macs) > 1 and not any(mac.startswith(_VIRTUAL_ROUTER) for mac in macs)
    }
    own = look.macs.get(look.own)
    if own:
        doubles[look.own] = own
    for address, macs in sorted(doubles.items()):
        who = ", ".join(sorted(arp.mac_text(mac) for mac in macs))
        whose = "this host's own address, also at" if address == look.own else "at"
        yield _fault(
            f"address {IPv4Address(address)}",
            f"two stations have it: {whose} {who}",
            "take it from one of them",
        )
    if not doubles:
        yield _ok("addresses", f"{len(look.macs)} stations, no address twice")


def _learned(site: Site, database: Ovsdb | None) -> dict[str, str] | None:
    """By MAC: the host behind which it was learned; None where that cannot be told."""
    fabric, local = site.fabric, site.local
    try:
        observed = site.observe(database)
        if database is not None:
            ports = {fabric.port_of(peer): peer.name for peer in fabric.peers(local)}
            return {mac: ports.get(port, "") for mac, port in database.learned(fabric.ovs_bridge or "").items()}
    except ArpipamError:
        return None
    if fabric.tunnel is None:
        return None
    by_underlay = {str(peer.underlay): peer.name for peer in fabric.peers(local)}
    by_port = {fabric.port_of(peer): peer.name for peer in fabric.peers(local)}
    return {
        mac: by_underlay.get(remote) or by_port[name]
        for (name, mac), remote in observed.kernel.stations.items()
        if remote in by_underlay or name in by_port
    }


def _peer(peer: DeclaredHost, look: Look, learned: dict[str, str] | None) -> Iterator[Finding]:
    address, subject = int(peer.address.ip), f"peer {peer.name}"
    round_trip = look.round_trip(address)
    if round_trip is None:
        yield _fault(
            subject,
            f"{peer.address.ip} answers no ARP request",
            f"on {peer.name}: arpipam fabric check; is it gone on purpose, say absent = true",
        )
        return
    loss = look.lost(address)
    evidence = f"{peer.address.ip} answers in {round_trip * 1000:.3g} ms, {loss:.0%} lost"
    behind = {learned.get(arp.mac_text(mac), "") for mac in look.macs[address]} if learned is not None else set()
    if learned is not None and behind != {peer.name}:
        where = ", ".join(sorted(filter(None, behind))) or "this host's own ports"
        yield _fault(subject, f"{evidence}, but from behind {where}, not through its own tunnel")
    elif loss > _MUCH_LOSS:
        yield Finding(Condition.WARNING, subject, evidence, "fix the underlay: probing takes long, or gives up")
    else:
        yield _ok(subject, evidence)


def _remember(site: Site, look: Look, learned: dict[str, str] | None) -> None:
    """Who was seen behind whom: it stays reserved should that host be gone on purpose."""
    seen = {
        IPv4Address(address): host
        for address, macs in look.macs.items()
        for mac in macs
        if (host := (learned or {}).get(arp.mac_text(mac)))
    }
    if seen:
        LastSeen(site.state_dir, site.fabric.bridge).record(seen)
