"""A channel's shared-memory segment: made, found again after a crash, and given back page by page."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Iterable
from typing import Any

from pipeline.cells import Cell
from pipeline.config import Channel, Recorder
from pipeline.hostclock import recorder_base
from pipeline.landing import LANDING_SIZE, Landing, reserved
from pipeline.shm import Segment, SharedMemoryError, segment_name
from pipeline.stream.journal import CHECKPOINT_SIZE, HEADER_SIZE, Journal, geometry
from pipeline.stream.recovery import packed, unpacked

MADV_REMOVE = mmap.MADV_REMOVE
# What a clock's readings may differ by when they are compared.
LANDED_MARGIN_NS = 1_000_000


def create_segment(instance: str, channel: Channel, recorder: Recorder) -> Segment:
    """A new, empty journal segment; SharedMemoryError when the name is taken."""
    shape = geometry(channel.sample_rate_hz, recorder.buffer_minutes)
    # Nobody but the workers has to read samples there.
    # The heap is filled by system calls alone, which report it when memory is short; its pages come and go.
    parts = [(0, shape.heap_offset), *((shape.size + offset, length) for offset, length in reserved())]
    segment = Segment.create(segment_name(instance, channel.id), shape.size + LANDING_SIZE, parts, mode=0o600)
    Journal.format(segment.buf, shape, channel.ssrc)
    return segment


def landing_of(segment: Segment, journal: Journal) -> Landing:
    """Where this channel's datagrams come down; one process at a time may receive there."""
    return Landing(segment.buf[journal.shape.size : journal.shape.size + LANDING_SIZE])


def open_segment(instance: str, channel: Channel, recorder: Recorder, waited: bool) -> Segment | None:
    """The journal that an earlier run left for this channel, with what it still holds, marked as broken off.

    `waited`: packets that arrived before now and come next were on sockets that outlived that
    run. None when there is none, or when it is another SSRC's or another layout's.
    """
    try:
        segment = Segment.open(segment_name(instance, channel.id), writable=True)
    except SharedMemoryError:
        return None
    journal = Journal.attach(segment.buf, channel.ssrc) if segment.size >= HEADER_SIZE else None
    if journal is None or segment.size < journal.shape.size + LANDING_SIZE:
        del journal
        segment.close()
        return None
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + recorder_base(journal)
    since = now if waited else 0
    landing = landing_of(segment, journal)
    if landing.waiting and not waited:
        # They came before the break, too; the next start takes longer than this margin.
        since = max(landing.lot(time.time_ns() - now).arrivals_ns) + LANDED_MARGIN_NS
    journal.mark_break(since)
    return segment


def checkpoint_cell(segment: Segment) -> Cell:
    """The cell in which a worker leaves what its successor needs."""
    return Cell(segment.buf, HEADER_SIZE, CHECKPOINT_SIZE)


def read_checkpoint(segment: Segment) -> dict[str, Any] | None:
    """What the last worker left, if it left anything whole."""
    payload = checkpoint_cell(segment).read()
    if payload is None:
        return None
    return unpacked(payload)


def write_checkpoint(segment: Segment, state: dict[str, Any]) -> None:
    """Publish a checkpoint; it replaces the last one as a whole or not at all."""
    checkpoint_cell(segment).write(packed(state))


def give_back(segment: Segment, ranges: Iterable[tuple[int, int]]) -> None:
    """Return pages of the segment to the system; they read as zeros afterwards."""
    for offset, length in ranges:
        # Filesystems other than tmpfs may not know it; the memory then stays until the ring comes round.
        with contextlib.suppress(OSError):
            segment.map.madvise(MADV_REMOVE, offset, length)
