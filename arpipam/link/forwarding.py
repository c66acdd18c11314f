"""Behind which port of a bridge a station is: its forwarding table, as the kernel tells of it.

The bridge learns a station's port before it passes the station's frame on to us, and tells of it in the same moment. So
a caller that has received an answer and then asks here is told where that answer came from. No lock of the kernel's is
waited for then: the thread that answers ARP asks.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import threading
from typing import TYPE_CHECKING

from arpipam.link import rtnetlink
from arpipam.link.rtnetlink import forwarding_note, messages

if TYPE_CHECKING:
    from arpipam.link.rtnetlink import ForwardingNote, Questions

_SO_ATTACH_FILTER = 26
_BUFFER = 1 << 20
_DATAGRAM = 1 << 16
_OWN = 0x80
"""NUD_PERMANENT: a MAC of the bridge itself or of one of its ports."""
# ldb [16] (the family, after the header); jeq #AF_BRIDGE, keep, drop: the host's own neighbours are another matter
_OF_BRIDGES = ((0x30, 0, 0, 16), (0x15, 0, 1, rtnetlink.BRIDGE), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))


class Forwarding:
    """The forwarding table of one bridge. Nobody reads its news until somebody asks, so a flood costs nothing."""

    def __init__(self, bridge: int, questions: Questions) -> None:
        self._bridge = bridge
        self._questions = questions
        self._lock = threading.Lock()
        self._news: socket.socket | None = None
        self._ports: dict[bytes, int] = {}

    def refresh(self) -> None:
        """Be up to date, whatever that takes: the whole table is asked for where its news were too many to keep."""
        with self._lock:
            if self._news is not None and self._read(self._news, self._ports):
                return
        news = _subscribe()
        ports: dict[bytes, int] = {}
        try:
            for note in self._questions.forwarding(self._bridge):
                self._take(note, ports, known=True)
        except OSError:
            news.close()
            raise
        with self._lock:
            if self._news is not None:
                self._news.close()
            self._news, self._ports = news, ports

    def port(self, mac: bytes) -> int | None:
        """The index of the port behind which a station was heard last; None where that is not known."""
        with self._lock:
            if self._news is not None:
                self._read(self._news, self._ports)
            return self._ports.get(mac)

    def close(self) -> None:
        """Follow it no more."""
        with self._lock:
            if self._news is not None:
                self._news.close()
                self._news = None

    def _read(self, news: socket.socket, ports: dict[bytes, int]) -> bool:
        """Take in what has been told; False where some of it was lost."""
        whole = True
        while True:
            try:
                data = news.recv(_DATAGRAM)
            except BlockingIOError:
                return whole
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            for message in messages(data):
                if message.kind in {rtnetlink.NEW_NEIGHBOUR, rtnetlink.DEL_NEIGHBOUR}:
                    known = message.kind == rtnetlink.NEW_NEIGHBOUR
                    self._take(forwarding_note(message.body), ports, known=known)

    def _take(self, note: ForwardingNote, ports: dict[bytes, int], *, known: bool) -> None:
        if note.bridge != self._bridge or note.state & _OWN:
            return
        if known:
            ports[note.mac] = note.port
        elif ports.get(note.mac) == note.port:
            del ports[note.mac]


def _subscribe() -> socket.socket:
    news = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _OF_BRIDGES))
    news.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_OF_BRIDGES), ctypes.addressof(code)))
    news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    news.bind((0, rtnetlink.NEIGHBOUR_GROUP))
    return news
