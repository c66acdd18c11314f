"""A referee that is no part of arpipam: it asks for every address, all the time, beside each host.

It has a frame of its own and a station on each host's bridge, so that it goes on asking on either side of a cut. Its
questions are ordinary requests from its stations' own addresses, which harm nobody.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from launcher.lab.soak.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from arpipam.lab.stations import LabStation

EVERY = 0.25
"""Seconds between two rounds of questions."""
_ARP = 0x0806
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
"""Ethernet's and ARP's header as RFC 826 has them."""
_REQUEST, _REPLY = 1, 2
_URGENT = -15


@dataclass(frozen=True)
class Post:
    """One of the referee's stations."""

    socket: socket.socket
    mac: bytes
    questions: Sequence[bytes]


class Referee:
    """Asks as long as the context lasts. `clock` is that of the whole soak."""

    def __init__(self, posts: Mapping[str, tuple[LabStation, str]], addresses: Sequence[str], begin: float) -> None:
        """`posts`: by the host beside which it stands, a station and its address."""
        self.journal = Journal(tuple(posts))
        self._addresses = addresses
        self._begin = begin
        self._posts = [self._post(station, own) for station, own in posts.values()]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="referee", daemon=True)

    def _post(self, station: LabStation, own: str) -> Post:
        with station.namespace.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ARP))
        sock.bind(("eth0", _ARP))
        mac = bytes.fromhex(station.mac.replace(":", ""))
        questions = [
            _FRAME.pack(
                *(b"\xff" * 6, mac, _ARP, 1, 0x0800, 6, 4, _REQUEST),
                *(mac, socket.inet_aton(own), b"\0" * 6, socket.inet_aton(address)),
            )
            for address in self._addresses
            if address != own  # its own kernel does not hear it
        ]
        return Post(sock, mac, questions)

    def _run(self) -> None:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _URGENT)
        while not self._ending.is_set():
            start = time.monotonic()
            heard: dict[str, list[set[str]]] = {address: [set() for _ in self._posts] for address in self._addresses}
            for post in self._posts:
                for question in post.questions:
                    with suppress(OSError):  # no room, or its host's bridge is away for a moment
                        post.socket.send(question)
            while (left := start + EVERY - time.monotonic()) > 0:
                for sock in select.select([post.socket for post in self._posts], [], [], left)[0]:
                    self._read(sock, heard)
            self.journal.note(start - self._begin, {a: tuple(map(frozenset, macs)) for a, macs in heard.items()})

    def _read(self, sock: socket.socket, heard: Mapping[str, list[set[str]]]) -> None:
        [number] = [number for number, post in enumerate(self._posts) if post.socket is sock]
        with suppress(OSError):
            while True:
                frame = sock.recv(128)
                if len(frame) < _FRAME.size:
                    continue
                to, _, _, _, _, _, _, operation, mac, address, *_ = _FRAME.unpack_from(frame)
                answers = heard.get(socket.inet_ntoa(address))
                if operation == _REPLY and to == self._posts[number].mac and answers is not None:
                    answers[number].add(mac.hex(":"))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        for post in self._posts:
            post.socket.close()
