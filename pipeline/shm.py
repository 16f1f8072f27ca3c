"""Named shared memory: POSIX segments, and the board of an instance, whose cells (`pipeline.cells`) lie in one."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import posix_ipc

from pipeline import PipelineError
from pipeline.cells import Cell, RecordCell, cell_size
from pipeline.records import AlertsRecord, ChannelRecord, ChildRecord, NtpRecord


class SharedMemoryError(PipelineError):
    """A segment is missing, foreign or of another version."""


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
