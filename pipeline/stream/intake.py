"""What comes in: packets and status datagrams, into the journal and onto their timelines.

The journal is the state that outlives a worker; everything in these objects can be made
again from it and from the checkpoint taken whenever a minute is on disk
(`pipeline.stream.recovery`). No clock and no socket: times come with the datagrams, by the
recorder's clock (`pipeline.stream.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.stream.announcements import Announcements, Status
from pipeline.stream.breaks import note_break, since_break
from pipeline.stream.candidates import Arrival, Candidate, Origin, origin
from pipeline.stream.journal import (
    FLAG_LATE,
    FLAG_MARKER,
    FLAG_REORDERED,
    FLAG_UNTIMED,
    REASONS,
    Journal,
    Kind,
    Row,
)
from pipeline.stream.lot import Lot
from pipeline.stream.rtp import MARKER, bytes_per_frame, wrap16, wrap32
from pipeline.stream.source import NOTHING_SEALED, Admission, Source
from pipeline.stream.timeline import Epoch

# Share of the heap that packets of no known timeline may fill between two releases.
HELD_SHARE = 8
# Bytes of an I/Q pair in the narrowest encodings.
SMALLEST_FRAME = 4


class Rejected(NamedTuple):
    """Packets that are in no minute, counted since the channel's first."""

    duplicate: int
    late: int
    bad: int


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
        self.announcements = Announcements(self)
        self.received = 0
        self.late = 0
        self.reordered = 0
        self.next_epoch = 1
        self.held_bytes = 0
        self.scanned = journal.count
        # Of a BREAK record that no packet has followed yet.
        self.break_ns: int | None = None
        # FLAG_UNTIMED while stamps are of no use as evidence.
        self.untimed = 0
        self._addresses: dict[str, int] = {}

    @property
    def epoch(self) -> Epoch | None:
        """The RTP timeline that is being received."""
        return self.epochs[-1] if self.epochs else None

    @property
    def rejected(self) -> Rejected:
        """What was not placed so far."""
        return Rejected(self.source.duplicates, self.late, self.source.bad)

    def packet(self, packet: Arrival) -> None:
        """Take one packet whose payload lies at the journal's `room()`; any fate but a crash."""
        source = self.source
        before = source.duplicates, source.bad
        verdict = source.admit(packet)
        if verdict in PLACED:
            self.journal.append(self._row(packet, PLACED[verdict]))
            self.count_placed(verdict)
        elif verdict in (Admission.HOLD, Admission.PROMOTE):
            self._hold(packet, verdict is Admission.PROMOTE)
        self._note_rejected(before, packet.arrival_ns)

    def run(self, lot: Lot, begin: int, end: int) -> None:
        """Take rows [begin, end) of a lot, a run that the source sees in it.

        Their payloads lie one after the other at the journal's `room()`.
        """
        source, sequence = self.source, self.source.sequence
        starts = source.place_run(lot.lengths[begin:end], lot.arrivals_ns[end - 1])
        epoch, untimed, (_, port) = source.epoch, self.untimed, lot.origins[begin]
        address = self._address(lot.origins[begin])
        self.journal.append_run([
            Row(
                start, sequence + n, lot.arrivals_ns[row], epoch, lot.lengths[row], address, port,
                untimed | FLAG_MARKER if lot.headers[row][1] >= MARKER else untimed, Kind.DATA,
            )
            for n, (row, start) in enumerate(zip(range(begin, end), starts, strict=True), 1)
        ])  # fmt: skip
        self.received += end - begin

    def count_placed(self, verdict: Admission) -> None:
        """Count a packet that has its place."""
        if verdict is Admission.LATE:
            self.late += 1
        else:
            self.received += 1
            self.reordered += verdict is Admission.REORDERED

    def _row(self, packet: Arrival, flags: int) -> Row:
        """The record of the packet that the source has just admitted to the current timeline."""
        source = self.source
        return Row(
            source.extended_timestamp,
            source.extended_sequence,
            packet.arrival_ns,
            source.epoch,
            packet.length,
            self._address(packet.origin),
            packet.origin[1],
            flags | self.untimed | (FLAG_MARKER if packet.marker else 0),
            Kind.DATA,
        )

    def bad(self, arrival_ns: int) -> None:
        """Count a datagram that is no packet of this stream."""
        before = self.source.duplicates, self.source.bad
        self.source.bad += 1
        self._note_rejected(before, arrival_ns)

    def _note_rejected(self, before: tuple[int, int], arrival_ns: int) -> None:
        duplicates, bad = self.source.duplicates - before[0], self.source.bad - before[1]
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

    def _hold(self, packet: Arrival, promote: bool) -> None:
        if not promote and self.held_bytes + packet.length > self.journal.shape.heap // HELD_SHARE:
            # A flood of strangers must not fill the memory that belongs to the stream.
            self.source.give_up_held()
            return
        self.held_bytes += packet.length
        marker = self.untimed | (FLAG_MARKER if packet.marker else 0)
        # A held record's epoch is the number of its run.
        number, address, port = self.source.held_number, self._address(packet.origin), packet.origin[1]
        self.journal.append(
            Row(
                packet.timestamp, packet.sequence, packet.arrival_ns, number, packet.length, address, port,
                marker, Kind.HELD,
            )
        )  # fmt: skip
        if promote:
            run = next(run for run in self.source.candidates.runs if run.number == number)
            self.promote(run)

    def promote(self, run: Candidate) -> None:
        """The packets of a run become a new epoch, in one commit; later, when there is no room now."""
        source, journal = self.source, self.journal
        rows = journal.records(journal.first)
        rows = rows[(rows["kind"] == Kind.HELD) & (rows["epoch"] == run.number)]
        if not journal.room_for(1 + len(rows)):
            return
        number, reason = self.next_epoch, source.reason(run)
        source.candidates.runs.remove(run)
        source.give_up_held()
        self.begin(number, reason, run.first)
        moved = []
        for row in rows:
            packet = arrival_of(row)
            verdict = source.admit(packet)
            if verdict in PLACED:
                flags = PLACED[verdict] | (int(row["flags"]) & FLAG_UNTIMED)
                moved.append((int(row["position"]), self._row(packet, flags)))
                self.count_placed(verdict)
        # What does not go on from the run's first packet is not of this timeline either.
        source.give_up_held()
        opening = Row(0, 0, run.first.arrival_ns, number, len(moved), 0, 0, REASONS.index(reason), Kind.EPOCH)
        journal.append_moved([(journal.position, opening), *moved])
        self.announcements.match_pending()

    def begin(self, number: int, reason: str, first: Arrival) -> None:
        """Begin a timeline whose first packet is `first`."""
        # Until a status says otherwise the rate is what it was.
        rate = self.settings.rate_hz
        if self.epochs:
            before = self.epochs[-1]
            before.end, before.last_arrival_ns, rate = self.source.end, self.source.arrival_ns, before.rate_hz
        epoch = Epoch(number, reason, first.timestamp, first.arrival_ns, rate)
        epoch.end, epoch.last_arrival_ns, epoch.cut = first.timestamp, first.arrival_ns, NOTHING_SEALED
        self.epochs.append(epoch)
        self.next_epoch = number + 1
        self.source.begin(number, first)

    def follow(self) -> None:
        """Take note of how far the current timeline has come; after every lot of packets."""
        epoch = self.epoch
        if epoch is not None:
            epoch.end, epoch.last_arrival_ns = self.source.end, self.source.arrival_ns
            if self.announcements.pending:
                self.announcements.match_pending()

    def scan(self) -> None:
        """Look at all that came since the last call for breaks and for the least delayed packets.

        Costs as much for a few packets as for hundreds, so it is done when somebody needs to know.
        """
        if self.epoch is None:
            return
        rows = self.journal.records(self.scanned)
        begin = self.journal.count - len(rows)
        self.break_ns, row = since_break(rows, self.break_ns)
        if row is not None:
            self.break_ns = None
            note_break(self.journal, begin + row, self.epochs, self.settings.encoding)
        data = np.flatnonzero(rows["kind"] == Kind.DATA)
        # The newest packet's end is seen when the next one comes.
        self.scanned = begin + int(data[-1]) if len(data) else self.journal.count
        self._add_arrivals(rows[data])
        self.follow()

    def _add_arrivals(self, rows: npt.NDArray[np.void]) -> None:
        """Arrivals of packets that were followed by the next one, which says where they ended, however made."""
        before, after = rows[:-1], rows[1:]
        frames = after["timestamp"] - before["timestamp"]
        usable = (
            (after["sequence"] == before["sequence"] + 1)
            & (after["epoch"] == before["epoch"])
            # After a mute the next packet begins later.
            & (frames <= before["length"].astype(np.int64) // SMALLEST_FRAME)
            & (before["arrival_ns"] > 0)
            & (before["flags"] & FLAG_UNTIMED == 0)
        )
        before, ends = before[usable], after["timestamp"][usable]
        for epoch in self.epochs:
            mine = before["epoch"] == epoch.id
            if mine.any():
                epoch.add_arrivals(ends[mine], before["arrival_ns"][mine])

    def status(self, length: int, arrival_ns: int, shift_ns: int = 0) -> bool:
        """Take one radiod status datagram that lies at the journal's `room()`; False if it is not of this channel.

        `shift_ns` is how much radiod's clock is ahead of the recorder's because this host's clock, which is
        radiod's too, was set.
        """
        journal = self.journal
        status = self.decode_status(bytes(journal.payload(journal.position, length)))
        if status is None or status.ssrc != self.settings.ssrc:
            return False
        journal.append(Row(shift_ns, 0, arrival_ns, self.source.epoch, length, 0, 0, self.untimed, Kind.STATUS))
        self.announcements.learn(status, arrival_ns, shift_ns, timed=not self.untimed)
        return True

    def flush_held(self) -> None:
        """The stream ends: a run of held packets that has begun well is a timeline."""
        run = self.source.pending()
        if run is not None:
            before = self.source.duplicates, self.source.bad
            self.promote(run)
            self._note_rejected(before, run.last.arrival_ns)


# The verdicts that give a packet its place, and the records' flags for them.
PLACED = {Admission.PLACE: 0, Admission.REORDERED: FLAG_REORDERED, Admission.LATE: FLAG_LATE}


def arrival_of(row: Any) -> Arrival:
    """A journal record as the packet that came."""
    return Arrival(
        bool(row["flags"] & FLAG_MARKER),
        wrap16(int(row["sequence"])),
        wrap32(int(row["timestamp"])),
        int(row["length"]),
        origin(int(row["address"]), int(row["port"])),
        int(row["arrival_ns"]),
    )
