"""What the engine has made of a network, against what was meant: the driver, the device, the bridge's addresses.

Docker does not tell its IPAM driver any of these when it asks for a pool. They are known once the engine shows the
network; until then the first container waits for a moment.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from arpipam.errors import ArpipamError, InputError
from arpipam.link.netlink import NoInterfaceError
from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Interface

    from arpipam.link.netlink import Facts
    from launcher.agent.edges import Edges
    from launcher.engine.model import AttachedNetwork

FIRST_LOOK = 2.0  # s from the request of a pool in which a container waits until the engine shows the network


class Made:
    """The Docker networks of one pool on `interface`. `tell(kind, text=…)` records an event of the network.

    `on_mismatch(text)` is called once for each mismatch.
    """

    def __init__(self, interface: str, tell: Callable[..., None], edges: Edges) -> None:
        self.mismatch = ""
        """Why nothing is handed out, in one line; empty while all is as it was meant."""
        self.on_mismatch: Callable[[str], None] = lambda _: None
        self._interface = interface
        self._tell = tell
        self._edges = edges
        self._before: tuple[IPv4Interface, ...] | None = None
        """The addresses of the bridge before the engine made its network; None once that is compared."""
        self._since = float("-inf")
        self._shown = asyncio.Event()
        self._shown.set()

    def expect(self, before: Facts | None, *, new: bool) -> None:
        """The engine is about to make a network, or has started and has made it already (`new` False)."""
        self._since = self._edges.monotonic()
        self._before = None
        if new:
            self._before = before.prefixes if before is not None and before.is_bridge else None
            self._shown.clear()

    async def check(self) -> None:
        """Raise InputError where the engine has made something else than was meant."""
        if not self._shown.is_set():
            with suppress(TimeoutError):
                left = self._since + FIRST_LOOK - self._edges.monotonic()
                await asyncio.wait_for(self._shown.wait(), max(0.0, left))
            self._shown.set()  # an engine that shows nothing is waited for once
        if self.mismatch:
            raise InputError(self.mismatch)

    async def compare(self, shown: Sequence[AttachedNetwork], at: float, count: int = 1) -> None:
        """The engine has shown these networks of the pool, `at` a monotonic time; there should be so many."""
        if at <= self._since:
            return
        wrong = [docker for docker in shown if misplaced(docker, self._interface, is_bridge=None)]
        facts: Facts | None = None
        if wrong or (shown and self._before is not None):  # the kernel is not asked at every look
            with suppress(ArpipamError):  # without them nothing is known of the bridge, and the rest is compared
                facts = await self._edges.in_thread(self._edges.facts, self._interface)
            if at <= self._since:  # asked for once more meanwhile
                return
        is_bridge = None if facts is None else facts.is_bridge
        found = misplaced(wrong[0], self._interface, is_bridge=is_bridge) if wrong else ""
        if not found and shown and facts is not None and self._before is not None:
            found = replaced(shown[0].name, self._interface, self._before, facts.prefixes)
            if not found:
                self._before = None  # what becomes of the bridge from now on is not the engine's doing
        before, self.mismatch = self.mismatch, found
        if found and found != before:
            self.on_mismatch(found)
        elif before and not found:
            self._tell(EventKind.WORKS_AGAIN, text="the engine has the network as it was meant, or has it no more")
        if len(shown) >= count:
            self._shown.set()


def misplaced(docker: AttachedNetwork, interface: str, *, is_bridge: bool | None) -> str:
    """What is wrong with the Docker network, in one line that says what to do; empty where nothing is.

    `is_bridge`: whether the interface is one; None where that is not known. What drivers make that are no part of the
    engine is not known either.
    """
    name = shown_name(docker.name)
    macvlan = f"-d macvlan -o parent={interface}"
    remedy = f"-o com.docker.network.bridge.name={interface}" if is_bridge else macvlan
    again = f"so nothing is handed out; remove it (docker network rm {name}) and make it anew with"
    if docker.driver == "ipvlan":
        return (
            f"the containers of {name} (driver ipvlan) share one MAC address, by which none can be told to have an "
            f"address, {again} {remedy}"
        )
    if docker.driver == "bridge" and docker.device != interface:
        return f"the engine has made {name} (driver bridge) on {docker.device} and not on {interface}, {again} {remedy}"
    if docker.driver == "macvlan" and docker.device != interface:
        parent = f"the parent {docker.device}" if docker.device else "a parent of its own"
        return f"the engine has made {name} (driver macvlan) with {parent} and not with {interface}, {again} {macvlan}"
    return ""


def replaced(name: str, interface: str, before: Sequence[IPv4Interface], after: Sequence[IPv4Interface]) -> str:
    """What the engine took from the bridge, in one line; empty where it took nothing."""
    lost = [str(prefix) for prefix in before if prefix not in after]
    if not lost:
        return ""
    gained = [str(prefix) for prefix in after if prefix not in before]
    name = shown_name(name)
    return (
        f"with the network {name} the engine has changed {interface} from {', '.join(lost)} to "
        f"{', '.join(gained) or 'no address'}, so nothing is handed out; remove it (docker network rm {name}), then "
        f"set the address again: ip addr add {lost[0]} dev {interface}"
    )


def missing(interface: str, error: ArpipamError) -> ArpipamError:
    """The error of a link that is not there; of a VLAN's, what Docker does not do by itself here."""
    parent, _, tag = interface.rpartition(".")
    if not (parent and tag.isdecimal() and isinstance(error, NoInterfaceError)):
        return error
    return InputError(
        f"{interface} is not there, and Docker would make it only after the pool is asked for; make it first: ip link "
        f"add link {parent} name {interface} type vlan id {tag}, then ip link set {interface} up"
    )


def shown_name(name: str) -> str:
    """The name of a Docker network, which may hold anything, within one line."""
    return name if name.isprintable() and " " not in name else repr(name)
