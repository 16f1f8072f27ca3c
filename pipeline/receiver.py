"""From a channel's sockets into its journal, datagram by datagram.

Each datagram is looked at on the queue (MSG_PEEK) with its payload going straight to its
place in shared memory, committed, and only then taken off. A worker that dies in between
leaves the datagram on the queue, which the supervisor keeps; its successor sees it again
and recognises it by its kernel receive stamp.
"""

from __future__ import annotations

import errno
import socket
import struct

from pipeline.stream.intake import Intake
from pipeline.stream.journal import FLAG_MARKER, MAX_DATAGRAM, JournalFull, Kind, Row
from pipeline.stream.rtp import HEADER, HEADER_SIZE, MARKER, VERSION_BITS, RtpError, parse, wrap32
from pipeline.stream.source import Arrival

TIMESPEC = struct.Struct("@ll")
ANCILLARY = socket.CMSG_SPACE(TIMESPEC.size) + socket.CMSG_SPACE(64)
SECOND = 1_000_000_000
# How the kernel says that a page of the journal could not be had.
NO_MEMORY = (errno.EFAULT, errno.ENOMEM)
# Packets taken in one go before the rest of the worker gets its turn.
BATCH = 2000


class Receiver:
    """Drains one channel's data and status sockets into `intake`.

    `shift_ns` is taken off the kernel's stamps: host's clock - recorder's clock (`pipeline.hostclock`).
    """

    def __init__(
        self, data: socket.socket, status: tuple[socket.socket, ...], ssrc: int, intake: Intake, shift_ns: int = 0
    ) -> None:
        self._data = data
        self._status = status
        self._ssrc = ssrc
        self._intake = intake
        self._header = bytearray(HEADER_SIZE)
        self._one = bytearray(1)
        self._last_origin = ("", 0)
        self._last_address = 0
        self.shift_ns = shift_ns
        self._local: dict[str, bool] = {}
        self.full = False
        self.taken = 0
        self.statuses = 0
        self._skip_known_head()

    def _skip_known_head(self) -> None:
        """Take the head of the queue off if the predecessor committed it and died before taking it."""
        journal = self._intake.journal
        if journal.count in (journal.taken, journal.first):
            return
        last = journal.records(journal.count - 1)[0]
        journal.mark_taken()
        if last["kind"] not in (Kind.DATA, Kind.HELD):
            return
        try:
            size, stamps, _, _ = self._data.recvmsg_into([self._header], ANCILLARY, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if size < HEADER_SIZE:
            return
        _, _, sequence, timestamp, _ = HEADER.unpack(self._header)
        if (sequence, timestamp, _stamp(stamps, self.shift_ns)) == (
            int(last["sequence"]) & 0xFFFF,
            wrap32(int(last["timestamp"])),
            int(last["arrival_ns"]),
        ):
            self._data.recv_into(self._one)

    def drain(self) -> int:
        """Take what is on the data socket; returns how many datagrams that were.

        Sets `full` and leaves the rest on the queue when the journal has no room.
        """
        intake, journal, header = self._intake, self._intake.journal, self._header
        source, unpack = intake.source, HEADER.unpack
        peek, take = self._data.recvmsg_into, self._data.recv_into
        heap, one, ssrc, shift, untimed = journal.heap, self._one, self._ssrc, self.shift_ns, intake.untimed
        self.full = False
        for number in range(BATCH):
            try:
                at = journal.room()
                size, stamps, _, origin = peek([header, heap[at : at + MAX_DATAGRAM]], ANCILLARY, socket.MSG_PEEK)
            except BlockingIOError:
                return number
            except JournalFull:
                self.full = True
                return number
            except OSError as error:
                # The system has no page left for the journal; the datagram is still on the queue.
                if error.errno not in NO_MEMORY:
                    raise
                self.full = True
                return number
            arrival_ns = _stamp(stamps, shift)
            length = size - HEADER_SIZE
            if length <= 0 or header[0] != VERSION_BITS:
                self._unusual(size, at, origin, arrival_ns)
            else:
                _, kind, sequence, timestamp, found = unpack(header)
                if found != ssrc:
                    intake.bad(arrival_ns)
                elif source.admit_next(sequence, timestamp, length, origin, arrival_ns):
                    intake.received += 1
                    if origin is not self._last_origin and origin != self._last_origin:
                        self._last_origin, self._last_address = origin, _address(origin[0])
                    journal.append(
                        Row(
                            source.extended_timestamp,
                            source.extended_sequence,
                            arrival_ns,
                            source.epoch,
                            length,
                            self._last_address,
                            origin[1],
                            untimed | FLAG_MARKER if kind & MARKER else untimed,
                            Kind.DATA,
                        )
                    )
                else:
                    intake.packet(Arrival(kind >= MARKER, sequence, timestamp, length, origin, arrival_ns))
            take(one)
            journal.mark_taken()
        return BATCH

    def _unusual(self, size: int, at: int, origin: tuple[str, int], arrival_ns: int) -> None:
        """A datagram that is too short, or RTP with options that radiod never sends."""
        intake = self._intake
        heap = intake.journal.heap
        datagram = bytes(self._header[: min(size, HEADER_SIZE)]) + bytes(heap[at : at + max(0, size - HEADER_SIZE)])
        try:
            packet = parse(datagram)
        except RtpError:
            intake.bad(arrival_ns)
            return
        payload = datagram[packet.payload_start : packet.payload_end]
        if packet.ssrc != self._ssrc or not payload:
            intake.bad(arrival_ns)
            return
        heap[at : at + len(payload)] = payload
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


def _address(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), "big")
