"""The stations that must answer on a network: the other hosts of the declared fabric, and the witnesses that are named.

While one of them is silent the network is cut: what is behind it would look free, so nothing is searched.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.link.task import Run
from arpipam.protocol.arp import address_texts
from arpipam.protocol.heartbeat import Heartbeat
from launcher.agent.contract import EventKind
from launcher.agent.network.gaps import WERE_SILENT
from launcher.agent.network.held import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arpipam.allocator import Allocator
    from launcher.agent.network.holdings import Holdings
    from launcher.agent.network.link import NetworkLink

LISTEN = 0.1  # s between two looks at whether all have answered


class RequiredWitnesses:
    """Those of the network `name`, by address with their names; `pulse` asks them while the link is open.

    `healed()` is called when all answer again, `soon(function, ...)` calls on the event loop from another thread.
    """

    def __init__(
        self,
        name: str,
        link: NetworkLink,
        holdings: Holdings,
        *,
        tell: Callable[..., None],
        healed: Callable[[], None],
        soon: Callable[..., None],
    ) -> None:
        self.names: Mapping[IPv4Address, str] = {}
        self.pulse: Heartbeat | None = None
        self._name = name
        self._link = link
        self._holdings = holdings
        self._tell = tell
        self._healed = healed
        self._soon = soon

    def ask(self, allocator: Allocator) -> None:
        """Ask all of them, and nobody else any more."""
        self.stop()
        link, hearing, count = allocator.link, allocator.loop.hearing, len(self.names)
        before: set[int] = set()

        def changed(silent: tuple[int, ...]) -> None:
            """Tell the link's clock at once, on its own thread."""
            if before - set(silent):  # what is behind those was not heard
                hearing.gap(WERE_SILENT, link.now())
            hearing.set_deaf(WERE_SILENT, WERE_SILENT if len(silent) == count else "", link.now())
            before.clear()
            before.update(silent)
            self._soon(self._changed, silent)

        allocator.loop.post(lambda: hearing.set_deaf(WERE_SILENT, "", link.now()))
        if self.names:
            self.pulse = Heartbeat(
                map(int, self.names),
                link.mac,
                allocator.own_address,
                now=link.now(),
                on_change=changed,
            )
            allocator.loop.run(Run(self.pulse))

    def moved(self, allocator: Allocator) -> None:
        """The link has another MAC or address by now; on the loop's thread."""
        if self.pulse is not None:
            self.pulse.follow(allocator.link.mac, allocator.own_address)

    def stop(self) -> None:
        """Ask nobody."""
        if self.pulse is not None:
            self.pulse.done = True
        self.pulse = None

    def silent(self) -> dict[IPv4Address, str]:
        """Those that do not answer."""
        silent = () if self.pulse is None else self.pulse.silent
        return {IPv4Address(address): self.names.get(IPv4Address(address), "") for address in silent}

    async def whole(self) -> bool:
        """Wait until all have answered from now on; False where one of them is silent."""
        at = self._link.allocator.link.now()
        while self.pulse is not None and not self.pulse.heard_since(at):
            if self.pulse.silent:
                return False
            await asyncio.sleep(LISTEN)
        return True

    def complaint(self) -> str:
        """Why nothing is searched, in one line."""
        names = address_texts(map(int, self.silent()), {int(address): name for address, name in self.names.items()})
        ready = f"{self._holdings.count(Role.READY)} ready addresses"
        left = f"{ready} wait until they can be probed again" if self._all_silent() else f"{ready} are left"
        return (
            f"{self._name}: no answer from {names}, whose containers would look free, so nothing is searched, and "
            f"{left}; fix the link, or mark a host that is gone for good as absent in the fabric file"
        )

    def _all_silent(self) -> bool:
        return self.pulse is not None and len(self.pulse.silent) == len(self.names)

    def _changed(self, silent: tuple[int, ...]) -> None:
        if silent:
            self._tell(EventKind.PARTITION, text=self.complaint())
        else:
            self._tell(EventKind.HEALED, text="all stations that must answer do so again; all claims are announced")
            self._healed()
