"""Named shared memory: POSIX segments, and cells that are read without lock or wait.

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

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import posix_ipc
from isal.isal_zlib import crc32

from pipeline import PipelineError
from pipeline.layout import Record
from pipeline.records import AlertsRecord, ChannelRecord, ChildRecord, NtpRecord

SLOT_HEADER_SIZE = 8
CELL_HEADER = 64
# No record is as long as this: such a slot is being filled and fits no sequence.
FILLING = (1 << 64) - 1
# The writer needs two whole publications while a reader copies one slot before that read
# fails; 64 in a row do not happen with a live writer and bound the wait with a mad one.
READ_TRIES = 64
_TRIES = range(READ_TRIES)


class SharedMemoryError(PipelineError):
    """A segment is missing, foreign or of another version."""


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


class Segment:
    """A named POSIX segment mapped whole; `buf` is its memory.

    `create` makes a new one and refuses an existing name; `open` maps an existing one.
    The mapping lives as long as the object; the name until `unlink`.
    """

    def __init__(self, name: str, fd: int, size: int, writable: bool) -> None:
        self.name = name
        self.size = size
        self.map = mmap.mmap(fd, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        self._fd = os.dup(fd) if writable else -1
        self.buf = memoryview(self.map)

    @classmethod
    def create(
        cls, name: str, size: int, reserve: Iterable[tuple[int, int]] | None = None, mode: int = 0o644
    ) -> Segment:
        """A new zeroed segment with this mode whatever the umask; `size` bytes, rounded up to pages.

        The (offset, length) parts in `reserve` (all by default) are taken at once: a full
        /dev/shm is an error here instead of a SIGBUS in whoever first touches a page that is
        not there. The rest may only be written by system calls, which report it. Raises
        SharedMemoryError.
        """
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            shm = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=mode, size=size)
        except posix_ipc.ExistentialError:
            raise SharedMemoryError(f"shared memory segment {name} exists; is another instance running?") from None
        try:
            for offset, length in ((0, size),) if reserve is None else reserve:
                os.posix_fallocate(shm.fd, offset, length)
            os.fchmod(shm.fd, mode)
            return cls(name, shm.fd, size, writable=True)
        except OSError as error:
            unlink(name)
            raise SharedMemoryError(
                f"no room for shared memory segment {name} of {size >> 20} MiB ({error.strerror}); enlarge /dev/shm "
                "(`mount -o remount,size=... /dev/shm`) or lower recorder.buffer_minutes"
            ) from error
        finally:
            shm.close_fd()

    @classmethod
    def open(cls, name: str, writable: bool = False) -> Segment:
        """Map an existing segment.

        Raises SharedMemoryError when there is none or it cannot be opened. Who writes into one, and so believes
        what is there, takes only his own and root's.
        """
        try:
            shm = posix_ipc.SharedMemory(name, 0, read_only=not writable)
        except posix_ipc.ExistentialError:
            raise SharedMemoryError(f"no shared memory segment {name}; nothing runs under this instance name") from None
        except posix_ipc.PermissionsError:
            raise SharedMemoryError(f"shared memory segment {name} belongs to another user") from None
        try:
            state = os.fstat(shm.fd)
            if writable and state.st_uid not in (0, os.geteuid()):
                raise SharedMemoryError(f"shared memory segment {name} belongs to another user")
            return cls(name, shm.fd, state.st_size, writable)
        finally:
            shm.close_fd()

    def fileno(self) -> int:
        """The descriptor of a writable segment, for calls that report it when there is no memory for a page."""
        return self._fd

    def close(self) -> None:
        """Drop the mapping if no view of it is alive."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.buf.release()
        with contextlib.suppress(BufferError):
            self.map.close()

    def unlink(self) -> None:
        """Remove the name; mappings stay valid. Harmless when it is gone already."""
        unlink(self.name)


def unlink(name: str) -> None:
    """Remove a segment's name if it exists; SharedMemoryError when it is another user's."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        pass
    except posix_ipc.PermissionsError:
        raise SharedMemoryError(
            f"shared memory segment {name} belongs to another user; remove /dev/shm{name}"
        ) from None


MAGIC = int.from_bytes(b"GRAPEPL1", "little")
VERSION = 2
MAX_CHANNELS = 512
HEADER_SIZE = 4096
HEADER = struct.Struct("<QIIqqIIIIIIIIII64s")


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of the instance's segment; written once, before the first fork."""

    magic: int
    version: int
    header_size: int
    created_utc_ns: int
    created_monotonic_ns: int
    supervisor_pid: int
    max_channels: int
    ntp_offset: int
    ntp_diagnostics_offset: int
    channels_offset: int
    channel_stride: int
    children_offset: int
    child_stride: int
    alerts_offset: int
    alerts_report_offset: int
    instance: str


