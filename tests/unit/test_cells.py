"""Cells: what a reader gets in every state that a writer can leave behind."""

from __future__ import annotations

import mmap
import struct
from typing import Any

import pytest
from isal.isal_zlib import crc32

from pipeline.cells import CELL_HEADER, FILLING, READ_TRIES, Cell, RecordCell, cell_size, slot_size
from pipeline.records import ChildRecord


def cell_of(payload_size: int, offset: int = 0) -> tuple[Cell, memoryview]:
    view = memoryview(bytearray(offset + cell_size(payload_size)))
    return Cell(view, offset, payload_size), view


def test_an_unwritten_cell_has_nothing() -> None:
    cell, _ = cell_of(100)
    assert cell.read() is None
    assert cell.sequence() == 0


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100])
def test_what_is_written_is_read(size: int) -> None:
    cell, _ = cell_of(100, offset=128)
    for turn in range(5):
        payload = bytes([turn]) * size
        cell.write(payload)
        assert cell.read() == payload
        assert cell.sequence() == turn + 1


def test_a_mapping_and_a_part_of_a_mapping_read_alike() -> None:
    memory = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    whole = Cell(memory, 256, 50)
    part = Cell(memory[256:1024], 0, 50)
    whole.write(b"abc")
    assert (whole.read(), part.read()) == (b"abc", b"abc")
    assert type(part.read()) is bytes


def test_a_cell_refuses_what_it_cannot_hold() -> None:
    cell, _ = cell_of(100)
    with pytest.raises(ValueError, match="101 bytes in a cell of 100"):
        cell.write(bytes(101))
    with pytest.raises(ValueError, match="multiple of 64"):
        Cell(memoryview(bytearray(1024)), 8, 100)


def test_the_bytes_are_as_documented() -> None:
    cell, view = cell_of(60)
    cell.write(b"first")
    cell.write(b"second")
    cell.write(b"third!!")
    slot = slot_size(60)
    assert slot == 128
    assert struct.unpack_from("<Q", view) == (3,)
    for k, payload in ((2, b"second"), (3, b"third!!")):
        at = CELL_HEADER + (k & 1) * slot
        assert struct.unpack_from("<II", view, at) == (crc32(payload, k), len(payload))
        assert bytes(view[at + 8 : at + 8 + len(payload)]) == payload


class DyingMemory:
    """A view that lets `stores` stores through and then the writer dies."""

    def __init__(self, view: memoryview, budget: list[int], torn: bool = False) -> None:
        self._view = view
        self._budget = budget
        self._torn = torn

    def __getitem__(self, at: Any) -> Any:
        return self._view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        if self._budget[0] == 0:
            if self._torn and isinstance(at, slice):
                half = len(value) // 2
                self._view[at.start : at.start + half] = value[:half]
            raise InterruptedError
        self._budget[0] -= 1
        self._view[at] = value


STORES_PER_WRITE = 4


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("stores", range(STORES_PER_WRITE))
def test_a_writer_that_dies_at_any_store_leaves_the_former_record(stores: int, before: int, torn: bool) -> None:
    reader, view = cell_of(64)
    for turn in range(before):
        reader.write(bytes([turn]) * 64)
    former = bytes([before - 1]) * 64 if before else None
    doomed = Cell(view, 0, 64)
    budget = [stores]
    doomed._words = DyingMemory(doomed._words, budget)  # type: ignore[assignment]
    doomed._bytes = DyingMemory(view, budget, torn)  # type: ignore[assignment]
    with pytest.raises(InterruptedError):
        doomed.write(b"\xee" * 64)
    assert reader.read() == former
    reader.write(b"\xdd" * 64)  # the successor
    assert reader.read() == b"\xdd" * 64


def test_a_write_is_that_many_stores() -> None:
    cell, view = cell_of(64)
    budget = [STORES_PER_WRITE]
    cell._words = DyingMemory(cell._words, budget)  # type: ignore[assignment]
    cell._bytes = DyingMemory(view, budget)  # type: ignore[assignment]
    cell.write(b"x")
    assert budget == [0]


