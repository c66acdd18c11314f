"""Many frames in one system call: sendmmsg(2) and recvmmsg(2), which Python's socket module lacks.

A sweep of a /16 sends and hears a hundred thousand frames, and a flood is heard whole: a call for each frame costs more
than all that is done with it.
"""

from __future__ import annotations

import ctypes
import os
import socket
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`: a message, and how many bytes of it have passed."""

    _fields_ = (("header", _Header), ("passed", ctypes.c_uint))


class Messages:
    """Room for `most` frames of `size` bytes each, one way. Not for two threads at once."""

    def __init__(self, most: int, size: int) -> None:
        self.most = most
        self._size = size
        self._frames = bytearray(most * size)
        vectors = bytearray(most * ctypes.sizeof(_Vector))
        messages = bytearray(most * ctypes.sizeof(_Message))
        self._message_array = (_Message * most).from_buffer(messages)
        vector_array = (_Vector * most).from_buffer(vectors)
        frames_at = ctypes.addressof(ctypes.c_char.from_buffer(self._frames))
        for n in range(most):
            vector_array[n].base, vector_array[n].length = frames_at + n * size, size
            header = self._message_array[n].header
            header.vectors, header.vector_count = ctypes.addressof(vector_array[n]), 1
        # The arrays once more, as columns of numbers: field by field, ctypes would take longer than the kernel.
        self._lengths = _column(vectors, "L", _Vector.length.offset, ctypes.sizeof(_Vector))
        self._passed = _column(messages, "I", _Message.passed.offset, ctypes.sizeof(_Message))

    def send(self, fd: int, frames: Sequence[bytes]) -> int:
        """Send frames, `most` at most, of `size` bytes at most each; how many the kernel took.

        Raises OSError where it took none.
        """
        size, count = self._size, len(frames)
        self._frames[: count * size] = b"".join([frame.ljust(size, b"\0") for frame in frames])
        self._lengths[:count] = memoryview(array("L", map(len, frames)))
        return _done(_LIBC.sendmmsg(fd, self._message_array, count, socket.MSG_DONTWAIT))

    def receive(self, fd: int, limit: int) -> list[bytes]:
        """The frames that have arrived, `limit` and `most` at most, each cut to `size` bytes; never waits.

        Raises OSError, BlockingIOError among them where there is none.
        """
        size = self._size
        count = _done(_LIBC.recvmmsg(fd, self._message_array, min(limit, self.most), socket.MSG_DONTWAIT, None))
        frames = bytes(memoryview(self._frames)[: count * size])
        return [
            frames[at : at + length]
            for at, length in zip(range(0, count * size, size), self._passed[:count].tolist(), strict=True)
        ]


def _column(rows: bytearray, kind: str, offset: int, stride: int) -> memoryview[int]:
    """The numbers at one offset of each row."""
    width = array(kind).itemsize
    return memoryview(rows).cast("B").cast(kind)[offset // width :: stride // width]  # type: ignore[call-overload,no-any-return]


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
