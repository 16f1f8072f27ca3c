"""Segments and the board of an instance: who may open them, and what a foreign one is refused for."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from pipeline import shm
from pipeline.cells import Cell
from pipeline.records import AlertsRecord, ChannelRecord, ChildRecord, NtpRecord
from pipeline.shm import Board, Segment, SharedMemoryError

INSTANCE = f"test-shm-{os.getpid()}"


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(f"/{INSTANCE}", 10_000)
    yield made
    made.unlink()


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(INSTANCE, supervisor_pid=42, utc_ns=7, monotonic_ns=9)
    yield made
    made.segment.unlink()


# -- segments ---------------------------------------------------------------------------


def test_a_segment_is_seen_by_whoever_opens_it(segment: Segment) -> None:
    assert segment.size == 12288
    segment.buf[:3] = b"abc"
    reader = Segment.open(segment.name)
    assert bytes(reader.buf[:3]) == b"abc"
    with pytest.raises(TypeError):
        reader.buf[0] = 1
    writer = Segment.open(segment.name, writable=True)
    writer.buf[0:1] = b"z"
    assert bytes(reader.buf[:3]) == b"zbc"


def test_a_segment_is_readable_by_all_and_writable_by_its_owner(segment: Segment) -> None:
    old = os.umask(0o077)
    try:
        other = Segment.create(f"/{INSTANCE}-umask", 1)
    finally:
        os.umask(old)
    assert Path(f"/dev/shm/{INSTANCE}-umask").stat().st_mode & 0o777 == 0o644
    other.unlink()


def test_an_existing_name_is_refused(segment: Segment) -> None:
    with pytest.raises(SharedMemoryError, match="exists; is another instance running"):
        Segment.create(segment.name, 1)


def test_a_missing_segment_says_so() -> None:
    with pytest.raises(SharedMemoryError, match="nothing runs under this instance name"):
        Segment.open(f"/{INSTANCE}-nothing")
    shm.unlink(f"/{INSTANCE}-nothing")


def test_no_room_is_an_error_and_leaves_no_name() -> None:
    free = os.statvfs("/dev/shm")
    with pytest.raises(SharedMemoryError, match="no room .*enlarge /dev/shm"):
        Segment.create(f"/{INSTANCE}-huge", free.f_blocks * free.f_frsize * 2)
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.SharedMemory(f"/{INSTANCE}-huge", 0)


def test_close_drops_the_mapping(segment: Segment) -> None:
    reader = Segment.open(segment.name)
    reader.close()
    assert reader.map.closed


def test_close_waits_for_the_last_view(segment: Segment) -> None:
    reader = Segment.open(segment.name)
    cell = Cell(reader.buf, 0, 64)
    reader.close()
    assert not reader.map.closed
    assert cell.read() is None


# -- the board --------------------------------------------------------------------------


def test_a_reader_of_the_board_sees_every_cell(board: Board) -> None:
    board.ntp.write(NtpRecord(offset_ms=1.5))
    board.diagnostics.write(b"{}")
    last = board.header.max_channels - 1
    board.channels[0].write(ChannelRecord(name="first"))
    board.channels[last].write(ChannelRecord(name="last"))
    board.children[last + 2].write(ChildRecord(name="end"))
    board.alerts.write(ChildRecord(name="alerts"))
    board.alerts_report.write(AlertsRecord(reason="r" * 120))
    seen = Board.open(INSTANCE)
    assert seen.header == board.header
    assert (seen.header.instance, seen.header.supervisor_pid, seen.header.created_utc_ns) == (INSTANCE, 42, 7)
    assert seen.ntp.read().offset_ms == 1.5
    assert seen.diagnostics.read() == b"{}"
    assert (seen.channels[0].read().name, seen.channels[last].read().name) == ("first", "last")
    assert seen.channels[1].read().name == ""
    assert seen.children[last + 2].read().name == "end"
    assert (seen.alerts.read().name, seen.alerts_report.read().reason) == ("alerts", "r" * 120)


def test_neighbouring_cells_do_not_touch(board: Board) -> None:
    for i in range(4):
        for turn in range(2):  # both slots
            board.channels[i].write(ChannelRecord(name=str(i), reason="x" * 120, epoch_id=turn))
            board.children[i].write(ChildRecord(name=str(i), reason="y" * 120, pid=turn))
        board.diagnostics.write(b"d" * shm.DIAGNOSTICS_SIZE)
        board.ntp.write(NtpRecord(source="s" * 40))
    assert [board.channels[i].read().name for i in range(5)] == ["0", "1", "2", "3", ""]
    assert [board.children[i].read().name for i in range(5)] == ["0", "1", "2", "3", ""]
    assert board.diagnostics.read() == b"d" * shm.DIAGNOSTICS_SIZE
    assert board.ntp.read().source == "s" * 40


def test_a_second_board_of_one_instance_is_refused(board: Board) -> None:
    with pytest.raises(SharedMemoryError, match="is another instance running"):
        Board.create(INSTANCE, 1, 2, 3)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(0, 0, "is not grape-pipeline's"), (8, shm.VERSION + 1, "this program reads"), (36, 100_000, "cut short")],
)
def test_a_foreign_board_is_refused(board: Board, at: int, value: int, message: str) -> None:
    struct.pack_into("<I", board.segment.buf, at, value)
    with pytest.raises(SharedMemoryError, match=message):
        Board.open(INSTANCE)


def test_names_of_segments() -> None:
    assert shm.segment_name("default") == "/grape-pipeline-default"
    assert shm.segment_name("default", "WWV_10_MHz") == "/grape-pipeline-default-WWV_10_MHz"
