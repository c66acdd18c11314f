"""The links and addresses of this network namespace, as the kernel tells of them: nothing here is older than its news.

A bridge's MAC moves with its ports, a virtual address moves to another host, a cable is pulled: a caller here never
acts on what was so when the link was opened.
"""

from __future__ import annotations

import errno
import socket
import threading
from typing import TYPE_CHECKING

from arpipam.link import rtnetlink
from arpipam.link.rtnetlink import Questions, address_note, link_note, messages

if TYPE_CHECKING:
    from ipaddress import IPv4Interface

    from arpipam.link.rtnetlink import AddressNote, LinkNote, Message

_ARPHRD_ETHER = 1
_BUFFER = 1 << 20
_DATAGRAM = 1 << 16
_FAMILY_BRIDGE = bytes((rtnetlink.BRIDGE,))


class News:
    """Follows the kernel from the moment it is made. `read` takes in what has been told since; from any thread."""

    def __init__(self) -> None:
        self.questions = Questions()
        self.links: dict[int, LinkNote] = {}
        self.local_addresses: set[int] = set()
        """Those of all interfaces. This set and the next one are kept up to date in place."""
        self.local_macs: set[bytes] = set()
        self.version = 0
        """Another one after each change."""
        self._addresses: dict[tuple[int, IPv4Interface], AddressNote] = {}
        self._lock = threading.Lock()
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, rtnetlink.LINK_GROUP | rtnetlink.IPV4_ADDRESS_GROUP))
        self._load()

    def fileno(self) -> int:
        """For poll: readable while there is something to `read`."""
        return self._socket.fileno()

    def prefixes(self, index: int) -> tuple[IPv4Interface, ...]:
        """The addresses of an interface, primary ones first."""
        own = [note for note in list(self._addresses.values()) if note.number == index]
        return tuple(note.prefix for note in sorted(own, key=lambda note: note.secondary))

    def up(self, index: int) -> bool:
        """Whether the interface is there and switched on."""
        known = self.links.get(index)
        return known is not None and bool(known.flags & rtnetlink.UP)

    def read(self) -> None:
        """Take in what has been told since."""
        with self._lock:
            told = lost = False
            while True:
                try:
                    data = self._socket.recv(_DATAGRAM)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    lost = True  # and what is still there is older than what was lost
                    continue
                for message in messages(data):
                    self._take(message)
                told = True
            if lost:
                self._load()
            elif told:
                self._sum_up()

    def close(self) -> None:
        """Follow no more."""
        with self._lock:
            self._socket.close()
        self.questions.close()

    def _load(self) -> None:
        """Ask for everything. What changes meanwhile is told afterwards."""
        self.links = {note.number: note for note in self.questions.links()}
        self._addresses = {(note.number, note.prefix): note for note in self.questions.addresses()}
        self._sum_up()

    def _take(self, message: Message) -> None:
        kind, body = message.kind, message.body
        if kind in {rtnetlink.NEW_LINK, rtnetlink.DEL_LINK}:
            note = link_note(body)
            if body[:1] == _FAMILY_BRIDGE:  # of a port, as spanning tree opens and closes it, or as it leaves
                if (known := self.links.get(note.number)) is not None:
                    master, state = (note.master, note.port_state) if kind == rtnetlink.NEW_LINK else (0, None)
                    self.links[note.number] = known._replace(master=master, port_state=state)
            elif kind == rtnetlink.NEW_LINK and note.mtu:  # else it is about something else, as wireless events are
                self.links[note.number] = note
            elif kind == rtnetlink.DEL_LINK:
                self.links.pop(note.number, None)
        elif kind in {rtnetlink.NEW_ADDRESS, rtnetlink.DEL_ADDRESS} and body[0] == socket.AF_INET:
            address = address_note(body)
            if kind == rtnetlink.NEW_ADDRESS:
                self._addresses[address.number, address.prefix] = address
            else:
                self._addresses.pop((address.number, address.prefix), None)

    def _sum_up(self) -> None:
        addresses = {int(note.prefix.ip) for note in self._addresses.values()}
        macs = {note.mac for note in self.links.values() if note.hardware == _ARPHRD_ETHER and any(note.mac)}
        self.version += 1
        self.local_addresses |= addresses
        self.local_addresses &= addresses
        self.local_macs |= macs
        self.local_macs &= macs
