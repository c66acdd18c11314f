"""The link: the packet socket that arpipam sends and receives on, and the clock of everything that runs over it."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from arpipam.errors import LinkError
from arpipam.link import bpf, floating, netlink
from arpipam.link.mmsg import Messages
from arpipam.link.news import News
from arpipam.link.ways import Ways

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet
    from ipaddress import IPv4Interface
    from types import TracebackType

    from arpipam.protocol.interest import Interest

_log = logging.getLogger(__name__)

# linux/if_packet.h, linux/if_ether.h and asm-generic/socket.h, as far as Python's socket module lacks them
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 1, 1
_PACKET_STATISTICS = 6
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33

_RECEIVE_BUFFER = 64 * 1024 * 1024
"""Room for the answers of a /16 at once; the kernel counts some 800 bytes for each, and takes only what is used."""
_SNAP = 64
"""Bytes of a frame that are kept: ARP needs 42, and 12 more where the padding says something (arp.py)."""
MOST_AT_ONCE = 256
"""Frames in one system call."""
_NO_ROOM = (errno.ENOBUFS, errno.EAGAIN)
_SEND_PAUSES = (0.0, 0.0001, 0.0005)
"""Seconds before each new try of a frame that the kernel had no room for."""
_POLL = 0.05
"""Seconds between two looks at what is waited for."""
_SETTLE = 2.0
"""Seconds that a link which has just been joined or switched on gets to have a carrier."""
_PATIENCE = 0.3
"""Seconds that an engine gets to finish plugging in a container."""


class Link:
    """An interface, opened for ARP: every untagged ARP frame on the link is received, but never our own.

    Its MAC, addresses and ports are those that the kernel told of last, never those of its opening.

    The socket takes all protocols and lets the kernel filter, since only so does it hear what other processes of this
    host send. It is promiscuous, since the answers to our probes go to a MAC that the interface does not have (yet).

    `stp_timeout` bounds the wait for bridge ports that STP still holds, in seconds; `progress` is told of such a wait.
    Raises InputError (no such interface, or a port of a bridge) and LinkError (down, no carrier, no ARP, not
    permitted).
    """

    def __init__(
        self, interface: str, *, stp_timeout: float = 35.0, progress: Callable[[str], None] | None = None
    ) -> None:
        self.interface = interface
        with ExitStack() as opened:
            self._news = News()  # from here on it tells what changes
            opened.callback(self._news.close)
            facts = netlink.facts(interface)
            self.index = facts.index
            self._mac = facts.mac
            self._ways = Ways(interface, facts.index, self._news, is_bridge=facts.is_bridge)
            opened.callback(self._ways.close)
            self.look()
            self._settle(stp_timeout, progress)
            self._socket = self._open()
            self._opened = opened.pop_all()
        self._seen = 0
        """The version of the news that was looked at last."""
        self._sender: tuple[bytes, tuple[IPv4Interface, ...]] | None = None
        self.news()
        self._sending, self._receiving = Messages(MOST_AT_ONCE, _SNAP), Messages(MOST_AT_ONCE, _SNAP)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._news, select.POLLIN)
        self._wake_fd: int | None = None

    def look(self) -> None:
        """Ask the kernel anew for what it does not tell by itself; waits, and raises as the constructor does."""
        facts = netlink.facts(self.interface)
        self.gateways = facts.gateways
        """Next hops that are routed over this interface."""
        self.neighbours = facts.neighbours
        """Stations on it that the kernel has spoken with."""
        self.is_bridge = facts.is_bridge
        self._news.read()
        try:
            self._ways.refresh()
        except OSError as error:  # it has just been removed
            raise self._trouble(error) from None

    def news(self) -> bool:
        """Take in what the kernel has told; whether the interface's MAC or addresses are others now. Never waits."""
        self._news.read()
        if self._seen == self._news.version and not self._ways.stale:
            return False
        self._seen = self._news.version
        self._ways.follow()
        if not self._news.up(self.index):  # its addresses go with it: that is told by `receive`, with the true reason
            return False
        before, self._sender = self._sender, (self.mac, self.prefixes)
        return before is not None and before != self._sender

    @property
    def mac(self) -> bytes:
        """Of the interface."""
        known = self._news.links.get(self.index)
        if known is not None:
            self._mac = known.mac
        return self._mac

    @property
    def prefixes(self) -> tuple[IPv4Interface, ...]:
        """The IPv4 addresses of this interface."""
        return self._news.prefixes(self.index)

    @property
    def local_addresses(self) -> AbstractSet[int]:
        """Those of all interfaces of this network namespace, kept up to date in place."""
        return self._news.local_addresses

    @property
    def local_macs(self) -> AbstractSet[bytes]:
        """Theirs, kept up to date in place."""
        return self._news.local_macs

    @property
    def closed(self) -> str:
        """Why nobody beyond this host can be heard; empty where somebody may be."""
        return self._ways.closed

    @property
    def openings(self) -> int:
        """How often a way to stations beyond this host has opened since."""
        return self._ways.openings

    def outward(self, mac: bytes) -> bool:
        """Whether the station that has just answered under this MAC is beyond this host."""
        return self._ways.outward(mac)

    def has(self, mac: bytes, address: int) -> bool:
        """Whether frames may be sent from this MAC and address (0: none) as the interface's own."""
        return mac == self.mac and (not address or any(int(prefix.ip) == address for prefix in self.prefixes))

    def _open(self) -> socket.socket:
        try:
            # protocol 0 receives nothing until the socket is bound, so that no frame ever passes by the filter
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise self._trouble(error) from None
        try:
            _attach(sock, None)
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            except PermissionError:  # needs CAP_NET_ADMIN; without it, as much as net.core.rmem_max allows
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            membership = struct.pack("iHH8s", self.index, _PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            sock.bind((self.interface, _ETH_P_ALL))
        except OSError as error:
            sock.close()
            raise self._trouble(error) from None
        return sock

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, frames: Sequence[bytes]) -> int:
        """Send frames, `MOST_AT_ONCE` at most; how many the kernel took, fewer where it has no room just now.

        Raises LinkError when the link is down or gone.
        """
        taken = 0
        pauses = iter(_SEND_PAUSES)
        while taken < len(frames):
            try:
                taken += self._sending.send(self.fileno(), frames[taken:])
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise self._trouble(error, self._socket) from None
                pause = next(pauses, None)
                if pause is None:
                    break
                time.sleep(pause)
        return taken

    def receive(self, limit: int = 4096) -> list[bytes]:
        """The frames that have arrived, `limit` at most; never waits.

        Raises LinkError when the link is down or gone.
        """
        frames: list[bytes] = []
        try:
            while len(frames) < limit:
                frames += self._receiving.receive(self.fileno(), limit - len(frames))
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._trouble(error, self._socket) from None
        return frames

    def drops(self) -> int:
        """Frames that the kernel dropped on this socket since the last call, for want of room (packet(7))."""
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(dropped)

    def focus(self, interest: Interest | None) -> None:
        """Receive only what is of interest from now on (None: all ARP); what has arrived already stays."""
        _attach(self._socket, interest)

    def rest(self, seconds: float) -> None:
        """Let so much time pass; what arrives meanwhile waits."""
        time.sleep(seconds)

    def wait(self, timeout: float | None, wake_fd: int | None = None) -> None:
        """Wait until a frame arrives, the kernel tells something or `wake_fd` can be read, at most `timeout` seconds.

        A signal does not end it, and a link that goes down does: `receive` tells.
        """
        if wake_fd != self._wake_fd:
            if self._wake_fd is not None:
                self._poll.unregister(self._wake_fd)
            if wake_fd is not None:
                self._poll.register(wake_fd, select.POLLIN)
            self._wake_fd = wake_fd
        if timeout is None:
            self._poll.poll()
            return
        # poll(2) counts milliseconds, and a search that is late by half of one at each of its steps is late by ten.
        until = self.now() + timeout
        if not self._poll.poll(int(max(0.0, timeout) * 1000)) and (rest := until - self.now()) > 0:
            time.sleep(rest)

    def plainly_alone(self) -> bool:
        """Whether the link plainly has no other end: a bridge whose ports, if any, all lead to containers of this host.

        Any doubt means no.
        """
        if not self.is_bridge:
            return False
        until = self.now() + _PATIENCE
        while (alone := netlink.ends_here(self.index, self._news.questions)) is None and self.now() < until:
            time.sleep(_POLL)
        return alone is True

    def fix_mac(self) -> str:
        """The command that fixes the MAC of this bridge; empty where it cannot change with its ports."""
        return floating.remedy(self.interface, self.index, self.mac) if self.is_bridge else ""

    def close(self) -> None:
        """Close the sockets; the interface leaves promiscuous mode by itself."""
        self._socket.close()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, stp_timeout: float, progress: Callable[[str], None] | None) -> None:
        """Wait until frames can leave: an interface that has just been switched on needs a moment for that.

        A bridge port in STP's listening or learning state swallows probes, up to 30 s after it came up (IEEE 802.1D),
        and the bridge has no carrier before its first port forwards. A bridge without ports needs none.
        """
        started = open_since = self.now()
        told = False
        while True:
            state = netlink.condition(self.index, self._news.questions)
            if state is None:
                raise netlink.gone(self.interface)
            if not state.up:
                raise netlink.down(self.interface)
            now = self.now()
            if state.held:
                open_since = now
                ports = ", ".join(state.held)
                if now - started >= stp_timeout:
                    raise LinkError(
                        f"{self.interface}: spanning tree (STP) has held port {ports} for {stp_timeout:g} s; "
                        "try again when it forwards, or switch STP off"
                    )
                if progress is not None and not told:
                    told = True
                    _tell(progress, f"{self.interface}: waiting for spanning tree (STP) to open port {ports}")
            elif state.open:
                return
            elif now - open_since >= _SETTLE:
                raise LinkError(
                    f"{self.interface} has no carrier: plug it in, or bring up what is at the other end"
                    + (" of a port of it" if self.is_bridge else "")
                )
            time.sleep(_POLL)

    def _trouble(self, error: OSError, bound: socket.socket | None = None) -> LinkError:
        """What an error of the socket means; `bound` is asked whether its interface is still there."""
        if error.errno in {errno.ENODEV, errno.ENXIO} or (bound is not None and not bound.getsockname()[0]):
            return netlink.gone(self.interface)
        if error.errno == errno.ENETDOWN:  # the first that a socket hears of an interface that is being removed
            there = netlink.condition(self.index, self._news.questions)
            return netlink.gone(self.interface) if there is None else netlink.down(self.interface)
        if error.errno in {errno.EPERM, errno.EACCES}:
            return LinkError(f"{self.interface}: raw frames are not permitted; run as root or with CAP_NET_RAW")
        return LinkError(f"{self.interface}: {os.strerror(error.errno or 0)}; is this a plain Linux network interface?")


def _tell(progress: Callable[[str], None], text: str) -> None:
    """What the caller's function raises is its own affair: the link opens all the same."""
    try:
        progress(text)
    except Exception:  # noqa: BLE001 - logged, and nothing else fails with it
        _log.exception("the function that is told of the progress failed")


def _attach(sock: socket.socket, interest: Interest | None) -> None:
    """Set or exchange the socket's classic BPF filter (socket(7), SO_ATTACH_FILTER)."""
    program = bpf.filter_of(interest, _SNAP)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
