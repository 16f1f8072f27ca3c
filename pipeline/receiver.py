"""From a channel's sockets into its journal.

Packets come down in the channel's shared memory (`pipeline.landing`), many in one call, and go from there into the
journal: runs of packets that follow one another as a whole, all others one by one. A worker that dies in between leaves
them where they are; its successor knows those that the journal has already by their kernel receive stamps.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

import numpy as np

from pipeline.landing import SECOND, SLOTS
from pipeline.segments import give_back, landing_of
from pipeline.shm import Segment
from pipeline.stream.intake import Intake
from pipeline.stream.journal import MAX_DATAGRAM, JournalFull, Kind
from pipeline.stream.lot import Lot
from pipeline.stream.rtp import HEADER_SIZE, RtpError, parse, wrap16, wrap32
from pipeline.stream.source import Arrival

TIMESPEC = struct.Struct("@ll")
ANCILLARY = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(64)
# How the kernel says that a page of the journal could not be had.
NO_MEMORY = (errno.EFAULT, errno.ENOMEM, errno.ENOSPC)
# Packets taken in one go before the rest of the worker gets its turn.
BATCH = 2000
# Bytes of a run. With what must be left free besides, it fits into what the journal has beyond its minutes.
LONGEST_RUN = 2 * MAX_DATAGRAM


class Receiver:
    """Drains one channel's data and status sockets into `intake`, whose journal and landing `segment` holds.

    `shift_ns` is taken off the kernel's stamps: host's clock - recorder's clock (`pipeline.hostclock`).
    """

    def __init__(
        self,
        data: socket.socket,
        status: tuple[socket.socket, ...],
        ssrc: int,
        intake: Intake,
        segment: Segment,
        shift_ns: int = 0,
    ) -> None:
        self._data = data
        self._status = status
        self._ssrc = ssrc
        self._intake = intake
        self._segment = segment
        self._landing = landing_of(segment, intake.journal)
        self._one = bytearray(1)
        self.shift_ns = shift_ns
        self._local: dict[str, bool] = {}
        self.full = False
        self._taken = 0
        # Of the lot in the landing, when it came: `shift_ns` and the intake's `untimed`.
        self._landed = (shift_ns, 0)
        self.statuses = 0
        self._skip_placed()

    def _skip_placed(self) -> None:
        """Pass over what the predecessor committed and died before it could say so.

        What it only counted is counted again.
        """
        journal, landing = self._intake.journal, self._landing
        if not landing.waiting:
            return
        rows = journal.records(journal.first)
        # Behind a packet there may be a note of what it decided.
        packets = np.flatnonzero((rows["kind"] == Kind.DATA) | (rows["kind"] == Kind.HELD))
        if not len(packets):
            return
        last = rows[packets[-1]]
        known = (wrap16(int(last["sequence"])), wrap32(int(last["timestamp"])), int(last["arrival_ns"]))
        lot = landing.lot(self.shift_ns)
        for slot, header, arrival_ns in zip(landing.waiting, lot.headers, lot.arrivals_ns, strict=True):
            if (header[2], header[3], arrival_ns) == known:
                landing.done(slot + 1)
                return

    def drain(self) -> int:
        """Take what is on the data socket; returns how many datagrams that were.

        Sets `full` and leaves the rest where it is when the journal has no room.
        """
        self._taken, self.full = 0, False
        untimed = self._intake.untimed
        while self._taken < BATCH:
            try:
                found = self._receive(untimed)
                self._place()
            except JournalFull:
                self.full = True
            except OSError as error:
                # The system has no page left for the journal; the datagrams stay in their slots.
                if error.errno not in NO_MEMORY:
                    raise
                self.full = True
            if self.full or found < SLOTS:
                break
        self._intake.untimed = untimed
        return self._taken

    @property
    def waiting(self) -> bool:
        """True while packets that were taken off the queue have no place in the journal."""
        return bool(self._landing.waiting)

    def _receive(self, untimed: int) -> int:
        """Let packets come down, if there is room for one; returns how many the queue may still have had."""
        # Statuses need room, too, when no packet comes.
        self._intake.journal.room()
        if self._landing.waiting:
            return SLOTS
        self._landed = (self.shift_ns, untimed)
        try:
            return self._landing.receive(self._data)
        except OSError as error:
            if error.errno not in NO_MEMORY:
                raise
            # A datagram of more than a page came when the system had none: that one is gone.
            self._intake.bad(0)
            self._taken += 1
            return SLOTS

    def _place(self) -> None:
        """What waits in the landing goes into the journal: a run, or one packet, after the other."""
        landing, source = self._landing, self._intake.source
        shift_ns, self._intake.untimed = self._landed
        waiting, lot = landing.waiting, landing.lot(shift_ns)
        begin, stop = 0, len(waiting)
        while begin < stop:
            end = source.run_end(lot, begin, self._ssrc, LONGEST_RUN)
            if end > begin:
                self._place_run(lot, begin, end, waiting.start)
            else:
                end = begin + 1
                self._place_one(lot, begin, waiting.start + begin)
            landing.done(waiting.start + end)
            self._taken += end - begin
            begin = end
        if tails := landing.tails(lot.lengths):
            first = self._intake.journal.shape.size
            give_back(self._segment, [(first + at, length) for at, length in tails])

    def _place_run(self, lot: Lot, begin: int, end: int, slot: int) -> None:
        lengths = lot.lengths[begin:end]
        # A status may be what says how the packets are labelled; it must not find the journal full of them.
        at = self._intake.journal.room(sum(lengths) + MAX_DATAGRAM, end - begin + 1)
        payloads = self._landing.payloads[slot + begin : slot + end]
        self._store(at, [payload[:length] for payload, length in zip(payloads, lengths, strict=True)])
        self._intake.run(lot, begin, end)

    def _place_one(self, lot: Lot, row: int, slot: int) -> None:
        length = lot.lengths[row]
        at = self._intake.journal.room()
        if not lot.is_plain(row, self._ssrc):
            self._unusual(self._landing.datagrams[slot][: length + HEADER_SIZE], at, lot, row)
            return
        self._store(at, [self._landing.payloads[slot][:length]])
        self._intake.packet(lot.packet(row))

    def _store(self, at: int, payloads: list[memoryview]) -> None:
        """Payloads one after the other to offset `at` of the heap.

        By a system call, since that can say that there is no memory.
        """
        wanted = sum(map(len, payloads))
        if os.pwritev(self._segment.fileno(), payloads, self._intake.journal.shape.heap_offset + at) < wanted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unusual(self, datagram: memoryview, at: int, lot: Lot, row: int) -> None:
        """A datagram that is of no use, or RTP with options that radiod never sends."""
        intake, arrival_ns, origin = self._intake, lot.arrivals_ns[row], lot.origins[row]
        try:
            packet = parse(datagram)
        except RtpError:
            intake.bad(arrival_ns)
            return
        payload = datagram[packet.payload_start : packet.payload_end]
        if packet.ssrc != self._ssrc or not payload:
            intake.bad(arrival_ns)
            return
        self._store(at, [payload])
        intake.packet(Arrival(packet.marker, packet.sequence, packet.timestamp, len(payload), origin, arrival_ns))

    def drain_status(self) -> None:
        """Take what is on the status sockets; foreign and malformed datagrams are passed over."""
        journal = self._intake.journal
        for sock in self._status:
            for _ in range(BATCH):
                try:
                    at = journal.room()
                    size, stamps, _, origin = sock.recvmsg_into([journal.heap[at : at + MAX_DATAGRAM]], ANCILLARY)
                except (BlockingIOError, JournalFull):
                    break
                except OSError as error:
                    if error.errno not in NO_MEMORY:
                        raise
                    break
                shift = self.shift_ns if self.shift_ns and self._is_local(origin[0]) else 0
                if self._intake.status(size, _stamp(stamps, self.shift_ns), shift):
                    self.statuses += 1

    def drain_foreign(self, sock: socket.socket) -> None:
        """Count what strangers sent under this SSRC; so many at a time, the rest is thrown away by the kernel."""
        for _ in range(BATCH):
            try:
                sock.recv_into(self._one)
            except BlockingIOError:
                return
            self._intake.bad(0)

    def _is_local(self, address: str) -> bool:
        """True for an address of this host: then what sends from it reads this host's clock."""
        if address not in self._local:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((address, 0))
                    self._local[address] = True
                except OSError:
                    self._local[address] = False
        return self._local[address]


def _stamp(stamps: list[tuple[int, int, bytes]], shift_ns: int) -> int:
    """The kernel's receive stamp (SO_TIMESTAMPNS) by the recorder's clock, ns since 1970; 0 when there is none."""
    for _, _, data in stamps:
        if len(data) == TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack(data)
            return int(seconds) * SECOND + int(nanoseconds) - shift_ns
    return 0
