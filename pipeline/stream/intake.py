"""What comes in: packets and status datagrams, into the journal and onto their timelines.

The journal is the state that outlives a worker; everything in these objects can be made
again from it and from the checkpoint taken whenever a minute is on disk
(`pipeline.stream.recovery`). No clock and no socket: times come with the datagrams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.stream.journal import FLAG_MARKER, FLAG_REORDERED, REASONS, Journal, Kind, Row
from pipeline.stream.rtp import bytes_per_frame, wrap16, wrap32
from pipeline.stream.source import NOTHING_SEALED, Admission, Arrival, Origin, Source
from pipeline.stream.timeline import SECOND, Epoch

# Share of the heap that packets of no known timeline may fill between two minutes.
HELD_SHARE = 8
PENDING_STATUSES = 16
# A status that no timeline has claimed by then never will be.
PENDING_NS = 10 * SECOND


class Status(Protocol):
    """What is needed of a radiod status; see `pipeline.radiod.ChannelStatus`."""

    @property
    def ssrc(self) -> int: ...
    @property
    def gps_time_utc_ns(self) -> int | None: ...
    @property
    def rtp_timesnap(self) -> int | None: ...
    @property
    def sample_rate_hz(self) -> int | None: ...
    @property
    def encoding(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of the channel and how long late packets are waited for."""

    ssrc: int
    rate_hz: int
    encoding: str
    grace_ns: int
    chain_delay_ns: int


