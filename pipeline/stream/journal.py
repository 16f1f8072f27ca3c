"""Packets and status datagrams in the order they were admitted, in shared memory.

A channel's segment is a header page, a checkpoint cell (see `pipeline.cells.Cell`), a ring
of fixed-size records and a heap of payload bytes. A record says what came, when, and
where its payload lies; nothing else has to survive a worker, because everything else is a
function of the records. Payloads that follow one another on the wire follow one another
in the heap, so that a minute is decoded in a few long runs.

Why not a ring indexed by RTP timestamp: radiod's packets do not say how wide a sample is
(the status that announces a new encoding comes after the first packet that has it), and a
new RTP timeline would need a ring of its own. Placing by timestamp happens when a minute
is cut, with all that is known by then; appending the same packet twice is recognised by
its timestamp, so that doing the last step again after a crash is harmless.

Append: payload bytes, then the record, then the count, which is one aligned 8-byte store
and makes the record exist. The reader of a dead worker's journal sees a record whole or
not at all. One process appends; it and its successors alone read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAGIC = int.from_bytes(b"GRAPEJN1", "little")
PAGE = 4096
HEADER_SIZE = PAGE
CHECKPOINT_SIZE = 1 << 18
# The largest UDP payload; a record's payload is contiguous, so the heap keeps this much in reserve.
MAX_DATAGRAM = 65536


class Kind(IntEnum):
    """What a record is about."""

    DATA = 1  # RTP payload; `timestamp` and `sequence` are extended within `epoch`
    STATUS = 2  # radiod status datagram as it came
    # RTP payload of no known timeline; `timestamp` and `sequence` as on the wire, `epoch` the number of its run
    HELD = 3
    # A new RTP timeline begins with the next `length` records, `flags` says why; without payload, as what follows.
    EPOCH = 4
    DUPLICATE = 5  # `length` such packets
    BAD = 6
    # Nobody listened for a while: what came at `arrival_ns` or later, and after this record, came after that.
    BREAK = 7


RECORD = struct.Struct("<QqqqIIIHBB")
RECORD_DTYPE = np.dtype(
    [
        ("position", "<u8"),
        ("timestamp", "<i8"),
        ("sequence", "<i8"),
        ("arrival_ns", "<i8"),
        ("epoch", "<u4"),
        ("length", "<u4"),
        ("address", "<u4"),
        ("port", "<u2"),
        ("flags", "u1"),
        ("kind", "u1"),
    ]
)
FLAG_MARKER = 1
FLAG_REORDERED = 2
FLAG_LATE = 4  # its minute was cut already
FLAG_UNTIMED = 8  # it came while the host's clock was set, so its stamp says nothing
# Why an epoch began, by number in an EPOCH record's flags; the names are the files'.
REASONS = ("start", "radiod_restart", "timestamp_jump", "rate_change")

SIGN, WORD = 1 << 63, (1 << 64) - 1
# Words of the header page, by index of u64.
W_MAGIC, W_RECORDS, W_HEAP, W_SSRC = 0, 1, 2, 3
W_COUNT, W_FIRST, W_RELEASED, W_CLEAN, W_CLOCK, W_SHIFT = 8, 10, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a channel's segment; all but the used pages are only address space."""

    records: int
    heap: int

    @property
    def index_offset(self) -> int:
        """Where the ring of records begins, bytes."""
        # Two slots and a header; see cells.cell_size. Rounded up to whole pages.
        return HEADER_SIZE + 2 * (CHECKPOINT_SIZE + PAGE)

    @property
    def heap_offset(self) -> int:
        """Where the heap of payloads begins, bytes."""
        return self.index_offset + self.records * RECORD.size

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return self.heap_offset + self.heap


