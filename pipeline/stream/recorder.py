"""One channel's stream from packets to cut minutes; no clock, socket or file in sight.

The journal is the state that outlives a worker; everything in this object can be made
again from it and from the checkpoint that is taken whenever a minute is on disk.
`packet` and `status` go in, `due` says that a minute is over, `cut` hands it out, `done`
lets go of it. A minute that was handed out and not yet acknowledged stays in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.records import AnchorSource
from pipeline.stream.journal import FLAG_MARKER, FLAG_REORDERED, Journal, JournalFull, Kind, Row
from pipeline.stream.minute import Minute, Piece, Records, cut, encodings_of, extra_runs, in_order
from pipeline.stream.rtp import bytes_per_frame, wrap32
from pipeline.stream.source import NOTHING_SEALED, Admission, Arrival, Hole, Origin, Source
from pipeline.stream.timeline import MINUTE, SECOND, Anchor, Epoch, HostClock, next_anchor

# A status normally follows the first packet of a timeline at once; until one has come or
# this much has been received, the timeline's place in UTC is not acted on.
SETTLE_S = 5
# Share of the heap that packets of no known timeline may fill between two minutes.
HELD_SHARE = 8
PENDING_STATUSES = 16


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


@dataclass(slots=True)
class Cut:
    """Minutes handed out together (more than one when rates differ), and what `done` will do."""

    minutes: list[Minute]
    utc_ns: int
    ends: dict[int, tuple[int, Anchor, int | None, int]] = field(default_factory=dict)
    notes_until: int = 0


class Recorder:
    """The state of one channel over its journal."""

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        decode_status: Callable[[bytes], Status | None],
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        self.journal = journal
        self.settings = settings
        self.epochs: list[Epoch] = []
        self.source = Source(settings.rate_hz, bytes_per_frame(settings.encoding))
        self.last_status: Status | None = None
        self.statuses_unmatched = 0
        self.received = 0
        self.late = 0
        self.reordered = 0
        self.outstanding: Cut | None = None
        self._decode_status = decode_status
        self._pending: list[tuple[Status, int]] = []
        self._notes_from = journal.first
        self._held_bytes = 0
        self._held_from = 0
        self._next_epoch = 1
        self._addresses: dict[str, int] = {}
        self._scanned = journal.count
        self._restore(checkpoint)

    # -- packets in --

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
                self._promote()
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
            self._held_from = self.journal.count
        self._held_bytes += packet.length
        if self._held_bytes > self.journal.shape.heap // HELD_SHARE:
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

    def _promote(self) -> None:
        """The held packets become a new epoch, in one commit."""
        source, journal = self.source, self.journal
        held = source.held
        if held is None:
            return
        number, reason, first = self._next_epoch, source.reason(), held.first
        journal.put(Kind.EPOCH, reason.encode(), first.arrival_ns, number)
        rows = journal.records(self._held_from)
        rows = rows[(rows["kind"] == Kind.HELD) & (rows["port"] == first.origin[1])]
        self._end_epoch()
        self._open_epoch(number, reason, first)
        source.begin(number, first)
        moved = []
        for row in rows:
            packet = _arrival(row)
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

    def _open_epoch(self, number: int, reason: str, first: Arrival) -> None:
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
        self._next_epoch = number + 1

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

    # -- status in --

    def status(self, datagram: bytes, arrival_ns: int) -> bool:
        """Take one radiod status datagram; False if it is not one of this channel."""
        status = self._decode_status(datagram)
        if status is None or status.ssrc != self.settings.ssrc:
            return False
        try:
            self.journal.put(Kind.STATUS, datagram, arrival_ns, self.source.epoch)
        except JournalFull:
            return True
        self._learn(status, arrival_ns)
        return True

    def _learn(self, status: Status, arrival_ns: int) -> None:
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
                if newest - arrival_ns < 10 * SECOND:
                    self._pending.append((status, arrival_ns))
                else:
                    self.statuses_unmatched += 1

    # -- minutes out --

    def now_utc(self, silent_ns: int, host: HostClock) -> int | None:
        """UTC by the current timeline, `silent_ns` after its newest packet came; None while unknown."""
        epoch = self.epoch
        if epoch is None:
            return None
        young = self.source.end - epoch.first_timestamp < SETTLE_S * epoch.rate_hz and silent_ns < SETTLE_S * SECOND
        if young and not epoch.pairs:
            return None
        anchor = self.anchor(epoch, host)
        return None if anchor is None else anchor.utc_at(self.source.end) + silent_ns

    def anchor(self, epoch: Epoch, host: HostClock) -> Anchor | None:
        """The anchor in force for an epoch, or the one it would get now."""
        return epoch.anchor or epoch.propose(host, self.settings.chain_delay_ns)

    def due(self, silent_ns: int, host: HostClock, flush: bool = False) -> int | None:
        """UTC (ns) of the next minute that can be cut; None if there is none yet.

        With `flush` the running minute counts too, whatever the time.
        """
        if self.outstanding is not None:
            return None
        now = self.now_utc(silent_ns, host)
        if now is None and not flush:
            return None
        minutes = [m for m in (self._first_minute(epoch, host) for epoch in self.epochs) if m is not None]
        if not minutes:
            return None
        minute = min(minutes)
        if flush or (now is not None and now >= minute + MINUTE + self.settings.grace_ns):
            return minute
        return None

    def _first_minute(self, epoch: Epoch, host: HostClock) -> int | None:
        anchor = self.anchor(epoch, host)
        rows = self._data(epoch)
        if anchor is None or not len(rows):
            return None
        return anchor.minute_of(max(int(rows["timestamp"][0]), epoch.cut))

    def _data(self, epoch: Epoch) -> Records:
        """The epoch's packets that are not wholly cut, in order of timestamp."""
        rows = self.journal.records(self.journal.first)
        rows = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id)]
        width = self._width(epoch)
        return in_order(rows[rows["timestamp"] + rows["length"].astype(np.int64) // width > epoch.cut])

    def _width(self, epoch: Epoch) -> int:
        """Bytes per frame to judge by whether a packet reaches into uncut time: the narrowest there was."""
        names = {name for _, name in epoch.formats} or {self.settings.encoding}
        return min(bytes_per_frame(name) for name in names)

    def cut(self, utc_ns: int, host: HostClock, tail_cause: str) -> Cut:
        """Cut the minute at `utc_ns`; what belongs to it by then is in it, what comes later is late."""
        pieces = self._pieces(utc_ns, host)
        groups: dict[int, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.anchor.rate_hz, []).append(piece)
        result = Cut([], utc_ns, notes_until=self.journal.count)
        for rate, members in groups.items():
            ended = members[-1].epoch is not self.epoch
            minute = cut(
                utc_ns, rate, members, self.journal.payload, self.journal.shape.heap, "epoch" if ended else tail_cause
            )
            if minute.segments:
                result.minutes.append(minute)
        result.minutes.sort(key=lambda m: sum(s.samples for s in m.segments) / m.rate_hz, reverse=True)
        for piece in pieces:
            self._settle(piece, result, host)
        self._count_notes(result)
        self.outstanding = result
        return result

    def _pieces(self, utc_ns: int, host: HostClock) -> list[Piece]:
        pieces: list[Piece] = []
        for epoch in self.epochs:
            anchor = self.anchor(epoch, host)
            rows = self._data(epoch)
            if anchor is None or not len(rows):
                continue
            encodings, names = encodings_of(rows, epoch.formats, self.settings.encoding)
            piece = Piece(epoch, anchor, anchor.timestamp_at(utc_ns), rows, encodings, names)
            inside = piece.inside(60 * anchor.rate_hz)
            if not len(inside):
                continue
            if pieces and epoch.anchor is None:
                piece = self._after(pieces[-1], piece, utc_ns)
            epoch.anchor = piece.anchor
            pieces.append(piece)
        return pieces

    def _after(self, before: Piece, piece: Piece, utc_ns: int) -> Piece:
        """A timeline cannot begin before the one it followed ended: shift it within its uncertainty."""
        end = before.anchor.utc_at(before.origin + int(before.stops.max()))
        begin = piece.anchor.utc_at(piece.origin + int(piece.starts[0]))
        overlap = end - begin
        if not 0 < overlap <= before.anchor.uncertainty_ns + piece.anchor.uncertainty_ns:
            return piece
        anchor = piece.anchor.moved(-(-overlap * piece.anchor.rate_hz // SECOND))
        return Piece(piece.epoch, anchor, anchor.timestamp_at(utc_ns), piece.records, piece.encodings, piece.names)

    def _settle(self, piece: Piece, result: Cut, host: HostClock) -> None:
        """Decide the epoch's next anchor and what lies between this minute's end and the next's begin."""
        epoch, samples = piece.epoch, 60 * piece.anchor.rate_hz
        end = piece.origin + samples
        proposed = epoch.propose(host, self.settings.chain_delay_ns)
        following = next_anchor(piece.anchor, proposed, end) if proposed else piece.anchor
        begin = following.timestamp_at(result.utc_ns + MINUTE)
        for minute in result.minutes:
            if begin > end and minute.segments[-1].epoch_id == epoch.id:
                stop = begin - piece.origin
                minute.extra = extra_runs(piece, stop, samples, self.journal.payload, self.journal.shape.heap)
                minute.extra_samples = begin - end
        before = np.flatnonzero(piece.stops <= begin - piece.origin)
        row = int(before[-1]) if len(before) else None
        sequence = epoch.previous_sequence if row is None else int(piece.sequences[row])
        reached = epoch.previous_end if row is None else int(piece.stops[row]) + piece.origin
        result.ends[epoch.id] = (begin, following, sequence, reached)
        if epoch is self.epoch:
            self.source.sealed = min(begin, end)

    def _count_notes(self, result: Cut) -> None:
        rows = self.journal.records(self._notes_from, result.notes_until)
        counts = {
            kind: int(rows["length"][rows["kind"] == kind].sum()) for kind in (Kind.DUPLICATE, Kind.LATE, Kind.BAD)
        }
        if result.minutes:
            first = result.minutes[0]
            first.packets_duplicate = counts[Kind.DUPLICATE]
            first.packets_late = counts[Kind.LATE]
            first.packets_bad = counts[Kind.BAD]

    def done(self, result: Cut) -> None:
        """The minutes are on disk (or given up); a checkpoint taken now says so."""
        self.outstanding = None
        self._notes_from = result.notes_until
        self._held_bytes = 0
        for epoch in self.epochs:
            if epoch.id in result.ends:
                epoch.cut, epoch.anchor, epoch.previous_sequence, epoch.previous_end = result.ends[epoch.id]
        self.source.forget_holes(self.source.sealed - 60 * self.source.rate_hz)
        self.epochs = [e for e in self.epochs if e is self.epoch or len(self._data(e))]

    def release(self) -> Iterable[tuple[int, int]]:
        """Let go of what `done` made superfluous, after the checkpoint is safe.

        Returns the ranges of the segment that may be given back to the system.
        """
        return self.journal.release(self._first_needed())

    def flush_held(self) -> None:
        """The stream ends: a run of held packets that has begun well is a timeline."""
        if self.source.pending():
            self._promote()

    def _first_needed(self) -> int:
        journal = self.journal
        rows = journal.records(journal.first)
        needed = rows["kind"] == Kind.HELD
        # Held packets matter only while nothing has been placed after them.
        placed = np.flatnonzero(rows["kind"] == Kind.DATA)
        if len(placed):
            needed[: placed[-1]] = False
        for epoch in self.epochs:
            stop = rows["timestamp"] + rows["length"].astype(np.int64) // self._width(epoch)
            needed |= (rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id) & (stop > epoch.cut)
        first = np.flatnonzero(needed)
        upto = journal.first + (int(first[0]) if len(first) else len(rows))
        return min(upto, self._notes_from)

    # -- surviving the process --

    def checkpoint(self) -> dict[str, Any]:
        """What a successor cannot read off the journal's records; valid with the journal as it is now."""
        return {
            "epochs": [epoch.to_json() for epoch in self.epochs],
            "next_epoch": self._next_epoch,
            "notes_from": self._notes_from,
            "count": self.journal.count,
            "counters": [
                self.received,
                self.late,
                self.reordered,
                self.source.lost,
                self.source.duplicates,
                self.source.bad,
            ],
        }

    def _restore(self, checkpoint: dict[str, Any] | None) -> None:
        journal = self.journal
        counted = journal.first
        if checkpoint:
            self.epochs = [Epoch.from_json(state) for state in checkpoint["epochs"]]
            self._next_epoch = checkpoint["next_epoch"]
            self._notes_from = checkpoint["notes_from"]
            counters = checkpoint["counters"]
            self.received, self.late, self.reordered = counters[:3]
            self.source.lost, self.source.duplicates, self.source.bad = counters[3:]
            counted = checkpoint["count"]
        rows = journal.records(journal.first)
        known = {epoch.id for epoch in self.epochs}
        for row in rows[(rows["kind"] == Kind.EPOCH)]:
            if int(row["epoch"]) not in known and bool(
                (rows["epoch"][rows["kind"] == Kind.DATA] == row["epoch"]).any()
            ):
                self._restore_epoch(row, rows)
        self._restore_source(rows)
        self._recount(journal.records(counted))
        for row in rows[rows["kind"] == Kind.STATUS]:
            if journal.first + int(np.flatnonzero(rows["position"] == row["position"])[0]) < counted:
                continue
            status = self._decode_status(bytes(journal.payload(int(row["position"]), int(row["length"]))))
            if status is not None:
                self._learn(status, int(row["arrival_ns"]))
        self._restore_held(rows)

    def _restore_epoch(self, row: np.void, rows: Records) -> None:
        reason = bytes(self.journal.payload(int(row["position"]), int(row["length"]))).decode()
        data = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == row["epoch"])]
        self._open_epoch(int(row["epoch"]), reason, _arrival(data[0]))

    def _restore_source(self, rows: Records) -> None:
        """Put the source where the last placed packet left it, holes included."""
        for epoch in self.epochs:
            data = in_order(rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id)])
            if not len(data):
                continue
            last, source = data[-1], self.source
            encodings, names = encodings_of(data, epoch.formats, self.settings.encoding)
            source.bytes_per_frame = bytes_per_frame(names[int(encodings[-1])])
            source.rate_hz = epoch.rate_hz
            first = _arrival(last)
            source.begin(epoch.id, first._replace(timestamp=int(last["timestamp"]), sequence=int(last["sequence"])))
            source.admit_next(
                wrap16(int(last["sequence"])),
                wrap32(int(last["timestamp"])),
                first.length,
                first.origin,
                first.arrival_ns,
            )
            source.holes = _holes(data, np.array([bytes_per_frame(n) for n in names])[encodings])
            source.sealed = epoch.cut
            epoch.end, epoch.last_arrival_ns = source.end, source.arrival_ns

    def _recount(self, rows: Records) -> None:
        data = rows[rows["kind"] == Kind.DATA]
        self.received += len(data)
        self.reordered += int(np.count_nonzero(data["flags"] & FLAG_REORDERED))
        for kind, name in ((Kind.DUPLICATE, "duplicates"), (Kind.BAD, "bad")):
            setattr(self.source, name, getattr(self.source, name) + int(rows["length"][rows["kind"] == kind].sum()))
        self.late += int(rows["length"][rows["kind"] == Kind.LATE].sum())

    def _restore_held(self, rows: Records) -> None:
        """Packets that were held when the last worker died are judged again."""
        placed = np.flatnonzero(rows["kind"] == Kind.DATA)
        start = int(placed[-1]) + 1 if len(placed) else 0
        self._held_from = self.journal.first + start
        for row in rows[start:]:
            if row["kind"] == Kind.HELD and self.source.admit(_arrival(row)) is Admission.PROMOTE:
                self._promote()
                return


def wrap16(sequence: int) -> int:
    """An extended sequence number as it is on the wire."""
    return sequence & 0xFFFF


def _arrival(row: np.void) -> Arrival:
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


def _holes(data: Records, widths: np.ndarray[Any, np.dtype[Any]]) -> list[Hole]:
    """What is missing between packets in order of timestamp."""
    ends = data["timestamp"] + data["length"].astype(np.int64) // widths
    return [
        Hole(int(data["sequence"][i]) + 1, int(data["sequence"][i + 1]), int(ends[i]), int(data["timestamp"][i + 1]))
        for i in np.flatnonzero(np.diff(data["sequence"]) > 1)
    ]


__all__ = ["AnchorSource", "Cut", "Recorder", "Settings", "Status"]
