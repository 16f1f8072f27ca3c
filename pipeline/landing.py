"""Where datagrams come down: slots in a channel's shared memory that recvmmsg(2) fills, many in one call.

Whoever takes a datagram off a socket and dies has lost it, unless the kernel itself has put it where the successor
looks. So everything that the kernel writes for a lot of datagrams lies in the segment: payloads, senders, receive
stamps, and the `struct mmsghdr` whose msg_len says that a slot is full. A signal ends a process on its way back from
the kernel at the earliest, when all of a datagram is there. What is not in the journal yet is found by
`waiting`, by this process or the next one.

Layout: a page of words, the headers, stamps and senders, then the slots. A slot begins with the datagram's first byte.
Its first page is always there; the others, which no radiod needs, are taken when something comes that is so long, and
given back (`tails`). If the system has none left then, the kernel drops that one datagram and says EFAULT, now or in
the next call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from pipeline.stream.candidates import Origin, origin
from pipeline.stream.journal import MAX_DATAGRAM, PAGE
from pipeline.stream.lot import Lot
from pipeline.stream.rtp import HEADER, HEADER_SIZE

SLOTS = 64
# One page more than a datagram may take, so that slots do not all fall on the same lines of a cache.
SLOT_SIZE = MAX_DATAGRAM + PAGE
SECOND = 1_000_000_000
# msg_len of a slot that nothing has come to; a datagram may be empty.
UNFILLED = 0xFFFF_FFFF
W_NEXT, W_LAYOUT = 0, 1


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):  # recvmsg(2): struct msghdr
    _fields_ = (
        ("name", ctypes.c_void_p), ("name_size", ctypes.c_uint32),
        ("iov", ctypes.c_void_p), ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class _Message(ctypes.Structure):  # recvmmsg(2): struct mmsghdr
    _fields_ = (("header", _Header), ("size", ctypes.c_uint32))


class _Stamp(ctypes.Structure):  # cmsg(3) with the struct timespec of SO_TIMESTAMPNS, the only one asked for
    _fields_ = (
        ("size", ctypes.c_size_t), ("level", ctypes.c_int), ("type", ctypes.c_int),
        ("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long),
    )  # fmt: skip


class _Sender(ctypes.BigEndianStructure):  # ip(7): struct sockaddr_in; its first eight bytes
    _fields_ = (("family", ctypes.c_uint16), ("port", ctypes.c_uint16), ("address", ctypes.c_uint32))


class _Heads(ctypes.Structure):
    """Everything that the kernel says of a lot."""

    _fields_ = (
        ("messages", _Message * SLOTS), ("stamps", _Stamp * SLOTS), ("senders", ctypes.c_uint64 * (2 * SLOTS))
    )  # fmt: skip


_SLOTS = PAGE + -(-ctypes.sizeof(_Heads) // PAGE) * PAGE
LANDING_SIZE = _SLOTS + SLOTS * SLOT_SIZE

# Stored when all that a new landing needs is in its place.
LAYOUT = SLOT_SIZE << 32 | SLOTS

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int
_DONTWAIT = int(socket.MSG_DONTWAIT)


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
        self._buffer = buffer
        self._words = buffer[:PAGE].cast("Q")
        self._heads = _Heads.from_buffer(buffer, PAGE)
        raw = buffer[PAGE : PAGE + ctypes.sizeof(_Heads)]
        self._raw = raw
        # As columns: indexing them costs less than ctypes' fields, and a strided slice is a list in one step.
        self._sizes = _column(raw[: _Heads.stamps.offset], "I", _Message.size.offset, ctypes.sizeof(_Message))
        stamps = raw[_Heads.stamps.offset : _Heads.senders.offset]
        self._seconds = _column(stamps, "l", _Stamp.seconds.offset, ctypes.sizeof(_Stamp))
        self._nanoseconds = _column(stamps, "l", _Stamp.nanoseconds.offset, ctypes.sizeof(_Stamp))
        self._senders = _column(raw[_Heads.senders.offset :], "Q", 0, 16)
        self._offsets = range(_SLOTS, LANDING_SIZE, SLOT_SIZE)
        self.datagrams = [buffer[at : at + MAX_DATAGRAM] for at in self._offsets]
        self.payloads = [datagram[HEADER_SIZE:] for datagram in self.datagrams]
        self._empty = self._point()
        if self._words[W_LAYOUT] == LAYOUT:
            sizes = self._sizes.tolist()
            self._filled = next((n for n, size in enumerate(sizes) if size == UNFILLED), SLOTS)
        else:
            raw[:] = self._empty
            self._words[W_NEXT] = self._filled = 0
            self._words[W_LAYOUT] = LAYOUT
        for at in self._offsets:
            # Mapped now, a page needs nothing when the kernel writes there.
            buffer[at] = buffer[at]

    def _point(self) -> bytes:
        """The heads as they are before a lot comes, with this process's addresses."""
        heads, base = _Heads(), ctypes.addressof(self._heads)
        slots = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer, _SLOTS))
        self._vectors = (_IoVec * SLOTS)(*(_IoVec(slots + n * SLOT_SIZE, MAX_DATAGRAM) for n in range(SLOTS)))
        vectors = ctypes.addressof(self._vectors)
        for slot in range(SLOTS):
            heads.messages[slot].size = UNFILLED
            heads.messages[slot].header = _Header(
                base + _Heads.senders.offset + 16 * slot, 16,
                vectors + slot * ctypes.sizeof(_IoVec), 1,
                base + _Heads.stamps.offset + slot * ctypes.sizeof(_Stamp), ctypes.sizeof(_Stamp), 0,
            )  # fmt: skip
        self._first = base
        return bytes(heads)

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
        # NEXT last: until then it is beyond all that is, and then all is empty.
        self._raw[:] = self._empty
        self._words[W_NEXT] = self._filled = 0
        found = int(_recvmmsg(sock.fileno(), self._first, SLOTS, _DONTWAIT, None))
        if found < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(number, os.strerror(number))
        self._filled = found
        return found

    def tails(self, lengths: list[int]) -> list[tuple[int, int]]:
        """(offset, length) of the pages that payloads of the lot's last `len(lengths)` slots took beyond the first."""
        rows = zip(self._offsets[self._filled - len(lengths) : self._filled], lengths, strict=True)
        return [(at + PAGE, SLOT_SIZE - PAGE) for at, length in rows if length + HEADER_SIZE > PAGE]

    def lot(self, shift_ns: int) -> Lot:
        """What is waiting; `shift_ns` is taken off the kernel's stamps (SO_TIMESTAMPNS), 0 stands for a missing one."""
        begin, end = self.waiting.start, self._filled
        stamps = zip(self._seconds[begin:end].tolist(), self._nanoseconds[begin:end].tolist(), strict=True)
        return Lot(
            [HEADER.unpack_from(self._buffer, at) for at in self._offsets[begin:end]],
            [size - HEADER_SIZE for size in self._sizes[begin:end].tolist()],
            [seconds * SECOND + nanoseconds - shift_ns if seconds else 0 for seconds, nanoseconds in stamps],
            [_origin(sender) for sender in self._senders[begin:end].tolist()],
        )


@lru_cache(64)
def _origin(sender: int) -> Origin:
    found = _Sender.from_buffer_copy(sender.to_bytes(8, sys.byteorder))
    return origin(found.address, found.port)


def _column(rows: memoryview, kind: Literal["I", "l", "Q"], offset: int, step: int) -> memoryview:
    """One field of an array of structures."""
    words = rows.cast(kind)
    column: memoryview = words[offset // words.itemsize :: step // words.itemsize]
    return column
