"""The ways by which frames reach a link from beyond this host, and whether one of them is open.

Of a bridge these are its ports, less those that lead to a container of this host and end there. A container proves
nothing of what lies beyond, and while no way is open, all that lies beyond is silent.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from arpipam.link import rtnetlink
from arpipam.link.forwarding import Forwarding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from arpipam.link.news import News
    from arpipam.link.rtnetlink import LinkNote, Questions

_IFF_LOOPBACK = 0x8
PASSES = 0x40 | 0x10000
"""IFF_RUNNING and IFF_LOWER_UP: each lags behind the other for up to a second."""
_FORWARDING = 3
"""BR_STATE_FORWARDING (linux/if_bridge.h)."""
_LATER = 5
"""How often the other end of a port is looked at while it seems to be on its way."""


class Ways:
    """Those of the interface with this index. `follow` is for the link's thread, `refresh` for any that may wait."""

    def __init__(self, interface: str, index: int, news: News, *, is_bridge: bool) -> None:
        self.closed = ""
        """Why no frame can come in; empty where one can, or where there is no way at all."""
        self.openings = 0
        """How often a way has opened since: what lies behind it was not heard before."""
        self.stale = True
        """There may be something to `follow`."""
        self._interface = interface
        self._index = index
        self._news = news
        self._is_bridge = is_bridge
        self._forwarding = Forwarding(index, news.questions) if is_bridge else None
        self._leads_out: dict[tuple[int, int, int | None], bool | None] = {}
        """Of ports, by index and other end: whether they lead beyond this host; None: not to be told yet."""
        self._looks: dict[tuple[int, int, int | None], int] = {}
        self._leads_somewhere = False
        """There is a way, open or not."""
        self._open: dict[int, int] | None = None
        """The ways that are open, each with its count of carriers."""
        self._looking = threading.Lock()

    def refresh(self) -> None:
        """Look at ports that are not known yet, and at the forwarding table."""
        if self._forwarding is None:
            return
        self._forwarding.refresh()
        with self._looking:
            links = self._news.links
            known = {}
            for port in self._ports():
                key = _key(port)
                before = self._leads_out.get(key)
                known[key] = before if before is not None else leads_out(port, links, self._news.questions)
            self.stale |= known != self._leads_out
            self._leads_out = known
            self._looks = {key: self._looks.get(key, 0) + 1 for key, led in known.items() if led is None}

    def follow(self) -> None:
        """Links have changed."""
        self.stale = False
        ways = self._ways()
        self._leads_somewhere = bool(ways)
        passing = {note.number: note.carriers for note in ways if _passes(note, port=self._is_bridge)}
        before, self._open = self._open, passing
        if before is not None and any(before.get(index) != carriers for index, carriers in passing.items()):
            self.openings += 1
        self.closed = "" if passing or not ways else self._said(ways)
        if self._is_bridge and any(self._unknown(port) for port in self._ports()):
            threading.Thread(target=self._look, name=f"ports of {self._interface}", daemon=True).start()

    def outward(self, mac: bytes) -> bool:
        """Whether a station that has just answered is beyond this host. In doubt it is: not every bridge learns.

        Where no way leads beyond, nobody is, and a container is as good a witness as can be had.
        """
        if self._forwarding is None or not self._leads_somewhere:
            return True
        index = self._forwarding.port(mac)
        if index is None:
            return True
        port = self._news.links.get(index)
        return port is not None and self._leads_out.get(_key(port)) is True

    def close(self) -> None:
        """Follow no more."""
        if self._forwarding is not None:
            self._forwarding.close()

    def _ways(self) -> list[LinkNote]:
        if not self._is_bridge:
            own = self._news.links.get(self._index)
            return [] if own is None else [own]
        return [port for port in self._ports() if self._leads_out.get(_key(port))]

    def _ports(self) -> list[LinkNote]:
        return [link for link in list(self._news.links.values()) if link.master == self._index]

    def _unknown(self, port: LinkNote) -> bool:
        key = _key(port)
        return self._leads_out.get(key) is None and self._looks.get(key, 0) < _LATER and not self._looking.locked()

    def _look(self) -> None:
        try:
            self.refresh()
        except OSError:  # the link is closed, or a namespace is gone: the next news tell
            return

    def _said(self, ways: Iterable[LinkNote]) -> str:
        if not self._is_bridge:
            return f"{self._interface} has no carrier: plug it in"
        names = ", ".join(sorted(way.name for way in ways))
        return (
            f"{self._interface}: no port that leads beyond this host ({names}) has a carrier and forwards, so nobody "
            "there can be heard; plug it in, or bring up what is at its other end"
        )


def leads_out(port: LinkNote, links: Mapping[int, LinkNote], questions: Questions) -> bool | None:
    """Whether a bridge's port leads to more than one end station in another namespace of this host.

    None where that cannot be told yet: an engine makes the other end here, moves it, and configures it last. What we
    may not look into leads out.
    """
    if port.kind != "veth":
        return True
    if port.space is None:
        peer = links.get(port.link)
        return True if peer is not None and (peer.flags & rtnetlink.UP or peer.master) else None
    try:
        there = {link.number: link for link in questions.links(port.space)}
        addressed = {address.number for address in questions.addresses(port.space)}
    except OSError as error:
        return True if isinstance(error, PermissionError) else None
    return _leads_on(port, there, addressed)


def _leads_on(port: LinkNote, there: Mapping[int, LinkNote], addressed: Collection[int]) -> bool | None:
    """The same of a port whose other end is among the links `there`, of which those `addressed` have addresses."""
    peer = there.get(port.link)
    if peer is None or peer.link != port.number:
        return None
    upon_it = any(link.link == peer.number and link.space is None for link in there.values())
    if peer.master or peer.promiscuity or upon_it:
        return True
    others = {link.number for link in there.values() if link.flags & rtnetlink.UP and not link.flags & _IFF_LOOPBACK}
    return False if peer.number in addressed or not others - {peer.number} else None


def _passes(note: LinkNote, *, port: bool) -> bool:
    return note.flags & PASSES == PASSES and (not port or note.port_state == _FORWARDING)


def _key(port: LinkNote) -> tuple[int, int, int | None]:
    return port.number, port.link, port.space
