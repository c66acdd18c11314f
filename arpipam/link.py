"""The link: the only file with a packet socket and a clock."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Self

from arpipam import netlink
from arpipam.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 1, 1
_PACKET_STATISTICS = 6
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 64 * 1024 * 1024
"""Room for the answers of a /16 at once; the kernel counts some 800 bytes for each, and takes only what is used."""
_SNAP = 128
_SEND_RETRIES = 3
_STP_POLL = 0.25

# linux/filter.h: ldh [12]; jne #0x806; ldb vlan_tag_present; jne #0; ret #128; ret #0
_ARP_UNTAGGED = (
    (0x28, 0, 0, 12),
    (0x15, 0, 3, 0x0806),
    (0x30, 0, 0, 0xFFFFF000 + 48),
    (0x15, 0, 1, 0),
    (0x06, 0, 0, _SNAP),
    (0x06, 0, 0, 0),
)
_NOTHING = ((0x06, 0, 0, 0),)

_GONE = {errno.ENODEV, errno.ENXIO}


class Link:
    """An interface, opened for ARP: every untagged ARP frame on the link is received, but never our own.

    The socket takes all protocols and lets the kernel filter, since only so does it hear what other processes of this host
    send. It is promiscuous, since the answers to our probes go to a MAC that the interface does not have (yet).

    `stp_timeout` bounds the wait for bridge ports that STP still holds, in seconds; `progress` is told of such a wait.
    Raises InputError (no such interface) and LinkError (down, gone, without ARP, not permitted).
    """

    def __init__(
        self, interface: str, *, stp_timeout: float = 35.0, progress: Callable[[str], None] | None = None
    ) -> None:
        self.interface = interface
        facts = netlink.facts(interface)
        self.index = facts.index
        self.mac = facts.mac
        self.prefixes = facts.prefixes
        self.local_addresses = facts.local_addresses
        self.local_macs = facts.local_macs
        self.gateways = facts.gateways
        self.neighbours = facts.neighbours
        self._is_bridge = facts.is_bridge
        if facts.is_bridge:
            self._wait_for_ports(stp_timeout, progress)
        self._socket = self._open()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._wake_fd: int | None = None

    def _open(self) -> socket.socket:
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        except PermissionError:
            raise LinkError(
                f"{self.interface}: raw frames are not permitted; run as root, or with CAP_NET_RAW"
            ) from None
        try:
            _attach(sock, _NOTHING)  # until the real one is there, so that nothing else ever gets in
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            membership = struct.pack("iHH8s", self.index, _PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            sock.bind((self.interface, _ETH_P_ALL))
            _attach(sock, _ARP_UNTAGGED)
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

    def send(self, frame: bytes) -> bool:
        """Send a frame; False when the kernel has no room for it just now. Raises LinkError when the link is down or gone."""
        for _ in range(_SEND_RETRIES):
            try:
                self._socket.send(frame)
            except OSError as error:
                if error.errno not in {errno.ENOBUFS, errno.EAGAIN}:
                    raise self._trouble(error) from None
            else:
                return True
        return False

    def receive(self, limit: int = 4096) -> list[bytes]:
        """The frames that have arrived, `limit` at most; never waits. Raises LinkError when the link is down or gone."""
        frames: list[bytes] = []
        receive = self._socket.recv
        try:
            for _ in range(limit):
                frames.append(receive(_SNAP))
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._trouble(error) from None
        return frames

    def drops(self) -> int:
        """Frames that the kernel dropped on this socket since the last call, for want of room (packet(7))."""
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(dropped)

    def wait(self, timeout: float | None, wake_fd: int | None = None) -> None:
        """Wait until a frame or a byte on `wake_fd` arrives, at most `timeout` seconds (None: for ever)."""
        if wake_fd != self._wake_fd and wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)
            self._wake_fd = wake_fd
        self._poll.poll(None if timeout is None else timeout * 1000)

    def plainly_alone(self) -> bool:
        """Whether nobody outside of this host can be on the link: a bridge with no port, or only ports to local containers."""
        return self._is_bridge and netlink.ends_here(self.index)

    def close(self) -> None:
        """Close the socket; the interface leaves promiscuous mode by itself."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for_ports(self, timeout: float, progress: Callable[[str], None] | None) -> None:
        """A port in STP's listening or learning state swallows probes, for up to 30 s after it came up (IEEE 802.1D)."""
        until = self.now() + timeout
        told = False
        while held := netlink.held_ports(self.index):
            if self.now() >= until:
                raise LinkError(
                    f"{self.interface}: spanning tree still holds port {', '.join(held)}; wait until it forwards, or switch STP off"
                )
            if progress is not None and not told:
                progress(f"{self.interface}: waiting for spanning tree to open port {', '.join(held)}")
                told = True
            time.sleep(_STP_POLL)

    def _trouble(self, error: OSError) -> LinkError:
        if error.errno == errno.ENETDOWN:
            return LinkError(f"{self.interface} is down; bring it up: ip link set {self.interface} up")
        if error.errno in _GONE:
            return LinkError(f"{self.interface} is gone; was it removed or moved to another namespace?")
        if error.errno in {errno.EPERM, errno.EACCES}:
            return LinkError(f"{self.interface}: not permitted; run as root, or with CAP_NET_RAW")
        return LinkError(f"{self.interface}: {os.strerror(error.errno or 0)}")


def _attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Set the socket's classic BPF filter (socket(7), SO_ATTACH_FILTER)."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
