"""A packet socket that hears DHCP on a link, and nothing else."""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress
from pathlib import Path

_ETH_P_IP = 0x0800
_SO_ATTACH_FILTER = 26
_SNAP = 1514
_KEPT, _DROPPED = (0x06, 0, 0, _SNAP), (0x06, 0, 0, 0)
_PACKET_TYPE, _OTHER_HOST = 0xFFFFF000 + 4, 3
# Classic BPF: not for another host, which is also what the kernel calls frames of a VLAN, after it took the tag off
# them; then UDP, no later fragment, and both ports 67 or 68.
_FILTER = (
    (0x30, 0, 0, _PACKET_TYPE),
    (0x15, 0, 1, _OTHER_HOST),
    _DROPPED,
    (0x30, 0, 0, 23),  # ldb protocol
    (0x15, 1, 0, socket.IPPROTO_UDP),
    _DROPPED,
    (0x28, 0, 0, 20),  # ldh fragment offset
    (0x45, 0, 1, 0x1FFF),
    _DROPPED,
    (0xB1, 0, 0, 14),  # ldx header length
    (0x48, 0, 0, 14),  # ldh source port
    (0x15, 2, 0, 67),
    (0x15, 1, 0, 68),
    _DROPPED,
    (0x48, 0, 0, 16),  # ldh target port
    (0x15, 2, 0, 67),
    (0x15, 1, 0, 68),
    _DROPPED,
    _KEPT,
)


class DhcpSocket:
    """DHCP frames that come in on an interface; OSError where there is no such interface.

    Its buffer is the system's usual one: a flood costs no more memory than that.
    """

    def __init__(self, interface: str) -> None:
        # Protocol 0 receives nothing until the socket is bound, so that no frame passes by the filter.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
            program = struct.pack("HP", len(_FILTER), ctypes.addressof(code))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self._socket.bind((interface, _ETH_P_IP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def receive(self, most: int) -> list[bytes]:
        """The frames that have arrived, `most` at most; never waits. A link that is down has none."""
        frames: list[bytes] = []
        with suppress(OSError):
            while len(frames) < most:
                frames.append(self._socket.recv(_SNAP))
        return frames

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def received(interface: str) -> int:
    """The frames that an interface has received so far; 0 where it is unknown (proc(5), net/dev)."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == interface:
            return int(counters.split()[1])
    return 0
