"""Many frames in one system call, over a pair of sockets that keep frames apart."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpipam.link.mmsg import Messages

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST, SIZE = 8, 64


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        yield here, there


@given(st.lists(st.binary(min_size=1, max_size=SIZE), max_size=MOST), st.lists(st.binary(min_size=1), max_size=MOST))
def test_frames_arrive_as_they_were_sent_and_longer_ones_are_cut(short: list[bytes], later: list[bytes]) -> None:
    """The second time over the same room: nothing of the first is left in it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sending, receiving = Messages(MOST, SIZE), Messages(MOST, SIZE)
    with here, there:
        if short:
            assert sending.send(here.fileno(), short) == len(short)
            assert receiving.receive(there.fileno(), MOST) == short
        for frame in later:
            here.send(frame)
        if later:
            assert receiving.receive(there.fileno(), MOST) == [frame[:SIZE] for frame in later]


def test_takes_no_more_than_asked_for(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    messages = Messages(MOST, SIZE)
    frames = [bytes([n]) * (n + 1) for n in range(MOST)]
    for frame in frames * 2:
        here.send(frame)
    assert messages.receive(there.fileno(), 3) == frames[:3]
    assert messages.receive(there.fileno(), 100) == (frames * 2)[3 : 3 + MOST]
    assert messages.receive(there.fileno(), 100) == (frames * 2)[3 + MOST :]
    with pytest.raises(BlockingIOError):
        messages.receive(there.fileno(), 100)


def test_says_how_many_the_kernel_took(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    messages = Messages(256, SIZE)
    frames = [bytes([n]) * SIZE for n in range(256)]
    taken = messages.send(here.fileno(), frames)
    assert 0 < taken < len(frames)
    with pytest.raises(BlockingIOError):
        messages.send(here.fileno(), frames)
    assert messages.receive(there.fileno(), 1) == frames[:1]
    assert Messages(256, SIZE).receive(there.fileno(), 256) == frames[1:taken]


def test_an_error_is_an_error() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        Messages(MOST, SIZE).send(-1, [b"x"])
