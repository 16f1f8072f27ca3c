"""Where datagrams come down: slots in a channel's shared memory that recvmmsg(2) fills, many in one call.

Whoever takes a datagram off a socket and dies has lost it, unless the kernel itself has put it where the successor
looks. So everything that the kernel writes for a lot of datagrams lies in the segment: payloads, senders, receive
stamps, and the `struct mmsghdr` whose msg_len says that a slot is full. A signal ends a process on its way back from
the kernel at the earliest, when all of a datagram is there. What is not in the journal yet is found by
`waiting`, by this process or the next one.

Layout: a page of words, the headers, senders and stamps, then the slots. A slot begins with the datagram's first byte.
Its first page is always there; the others, which no radiod needs, are taken when they are first written. If the system
has none left then, the kernel drops that one datagram.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stream.journal import MAX_DATAGRAM, PAGE
from pipeline.stream.rtp import HEADER_SIZE

SLOTS = 64
# One page more than a datagram may take, so that slots do not all fall on the same lines of a cache.
SLOT_SIZE = MAX_DATAGRAM + PAGE
# Linux include/linux/socket.h; asm-generic/socket.h: SCM_TIMESTAMPNS of the option that pipeline.sockets sets.
SCM_TIMESTAMPNS = 35
SECOND = 1_000_000_000
# msg_len of a slot that nothing has come to; a datagram may be empty.
UNFILLED = 0xFFFF_FFFF
W_NEXT = 0


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):  # recvmsg(2): struct msghdr
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_size", ctypes.c_uint32),
        ("iov", ctypes.c_void_p), ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class _Message(ctypes.Structure):  # recvmmsg(2): struct mmsghdr
    _fields_ = (("header", _Header), ("length", ctypes.c_uint32))


MESSAGE: np.dtype[Any] = np.dtype(_Message)
SENDER: np.dtype[Any] = np.dtype([("family", "=u2"), ("port", ">u2"), ("address", ">u4"), ("zero", "V8")])
STAMP: np.dtype[Any] = np.dtype(
    [("size", np.uintp), ("level", "=i4"), ("type", "=i4"), ("seconds", "l"), ("nanoseconds", "l")]
)
RTP: np.dtype[Any] = np.dtype(
    [("bits", "u1"), ("kind", "u1"), ("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")]
)
_SENDERS = PAGE + -(-SLOTS * MESSAGE.itemsize // PAGE) * PAGE
_STAMPS = _SENDERS + SLOTS * SENDER.itemsize
_SLOTS = -(-(_STAMPS + SLOTS * STAMP.itemsize) // PAGE) * PAGE
LANDING_SIZE = _SLOTS + SLOTS * SLOT_SIZE

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


def reserved() -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts that must have their memory before anything is received."""
    yield 0, _SLOTS
    for slot in range(SLOTS):
        yield _SLOTS + slot * SLOT_SIZE, PAGE


class Landing:
    """The slots over `buffer`, LANDING_SIZE bytes of a shared mapping, zeroed when they are new.

    `waiting` is the range of slots that hold what is not in the journal yet; `done` moves its start on.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._words = buffer[:PAGE].cast("Q")
        self._messages: npt.NDArray[np.void] = np.frombuffer(buffer, MESSAGE, SLOTS, PAGE)
        self._senders: npt.NDArray[np.void] = np.frombuffer(buffer, SENDER, SLOTS, _SENDERS)
        self._stamps: npt.NDArray[np.void] = np.frombuffer(buffer, STAMP, SLOTS, _STAMPS)
        slots = np.frombuffer(buffer, np.uint8, SLOTS * SLOT_SIZE, _SLOTS).reshape(SLOTS, SLOT_SIZE)
        self.headers: npt.NDArray[np.void] = slots[:, : RTP.itemsize].view(RTP)[:, 0]
        self.datagrams = [buffer[at : at + MAX_DATAGRAM] for at in range(_SLOTS, LANDING_SIZE, SLOT_SIZE)]
        self.payloads = [datagram[HEADER_SIZE:] for datagram in self.datagrams]
        self._lengths, self._heads = self._messages["length"], self._messages["header"]
        # Of a new landing all lengths are zero, and so are the addresses of what they would be the lengths of.
        self._lengths[self._heads["iov"] == 0] = UNFILLED
        empty = np.flatnonzero(self._lengths == UNFILLED)
        self._filled = int(empty[0]) if len(empty) else SLOTS
        self._point(slots)

    def _point(self, slots: npt.NDArray[np.uint8]) -> None:
        """Addresses are a process's own; the lengths, which say what has come, are left as they are."""
        every = np.arange(SLOTS, dtype=np.uintp)
        self._vectors = np.empty(SLOTS, np.dtype(_IoVec))
        self._vectors["base"] = slots.ctypes.data + every * SLOT_SIZE
        self._vectors["length"] = MAX_DATAGRAM
        self._heads["iov"] = self._vectors.ctypes.data + every * self._vectors.itemsize
        self._heads["iov_count"] = 1
        self._heads["name"] = self._senders.ctypes.data + every * SENDER.itemsize
        self._heads["control"] = self._stamps.ctypes.data + every * STAMP.itemsize
        self._first = self._messages.ctypes.data

    @property
    def waiting(self) -> range:
        """Slots whose datagrams are not in the journal yet, in the order they came."""
        return range(int(self._words[W_NEXT]), self._filled)

    def done(self, until: int) -> None:
        """The datagrams in slots before `until` need not be kept any longer."""
        self._words[W_NEXT] = until

    def receive(self, sock: socket.socket) -> int:
        """Take what is queued on a non-blocking socket, SLOTS datagrams at most; returns how many that were.

        Only when none is waiting. Raises OSError as recvmmsg(2) does, but not for an empty queue.
        """
        # The lengths first: whoever finds NEXT at zero believes them.
        self._lengths[:] = UNFILLED
        self._words[W_NEXT] = self._filled = 0
        self._heads["name_size"] = SENDER.itemsize
        self._heads["control_size"] = STAMP.itemsize
        found = _recvmmsg(sock.fileno(), self._first, SLOTS, socket.MSG_DONTWAIT, None)
        if found < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(number, os.strerror(number))
        self._filled = found
        return int(found)

    def sizes(self, slots: slice) -> npt.NDArray[np.int64]:
        """Bytes of each datagram; -1 of one that was too long, which no UDP datagram is."""
        cut = self._heads["flags"][slots] & socket.MSG_TRUNC != 0
        return np.where(cut, -1, self._lengths[slots].astype(np.int64))

    def senders(self, slots: slice) -> npt.NDArray[np.int64]:
        """address << 16 | port of each sender, host order."""
        senders = self._senders[slots]
        numbers: npt.NDArray[np.int64] = senders["address"].astype(np.int64) << 16 | senders["port"]
        return numbers

    def arrivals(self, slots: slice) -> npt.NDArray[np.int64]:
        """Kernel receive stamps (SO_TIMESTAMPNS), ns since 1970 by the host's clock; 0 = none."""
        stamps = self._stamps[slots]
        given = (self._heads["control_size"][slots] >= STAMP.itemsize) & (stamps["type"] == SCM_TIMESTAMPNS)
        arrivals: npt.NDArray[np.int64] = np.zeros(len(stamps), np.int64)
        arrivals[given] = (stamps["seconds"].astype(np.int64) * SECOND + stamps["nanoseconds"])[given]
        return arrivals
