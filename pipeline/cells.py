"""Cells: records in shared memory that are read without lock or wait.

A cell is the two-slot (latch) form of a seqlock. One process writes, any number read:

    byte 0   u64  sequence of the newest whole record, 0 = none yet
    byte 64  slot 0, byte 64 + slot_size  slot 1; record k lies in slot k & 1:
             u32 crc32 of the payload, seeded with the low half of k; u32 length; payload

The writer marks the older slot (all bits of its first word), fills it, and only then
moves the cell's first word on. A writer that dies half-way has touched only the slot
that nobody is pointed to, so a reader always has a good record. A reader copies the
slot that word 0 names and accepts it if the CRC, seeded with the sequence that it looked
for, fits: on a weakly-ordered CPU Python has no barriers, and the CRC is what makes a
mixture of two records, or the slot's former record, impossible to mistake for this one.

Single words are stored and loaded through `memoryview.cast("Q")`, which is one aligned
8-byte access; `struct.pack_into` passes through zero and is never used on a live word.
isal's crc32 is zlib's polynomial at a third of the time (tests/bench/bench_shm.py).
"""

from __future__ import annotations

import mmap
from typing import Any, Generic, TypeVar

from isal.isal_zlib import crc32

from pipeline.layout import Record

SLOT_HEADER_SIZE = 8
CELL_HEADER = 64
# No record is as long as this: such a slot is being filled and fits no sequence.
FILLING = (1 << 64) - 1
# The writer needs two whole publications while a reader copies one slot before that read
# fails; 64 in a row do not happen with a live writer and bound the wait with a mad one.
READ_TRIES = 64
_TRIES = range(READ_TRIES)


def slot_size(payload_size: int) -> int:
    """Bytes of one slot, a whole number of cache lines."""
    return -(-(SLOT_HEADER_SIZE + payload_size) // 64) * 64


def cell_size(payload_size: int) -> int:
    """Bytes of one cell for payloads of up to `payload_size`."""
    return CELL_HEADER + 2 * slot_size(payload_size)


class Cell:
    """Reads and writes one cell within a mapping; `offset` must be a multiple of 64."""

    __slots__ = ("_bytes", "_capacity", "_copy", "_header", "_slots", "_words")

    def __init__(self, view: memoryview, offset: int, payload_size: int) -> None:
        if offset % 64:
            raise ValueError(f"cell offset {offset} is not a multiple of 64")
        self._bytes = view
        self._words = view.cast("Q")
        # A slice of the mapping itself is a copy made in one step; a view's slice takes two.
        whole = isinstance(view.obj, mmap.mmap) and len(view.obj) == view.nbytes
        self._copy: Any = view.obj if whole else _Copier(view)
        self._header = offset // 8
        starts = (offset + CELL_HEADER, offset + CELL_HEADER + slot_size(payload_size))
        self._slots = tuple((start // 8, start + SLOT_HEADER_SIZE) for start in starts)
        self._capacity = payload_size

    def write(self, payload: bytes) -> None:
        """Publish `payload`; only the cell's one writer may call this."""
        size = len(payload)
        if size > self._capacity:
            raise ValueError(f"record of {size} bytes in a cell of {self._capacity}")
        words = self._words
        sequence = words[self._header] + 1
        mark, start = self._slots[sequence & 1]
        words[mark] = FILLING
        self._bytes[start : start + size] = payload
        words[mark] = crc32(payload, sequence & 0xFFFFFFFF) | size << 32
        words[self._header] = sequence

    def sequence(self) -> int:
        """How many records were published; changes with each, so a reader can skip what it has seen."""
        found: int = self._words[self._header]
        return found

    def read(self) -> bytes | None:
        """The newest whole record; None when nothing was ever written or nothing whole is there."""
        words = self._words
        for _ in _TRIES:
            sequence = words[self._header]
            if not sequence:
                return None
            mark, start = self._slots[sequence & 1]
            found = words[mark]
            length = found >> 32
            if length <= self._capacity:
                payload: bytes = self._copy[start : start + length]
                if crc32(payload, sequence & 0xFFFFFFFF) == found & 0xFFFFFFFF:
                    return payload
        return None


class _Copier:
    """Slices of a memoryview as bytes, for cells in a part of a mapping."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._view[part])


R = TypeVar("R", bound=Record)


class RecordCell(Generic[R]):
    """A cell that holds one kind of record; keeps the newest one decoded."""

    __slots__ = ("_cell", "_kind", "_newest")

    def __init__(self, view: memoryview, offset: int, kind: type[R]) -> None:
        self._cell = Cell(view, offset, kind.LAYOUT.size)
        self._kind = kind
        self._newest = (0, kind())

    def write(self, record: R) -> None:
        """Publish `record`; only the one writer may call this."""
        self._cell.write(record.to_bytes())

    def read(self) -> R:
        """The newest whole record, or the kind's defaults (all unknown) when there is none."""
        seen, record = self._newest
        sequence = self._cell.sequence()
        if sequence == seen:
            return record
        payload = self._cell.read()
        if payload is None:
            return self._kind()
        # The payload may be newer than `sequence`; then the next read decodes it once more.
        self._newest = (sequence, self._kind.from_bytes(payload))
        return self._newest[1]
