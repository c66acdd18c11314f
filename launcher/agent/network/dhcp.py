"""What DHCP servers give out on the link of one network: shown, warned of where it is the pool's, and kept out of.

A server's range is not told to anybody. What is known of it is what it was seen to give out: it is taken to reach from
the lowest to the highest of these addresses.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arpipam.errors import InputError
from arpipam.protocol import dhcp
from arpipam.protocol.pool import Pool
from launcher.agent.contract import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Network
    from typing import Any

    from arpipam.link.dhcp_socket import DhcpSocket
    from launcher.agent.edges import Edges

MOST_SERVERS = 8  # that are remembered; of more, those that were heard last
AT_ONCE = 64  # frames that are read at one go
MOST_FRAMES = 256  # that are read in a second; a flood costs no more than these
BUSY = 50_000  # frames a second of a link on which DHCP is not heard: each costs 0.6 us, 3 % of a processor in all
LOOK = 10.0  # s between two looks at how busy it is
TELL_AGAIN = 3600.0  # s after which a server is told of again, where it gives out more than it did


@dataclass
class Server:
    """A DHCP server, and the lowest and the highest address of the subnet that it was seen to give out."""

    address: IPv4Address
    first: int
    last: int
    overlap: int | None = None
    """One of them that lies in the pool."""
    told: float | None = None

    def __str__(self) -> str:
        return f"{self.address} gives out {self.span}"

    @property
    def span(self) -> str:
        """From the lowest to the highest."""
        return f"{IPv4Address(self.first)}-{IPv4Address(self.last)}"


class DhcpWatch:
    """Hears DHCP on a link while it is open. For the event loop.

    `usual()` are the options that say what may be given out. Where `keeps_out()`, nothing of a server's is: `let_go()`
    is told of the addresses that are kept out of, whenever there are more of them.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        *,
        usual: Callable[[], Mapping[str, Any]],
        keeps_out: Callable[[], bool],
        let_go: Callable[[Pool], None],
        tell: Callable[..., None],
        edges: Edges,
    ) -> None:
        self.malformed = 0
        """Frames that no honest machine sends."""
        self._subnet = subnet
        self._usual = usual
        self._keeps_out = keeps_out
        self._let_go = let_go
        self._tell = tell
        self._edges = edges
        self._servers: dict[int, Server] = {}
        self._socket: DhcpSocket | None = None
        self._left = MOST_FRAMES
        self._second = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._interface = ""
        self._received = 0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def servers(self) -> list[Server]:
        """Those that were heard, by their addresses."""
        return sorted(self._servers.values(), key=lambda server: server.address)

    def warnings(self) -> tuple[str, ...]:
        """What is wrong, in a line for each server."""
        if self._keeps_out():
            return ()
        return tuple(self._complaint(server) for server in self.servers if server.overlap is not None)

    def excluded(self) -> tuple[str, ...]:
        """The ranges that are kept out of."""
        return tuple(server.span for server in self.servers) if self._keeps_out() else ()

    def keep_out(self) -> None:
        """What is kept out of may not wait to be handed out either."""
        if spans := self.excluded():
            self._let_go(Pool(self._subnet, ranges=spans))

    def open(self, interface: str) -> None:
        """Hear what is on this interface, while it is not too busy."""
        self.close()
        self._interface, self._received = interface, self._edges.received(interface)
        self._listen()
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def close(self) -> None:
        """Hear nothing more; what is known stays."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._deafen()

    def _look(self) -> None:
        """Whether the link is too busy, or calm again."""
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)
        before, self._received = self._received, self._edges.received(self._interface)
        if self._received - before > BUSY * LOOK:
            self._deafen()
        elif self._socket is None:
            self._listen()

    def _listen(self) -> None:
        with suppress(OSError):  # it has just vanished, as the link will find out
            self._socket = self._edges.hear_dhcp(self._interface)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _deafen(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def frame(self, frame: bytes) -> None:
        """Take in a frame."""
        given = dhcp.dissect(frame)
        if isinstance(given, dhcp.DhcpRefusal):
            self.malformed += given in dhcp.MALFORMED
        elif IPv4Address(given.address) in self._subnet:
            self._note(given)

    def _read(self) -> None:
        assert self._socket is not None  # noqa: S101 - it is read while it is open
        now, loop = self._edges.monotonic(), asyncio.get_running_loop()
        if now - self._second >= 1.0:
            self._second, self._left = now, MOST_FRAMES
        frames = self._socket.receive(min(AT_ONCE, self._left))
        self._left -= len(frames)
        for frame in frames:
            self.frame(frame)
        if not self._left and self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            self._pause = loop.call_later(1.0, loop.add_reader, self._socket.fileno(), self._read)

    def _note(self, given: dhcp.Given) -> None:
        server = self._servers.pop(given.server, None)
        new = server is None
        if server is None:
            server = Server(IPv4Address(given.server), given.address, given.address)
        grown = new or not server.first <= given.address <= server.last
        server.first, server.last = min(server.first, given.address), max(server.last, given.address)
        self._servers[given.server] = server  # the last one is the one that was heard last
        while len(self._servers) > MOST_SERVERS:
            del self._servers[next(iter(self._servers))]
        if not grown:
            return
        usual = self._usual()
        with suppress(InputError):  # a pool without addresses overlaps with nothing
            if given.address in Pool(self._subnet, ranges=usual["ranges"], exclude=usual["exclude"]):
                server.overlap = given.address
        self._tell_of(server)
        self.keep_out()

    def _tell_of(self, server: Server) -> None:
        now = self._edges.monotonic()
        if server.overlap is None or (server.told is not None and now - server.told < TELL_AGAIN):
            return
        server.told = now
        text = (
            f"DHCP server {server}; none of these is given out here" if self._keeps_out() else self._complaint(server)
        )
        self._tell(EventKind.DHCP, address=str(IPv4Address(server.overlap)), text=text)

    def _complaint(self, server: Server) -> str:
        assert server.overlap is not None  # noqa: S101 - else there is nothing to complain of
        return (
            f"DHCP server {server}, and {IPv4Address(server.overlap)} is in this pool: take a pool outside of its "
            'range, for example with --ip-range, or keep out of what it gives out with exclude = "dhcp"'
        )