def test_a_mixture_of_two_records_is_not_accepted() -> None:
    cell, view = cell_of(64)
    cell.write(b"a" * 64)
    cell.write(b"b" * 64)
    at = CELL_HEADER + 8
    view[at : at + 8] = b"a" * 8
    assert cell.read() is None


def test_the_slots_former_record_is_not_taken_for_the_new_one() -> None:
    """What a weakly-ordered CPU can show: the sequence has arrived, the slot's new content has not."""
    cell, view = cell_of(64)
    cell.write(b"old")
    cell.write(b"other")
    struct.pack_into("<Q", view, 0, 3)
    assert cell.read() is None


class CountedMemory:
    """A view that counts loads of the cell's first word."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.looks = 0

    def __getitem__(self, at: int) -> int:
        self.looks += at == 0
        return self._view[at]


@pytest.mark.parametrize("mark", [FILLING, 0, 2, 64 << 32, 65 << 32, (1 << 63) - 1])
def test_a_mad_writer_is_given_up_after_a_bounded_number_of_looks(mark: int) -> None:
    cell, view = cell_of(64)
    cell.write(b"x" * 64)
    words = view.cast("Q")
    words[(CELL_HEADER + slot_size(64)) >> 3] = mark
    cell._words = counted = CountedMemory(words)  # type: ignore[assignment]
    assert cell.read() is None
    assert counted.looks == READ_TRIES


def test_sequence_passes_32_bits() -> None:
    cell, view = cell_of(64)
    view.cast("Q")[0] = (1 << 32) - 2
    for turn in range(4):
        cell.write(bytes([turn]) * 8)
        assert cell.read() == bytes([turn]) * 8
    assert cell.sequence() == (1 << 32) + 2


# -- records ----------------------------------------------------------------------------


def test_a_record_cell_gives_defaults_until_it_is_written() -> None:
    view = memoryview(bytearray(cell_size(ChildRecord.LAYOUT.size)))
    cell = RecordCell(view, 0, ChildRecord)
    assert cell.read() == ChildRecord()
    cell.write(ChildRecord(pid=7, name="ntp"))
    assert (cell.read().pid, cell.read().name) == (7, "ntp")


def test_a_record_cell_sees_every_change_of_another_writer() -> None:
    view = memoryview(bytearray(cell_size(ChildRecord.LAYOUT.size)))
    reader, writer = RecordCell(view, 0, ChildRecord), RecordCell(view, 0, ChildRecord)
    for pid in range(1, 20):
        writer.write(ChildRecord(pid=pid))
        assert reader.read().pid == pid
        assert reader.read() is reader.read()


def test_a_record_that_overtakes_a_read_is_seen_by_the_next() -> None:
    """The writer publishes right after the reader's copy: what was copied must not pass for the newer one."""
    view = memoryview(bytearray(cell_size(ChildRecord.LAYOUT.size)))
    reader, writer = RecordCell(view, 0, ChildRecord), RecordCell(view, 0, ChildRecord)
    writer.write(ChildRecord(pid=1))

    class Overtaken:
        def sequence(self) -> int:
            return writer._cell.sequence()

        def read(self) -> bytes | None:
            payload = writer._cell.read()
            writer.write(ChildRecord(pid=2))
            return payload

    cell, reader._cell = reader._cell, Overtaken()  # type: ignore[assignment]
    assert reader.read().pid == 1
    reader._cell = cell
    assert reader.read().pid == 2


def test_unreadable_slots_give_defaults_and_are_not_remembered() -> None:
    view = memoryview(bytearray(cell_size(ChildRecord.LAYOUT.size)))
    cell = RecordCell(view, 0, ChildRecord)
    cell.write(ChildRecord(pid=7))
    at = CELL_HEADER + slot_size(ChildRecord.LAYOUT.size) + 8
    kept = view[at]
    view[at] = kept ^ 1
    assert cell.read() == ChildRecord()
    view[at] = kept
    assert cell.read().pid == 7