def geometry(sample_rate_hz: int, minutes: int) -> Geometry:
    """Room for `minutes` of a stream: 8 bytes a frame, packets of 120 frames or 10 ms on average.

    radiod sends 50 packets a second or as many as payloads of 1440 bytes make (180 frames
    of F32); smaller ones only shorten the time that fits.
    """
    packets = max(100, sample_rate_hz // 120)
    heap = minutes * 60 * sample_rate_hz * 8 + 4 * MAX_DATAGRAM
    return Geometry(records=-(-minutes * 60 * packets // PAGE) * PAGE, heap=-(-heap // PAGE) * PAGE)


class Row(NamedTuple):
    """A record without its position; see `RECORD_DTYPE` for the widths.

    `address` and `port` are the sender's, host order.
    """

    timestamp: int
    sequence: int
    arrival_ns: int
    epoch: int
    length: int
    address: int
    port: int
    flags: int
    kind: int


class JournalFull(Exception):
    """No room until something is released."""


class Journal:
    """The records and payloads over a writable buffer; see the module's text."""

    def __init__(self, buffer: memoryview, shape: Geometry) -> None:
        self.buffer = buffer
        self.shape = shape
        self._words = buffer[:HEADER_SIZE].cast("Q")
        self._index = shape.index_offset
        self.heap = buffer[shape.heap_offset : shape.heap_offset + shape.heap]
        self._records: npt.NDArray[np.void] = np.frombuffer(
            buffer, RECORD_DTYPE, count=shape.records, offset=shape.index_offset
        )
        self.count = int(self._words[W_COUNT])
        self.first = int(self._words[W_FIRST])
        self._released = int(self._words[W_RELEASED])
        self.position = self._last_position()
        self._noted = self.count

    @classmethod
    def format(cls, buffer: memoryview, shape: Geometry, ssrc: int) -> Journal:
        """An empty journal over a zeroed buffer."""
        words = buffer[:HEADER_SIZE].cast("Q")
        words[W_RECORDS], words[W_HEAP], words[W_SSRC] = shape.records, shape.heap, ssrc
        words[W_MAGIC] = MAGIC
        return cls(buffer, shape)

    @classmethod
    def attach(cls, buffer: memoryview, ssrc: int) -> Journal | None:
        """The journal that lies in `buffer`; None if it is not one or another SSRC's."""
        if len(buffer) < HEADER_SIZE:
            return None
        words = buffer[:HEADER_SIZE].cast("Q")
        shape = Geometry(int(words[W_RECORDS]), int(words[W_HEAP]))
        if words[W_MAGIC] != MAGIC or words[W_SSRC] != ssrc or shape.size > len(buffer):
            return None
        return cls(buffer, shape)

    def _last_position(self) -> int:
        rows = self.records(self.first)
        rows = rows[rows["kind"] <= Kind.HELD]
        return int((rows["position"] + rows["length"]).max()) if len(rows) else self._released

    @property
    def clean(self) -> bool:
        """True when the last worker flushed everything before it left."""
        return bool(self._words[W_CLEAN])

    @clean.setter
    def clean(self, value: bool) -> None:
        self._words[W_CLEAN] = int(value)

    @property
    def clock_base_ns(self) -> int:
        """CLOCK_REALTIME - CLOCK_BOOTTIME that defines the clock of `arrival_ns`; 0 = not yet defined."""
        return int(self._words[W_CLOCK])

    @clock_base_ns.setter
    def clock_base_ns(self, value: int) -> None:
        self._words[W_CLOCK] = value

    @property
    def clock_shift_ns(self) -> int:
        """What the host's clock was set by since `clock_base_ns` was, as far as it has been seen."""
        return ((int(self._words[W_SHIFT]) + SIGN) & WORD) - SIGN

    @clock_shift_ns.setter
    def clock_shift_ns(self, value: int) -> None:
        self._words[W_SHIFT] = value & WORD

    def room(self, size: int = MAX_DATAGRAM, records: int = 1) -> int:
        """Heap offset where the payloads, up to `size` bytes, of so many records may be put.

        Raises JournalFull when that would overwrite what is still needed.
        """
        if self.count + records - self.first >= self.shape.records:
            raise JournalFull
        at = self.position % self.shape.heap
        if at + size > self.shape.heap:
            self.position += self.shape.heap - at
            at = 0
        if self.position + size - self._released > self.shape.heap:
            raise JournalFull
        return at

    def room_for(self, records: int) -> bool:
        """True when so many records fit."""
        return self.count + records - self.first <= self.shape.records

    def append(self, row: Row) -> None:
        """Commit a record whose payload, if it has one, already lies at `room()`'s offset."""
        self._write(self.count, self.position, row)
        if row.kind <= Kind.HELD:
            self.position += row.length
        self.count = self._words[W_COUNT] = self.count + 1

    def append_run(self, rows: list[Row]) -> None:
        """Commit records at once whose payloads lie one after the other at `room()`'s offset."""
        position = self.position
        for i, row in enumerate(rows):
            self._write(self.count + i, position, row)
            position += row.length
        self.position = position
        self.count = self._words[W_COUNT] = self.count + len(rows)

    def append_moved(self, rows: list[tuple[int, Row]]) -> None:
        """Commit several records at once, with payloads that lie at earlier positions.

        Raises JournalFull when the records do not fit.
        """
        if not self.room_for(len(rows)):
            raise JournalFull
        for i, (position, row) in enumerate(rows):
            self._write(self.count + i, position, row)
        self.count = self._words[W_COUNT] = self.count + len(rows)

    def _write(self, number: int, position: int, row: Row) -> None:
        RECORD.pack_into(self.buffer, self._index + number % self.shape.records * RECORD.size, position, *row)

    def note(self, kind: Kind, arrival_ns: int, epoch: int, times: int = 1) -> None:
        """Count `times` events of `kind`; runs of the same kind share a record."""
        if self.count > max(self.first, self._noted):
            last = self._records[(self.count - 1) % self.shape.records]
            if last["kind"] == kind and last["epoch"] == epoch:
                last["length"] += times
                return
        if self.count - self.first < self.shape.records - 1:
            self.append(Row(0, 0, arrival_ns, epoch, times, 0, 0, 0, kind))

    def mark_break(self, since_ns: int) -> None:
        """The program stopped here; packets that come now but arrived before `since_ns` waited for its next start."""
        if self.room_for(1):
            self.append(Row(0, 0, since_ns, 0, 0, 0, 0, 0, Kind.BREAK))

    def keep_notes(self) -> None:
        """Notes made so far stay as they are: somebody has counted them."""
        self._noted = self.count

    def records(self, first: int, stop: int | None = None) -> npt.NDArray[np.void]:
        """Records [first, stop) in order of admission; a copy when they wrap in the ring."""
        stop = self.count if stop is None else stop
        first = max(first, self.first)
        if first >= stop:
            return self._records[:0]
        size = self.shape.records
        a, b = first % size, (stop - 1) % size + 1
        if a < b:
            return self._records[a:b]
        return np.concatenate((self._records[a:], self._records[:b]))

    def payload(self, position: int, length: int) -> memoryview:
        """The bytes at a record's position; they must not cross the heap's end."""
        at = position % self.shape.heap
        return self.heap[at : at + length]

    def release(self, first: int) -> tuple[tuple[int, int], ...]:
        """Records before `first` are no longer needed.

        Returns the (offset, length) ranges of whole pages of the heap that hold nothing
        needed any more, for the caller to give back to the system.
        """
        first = min(max(first, self.first), self.count)
        if first == self.first:
            return ()
        begin = self._released
        kept = self.records(first)
        # Promoted packets keep the place they were held at, so positions need not be in order.
        released = int(kept["position"].min()) if len(kept) else self.position
        self._words[W_RELEASED] = self._released = released
        self._words[W_FIRST] = self.first = first
        return _pages(self.shape.heap_offset, self.shape.heap, begin, released)

    def used_fraction(self) -> float:
        """How much of the heap or the index is held, 0 to 1."""
        return max((self.position - self._released) / self.shape.heap, (self.count - self.first) / self.shape.records)


def _pages(offset: int, size: int, begin: int, end: int) -> tuple[tuple[int, int], ...]:
    """Whole pages of the ring [offset, offset+size) between two ever-growing positions."""
    begin, end = begin // PAGE * PAGE, end // PAGE * PAGE
    if end <= begin:
        return ()
    if end - begin >= size:
        return ((offset, size),)
    a, b = begin % size, end % size
    if a < b:
        return ((offset + a, b - a),)
    return tuple((offset + x, y) for x, y in ((a, size - a), (0, b)) if y)