class Intake:
    """One channel's packets and statuses over its journal."""

    def __init__(self, journal: Journal, settings: Settings, decode_status: Callable[[bytes], Status | None]) -> None:
        self.journal = journal
        self.settings = settings
        self.decode_status = decode_status
        self.epochs: list[Epoch] = []
        self.source = Source(settings.rate_hz, bytes_per_frame(settings.encoding))
        self.last_status: Status | None = None
        self.statuses_unmatched = 0
        self.received = 0
        self.late = 0
        self.reordered = 0
        self.next_epoch = 1
        self.held_bytes = 0
        self.held_from = 0
        self._pending: list[tuple[Status, int]] = []
        self._addresses: dict[str, int] = {}
        self._scanned = journal.count

    @property
    def epoch(self) -> Epoch | None:
        """The RTP timeline that is being received."""
        return self.epochs[-1] if self.epochs else None

    def packet(self, packet: Arrival) -> None:
        """Take one packet whose payload lies at the journal's `room()`; any fate but a crash.

        Raises JournalFull; the packet is then as if it had not come.
        """
        source = self.source
        duplicates, bad = source.duplicates, source.bad
        verdict = source.admit(packet)
        self._note_rejected(source.duplicates - duplicates, source.bad - bad, packet.arrival_ns)
        if verdict is Admission.PLACE:
            self.place(packet, 0)
        elif verdict is Admission.REORDERED:
            self.reordered += 1
            self.place(packet, FLAG_REORDERED)
        elif verdict in (Admission.HOLD, Admission.PROMOTE):
            self._hold(packet)
            if verdict is Admission.PROMOTE:
                self.promote()
        elif verdict is Admission.LATE:
            self.late += 1
            self.journal.note(Kind.LATE, packet.arrival_ns, source.epoch)
        elif verdict is Admission.BAD:
            self.journal.note(Kind.BAD, packet.arrival_ns, source.epoch)

    def place(self, packet: Arrival, flags: int) -> None:
        """Commit the packet that the source has just admitted to the current timeline."""
        source = self.source
        self.received += 1
        self.journal.append(
            Row(
                source.extended_timestamp,
                source.extended_sequence,
                packet.arrival_ns,
                source.epoch,
                packet.length,
                self._address(packet.origin),
                packet.origin[1],
                flags | (FLAG_MARKER if packet.marker else 0),
                Kind.DATA,
            )
        )

    def bad(self, arrival_ns: int) -> None:
        """Count a datagram that is no packet of this stream."""
        self.source.bad += 1
        self.journal.note(Kind.BAD, arrival_ns, self.source.epoch)

    def _note_rejected(self, duplicates: int, bad: int, arrival_ns: int) -> None:
        if duplicates:
            self.journal.note(Kind.DUPLICATE, arrival_ns, self.source.epoch, duplicates)
        if bad:
            self.journal.note(Kind.BAD, arrival_ns, self.source.epoch, bad)

    def _address(self, origin: Origin) -> int:
        number = self._addresses.get(origin[0])
        if number is None:
            if len(self._addresses) > 64:
                self._addresses.clear()
            number = self._addresses[origin[0]] = int.from_bytes(
                bytes(int(part) for part in origin[0].split(".")), "big"
            )
        return number

    def _hold(self, packet: Arrival) -> None:
        held = self.source.held
        if held is not None and held.packets == 1:
            self.held_from = self.journal.count
        self.held_bytes += packet.length
        if self.held_bytes > self.journal.shape.heap // HELD_SHARE:
            # A flood of strangers must not fill the memory that belongs to the stream.
            self.bad(packet.arrival_ns)
            self.source.held = None
            return
        self.journal.append(
            Row(
                packet.timestamp,
                packet.sequence,
                packet.arrival_ns,
                self.source.epoch,
                packet.length,
                self._address(packet.origin),
                packet.origin[1],
                FLAG_MARKER if packet.marker else 0,
                Kind.HELD,
            )
        )

    def promote(self) -> None:
        """The held packets become a new epoch, in one commit."""
        source, journal = self.source, self.journal
        held = source.held
        if held is None:
            return
        number, reason, first = self.next_epoch, source.reason(), held.first
        journal.append(Row(0, 0, first.arrival_ns, number, 0, 0, 0, REASONS.index(reason), Kind.EPOCH))
        rows = journal.records(self.held_from)
        rows = rows[(rows["kind"] == Kind.HELD) & (rows["port"] == first.origin[1])]
        self._end_epoch()
        self.open_epoch(number, reason, first)
        source.begin(number, first)
        moved = []
        for row in rows:
            packet = arrival_of(row)
            if packet.origin[0] != first.origin[0]:
                continue
            verdict = source.admit(packet)
            if verdict in (Admission.PLACE, Admission.REORDERED):
                flags = int(row["flags"]) | (FLAG_REORDERED if verdict is Admission.REORDERED else 0)
                moved.append(
                    (
                        int(row["position"]),
                        Row(
                            source.extended_timestamp,
                            source.extended_sequence,
                            packet.arrival_ns,
                            number,
                            packet.length,
                            int(row["address"]),
                            int(row["port"]),
                            flags,
                            Kind.DATA,
                        ),
                    )
                )
        self.received += len(moved)
        journal.append_moved(moved)
        self._match_pending()

    def open_epoch(self, number: int, reason: str, first: Arrival) -> None:
        """Begin a timeline whose first packet is `first`."""
        # Until a status says otherwise the rate is what it was.
        rate = self.epochs[-1].rate_hz if self.epochs else self.settings.rate_hz
        self.epochs.append(
            Epoch(
                number,
                reason,
                first.timestamp,
                first.arrival_ns,
                rate,
                end=first.timestamp,
                last_arrival_ns=first.arrival_ns,
                cut=NOTHING_SEALED,
            )  # fmt: skip
        )
        self.next_epoch = number + 1

    def _end_epoch(self) -> None:
        if self.epochs:
            self.epochs[-1].end = self.source.end
            self.epochs[-1].last_arrival_ns = self.source.arrival_ns

    def scan(self) -> None:
        """Look at what came since the last call: progress and the least delayed packet."""
        epoch = self.epoch
        if epoch is None:
            return
        rows = self.journal.records(self._scanned)
        self._scanned = self.journal.count
        epoch.end, epoch.last_arrival_ns = self.source.end, self.source.arrival_ns
        rows = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id) & (rows["arrival_ns"] > 0)]
        if not len(rows):
            return
        ends = rows["timestamp"] + rows["length"].astype(np.int64) // self.source.bytes_per_frame
        delays = rows["arrival_ns"] - (ends - epoch.first_timestamp) * SECOND // epoch.rate_hz
        best = int(np.argmin(delays))
        epoch.add_arrival(int(ends[best]), int(rows["arrival_ns"][best]))
        if self._pending:
            self._match_pending()

    def status(self, length: int, arrival_ns: int) -> bool:
        """Take one radiod status datagram that lies at the journal's `room()`; False if it is not of this channel."""
        journal = self.journal
        status = self.decode_status(bytes(journal.payload(journal.position, length)))
        if status is None or status.ssrc != self.settings.ssrc:
            return False
        journal.append(Row(0, 0, arrival_ns, self.source.epoch, length, 0, 0, 0, Kind.STATUS))
        self.learn(status, arrival_ns)
        return True

    def learn(self, status: Status, arrival_ns: int) -> None:
        """Use a status: for the timeline it speaks of, now or when that timeline is known."""
        self.last_status = status
        if not self._match(status, arrival_ns):
            self._pending = [*self._pending[-PENDING_STATUSES + 1 :], (status, arrival_ns)]

    def _match(self, status: Status, arrival_ns: int) -> bool:
        """Give a status to the epoch it speaks of; False if it may be of one that is yet to come."""
        snap = status.rtp_timesnap
        if snap is None:
            return True
        current = self.epoch
        if current is not None:
            current.end, current.last_arrival_ns = self.source.end, self.source.arrival_ns
        for epoch in reversed(self.epochs):
            if not epoch.owns_status(snap, arrival_ns, epoch is current):
                continue
            rate = status.sample_rate_hz
            if rate and epoch.rate_known and rate != epoch.rate_hz:
                continue
            if rate and rate != epoch.rate_hz:
                epoch.arrivals.clear()
                if epoch.reason == "timestamp_jump":
                    epoch.reason = "rate_change"
            epoch.add_format(snap, rate, status.encoding)
            if epoch is current:
                self.source.rate_hz = epoch.rate_hz
            if status.gps_time_utc_ns is not None:
                epoch.add_pair(snap, status.gps_time_utc_ns, arrival_ns)
            return True
        return False

    def _match_pending(self) -> None:
        pending, self._pending = self._pending, []
        newest = max((arrival for _, arrival in pending), default=0)
        for status, arrival_ns in pending:
            if not self._match(status, arrival_ns):
                if newest - arrival_ns < PENDING_NS:
                    self._pending.append((status, arrival_ns))
                else:
                    self.statuses_unmatched += 1

    def flush_held(self) -> None:
        """The stream ends: a run of held packets that has begun well is a timeline."""
        if self.source.pending():
            self.promote()


def arrival_of(row: np.void) -> Arrival:
    """A journal record as the packet that came."""
    address = int(row["address"])
    text = ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0))
    return Arrival(
        bool(row["flags"] & FLAG_MARKER),
        wrap16(int(row["sequence"])),
        wrap32(int(row["timestamp"])),
        int(row["length"]),
        (text, int(row["port"])),
        int(row["arrival_ns"]),
    )