def segment_name(instance: str, channel_id: str = "") -> str:
    """`/grape-pipeline-<instance>` or `/grape-pipeline-<instance>-<channel>`."""
    return f"/grape-pipeline-{instance}" + (f"-{channel_id}" if channel_id else "")


# Room for the monitor's counters as JSON text; read by people's tools, never by workers.
DIAGNOSTICS_SIZE = 16384


class Board:
    """The instance's segment: one NTP cell, one cell per channel, one per child, two for alerts.

    `ntp` is written by the monitor, `channels[i]` by the worker of channel i,
    `children[i]` by the supervisor (0 itself, 1 the monitor, 2 + i the worker of channel
    i) and so `alerts`, the process that tells, which writes `alerts_report`; `diagnostics`
    (JSON text) by the monitor.
    """

    def __init__(self, segment: Segment, header: Header) -> None:
        self.segment = segment
        self.header = header
        view = segment.buf
        self.ntp = RecordCell(view, header.ntp_offset, NtpRecord)
        self.diagnostics = Cell(view, header.ntp_diagnostics_offset, DIAGNOSTICS_SIZE)
        self.channels = [
            RecordCell(view, header.channels_offset + i * header.channel_stride, ChannelRecord)
            for i in range(header.max_channels)
        ]
        self.children = [
            RecordCell(view, header.children_offset + i * header.child_stride, ChildRecord)
            for i in range(header.max_channels + 2)
        ]
        self.alerts = RecordCell(view, header.alerts_offset, ChildRecord)
        self.alerts_report = RecordCell(view, header.alerts_report_offset, AlertsRecord)

    @classmethod
    def create(cls, instance: str, supervisor_pid: int, utc_ns: int, monotonic_ns: int) -> Board:
        """Make the segment of `instance`; SharedMemoryError when the name is taken."""
        ntp = HEADER_SIZE
        diagnostics = ntp + cell_size(NtpRecord.LAYOUT.size)
        channels = diagnostics + cell_size(DIAGNOSTICS_SIZE)
        channel_stride = cell_size(ChannelRecord.LAYOUT.size)
        children = channels + MAX_CHANNELS * channel_stride
        child_stride = cell_size(ChildRecord.LAYOUT.size)
        alerts = children + (MAX_CHANNELS + 2) * child_stride
        report = alerts + child_stride
        header = Header(
            MAGIC, VERSION, HEADER_SIZE, utc_ns, monotonic_ns, supervisor_pid, MAX_CHANNELS,
            ntp, diagnostics, channels, channel_stride, children, child_stride, alerts, report, instance,
        )  # fmt: skip
        segment = Segment.create(segment_name(instance), report + cell_size(AlertsRecord.LAYOUT.size))
        values = [getattr(header, name) for name in Header.__slots__[:-1]]
        packed = HEADER.pack(*values, instance.encode())
        segment.buf[8 : HEADER.size] = packed[8:]
        segment.buf[:8] = packed[:8]  # the magic number last: whoever sees it sees all
        return cls(segment, header)

    @classmethod
    def open(cls, instance: str) -> Board:
        """Map the segment of a running (or dead) instance for reading."""
        segment = Segment.open(segment_name(instance))
        if segment.size < HEADER_SIZE:
            raise SharedMemoryError(f"shared memory segment {segment.name} is empty")
        values = list(HEADER.unpack_from(segment.buf))
        values[-1] = values[-1].rstrip(b"\0").decode(errors="replace")
        header = Header(*values)
        if header.magic != MAGIC:
            raise SharedMemoryError(f"shared memory segment {segment.name} is not grape-pipeline's")
        if header.version != VERSION:
            raise SharedMemoryError(
                f"shared memory segment {segment.name} has layout {header.version}, this program reads {VERSION}"
            )
        workers = header.children_offset + (header.max_channels + 2) * header.child_stride
        if segment.size < max(workers, header.alerts_report_offset + cell_size(AlertsRecord.LAYOUT.size)):
            raise SharedMemoryError(f"shared memory segment {segment.name} is cut short: {segment.size} bytes")
        return cls(segment, header)
