"""What goes out: which minute is over, cut with all that is known by then, and let go of when it is on disk.

`due` says that a minute is over, `cut` hands it out, `done` and `release` let go of it. A
minute that was handed out and not yet acknowledged stays in the journal, whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.stream.intake import Intake
from pipeline.stream.journal import Kind
from pipeline.stream.minute import Minute, Piece, Records, cut, encodings_of, extra_runs, in_order
from pipeline.stream.rtp import bytes_per_frame
from pipeline.stream.timeline import MINUTE, SECOND, Anchor, Epoch, HostClock, next_anchor

# A status normally follows the first packet of a timeline at once; until one has come or
# this much has been received, the timeline's place in UTC is not acted on.
SETTLE_S = 5


@dataclass(slots=True)
class Cut:
    """Minutes handed out together (more than one when rates differ), and what `done` will do."""

    minutes: list[Minute]
    utc_ns: int
    ends: dict[int, tuple[int, Anchor, int | None, int]] = field(default_factory=dict)
    notes_until: int = 0


class Cutter:
    """The minutes of one channel, out of its intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.outstanding: Cut | None = None
        self.notes_from = intake.journal.first

    def now_utc(self, silent_ns: int, host: HostClock) -> int | None:
        """UTC by the current timeline, `silent_ns` after its newest packet came; None while unknown."""
        epoch = self._intake.epoch
        if epoch is None:
            return None
        young = (
            self._intake.source.end - epoch.first_timestamp < SETTLE_S * epoch.rate_hz and silent_ns < SETTLE_S * SECOND
        )
        if young and not epoch.pairs:
            return None
        anchor = self.anchor(epoch, host)
        return None if anchor is None else anchor.utc_at(self._intake.source.end) + silent_ns

    def anchor(self, epoch: Epoch, host: HostClock) -> Anchor | None:
        """The anchor in force for an epoch, or the one it would get now."""
        return epoch.anchor or epoch.propose(host, self._intake.settings.chain_delay_ns)

    def due(self, silent_ns: int, host: HostClock, flush: bool = False) -> int | None:
        """UTC (ns) of the next minute that can be cut; None if there is none yet.

        With `flush` the running minute counts too, whatever the time.
        """
        if self.outstanding is not None:
            return None
        now = self.now_utc(silent_ns, host)
        if now is None and not flush:
            return None
        minutes = [m for m in (self._first_minute(epoch, host) for epoch in self._intake.epochs) if m is not None]
        if not minutes:
            return None
        minute = min(minutes)
        if flush or (now is not None and now >= minute + MINUTE + self._intake.settings.grace_ns):
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
        rows = self._intake.journal.records(self._intake.journal.first)
        rows = rows[(rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id)]
        width = self._width(epoch)
        return in_order(rows[rows["timestamp"] + rows["length"].astype(np.int64) // width > epoch.cut])

    def _width(self, epoch: Epoch) -> int:
        """Bytes per frame to judge by whether a packet reaches into uncut time: the narrowest there was."""
        names = {name for _, name in epoch.formats} or {self._intake.settings.encoding}
        return min(bytes_per_frame(name) for name in names)

    def cut(self, utc_ns: int, host: HostClock, tail_cause: str) -> Cut:
        """Cut the minute at `utc_ns`; what belongs to it by then is in it, what comes later is late."""
        pieces = self._pieces(utc_ns, host)
        groups: dict[int, list[Piece]] = {}
        for piece in pieces:
            groups.setdefault(piece.anchor.rate_hz, []).append(piece)
        result = Cut([], utc_ns, notes_until=self._intake.journal.count)
        for rate, members in groups.items():
            ended = members[-1].epoch is not self._intake.epoch
            minute = cut(
                utc_ns,
                rate,
                members,
                self._intake.journal.payload,
                self._intake.journal.shape.heap,
                "epoch" if ended else tail_cause,
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
        for epoch in self._intake.epochs:
            anchor = self.anchor(epoch, host)
            rows = self._data(epoch)
            if anchor is None or not len(rows):
                continue
            encodings, names = encodings_of(rows, epoch.formats, self._intake.settings.encoding)
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
        proposed = epoch.propose(host, self._intake.settings.chain_delay_ns)
        following = next_anchor(piece.anchor, proposed, end) if proposed else piece.anchor
        begin = following.timestamp_at(result.utc_ns + MINUTE)
        for minute in result.minutes:
            if begin > end and minute.segments[-1].epoch_id == epoch.id:
                stop = begin - piece.origin
                minute.extra = extra_runs(
                    piece, stop, samples, self._intake.journal.payload, self._intake.journal.shape.heap
                )
                minute.extra_samples = begin - end
        before = np.flatnonzero(piece.stops <= begin - piece.origin)
        row = int(before[-1]) if len(before) else None
        sequence = epoch.previous_sequence if row is None else int(piece.sequences[row])
        reached = epoch.previous_end if row is None else int(piece.stops[row]) + piece.origin
        result.ends[epoch.id] = (begin, following, sequence, reached)
        if epoch is self._intake.epoch:
            self._intake.source.sealed = min(begin, end)

    def _count_notes(self, result: Cut) -> None:
        rows = self._intake.journal.records(self.notes_from, result.notes_until)
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
        self.notes_from = result.notes_until
        self._intake.held_bytes = 0
        for epoch in self._intake.epochs:
            if epoch.id in result.ends:
                epoch.cut, epoch.anchor, epoch.previous_sequence, epoch.previous_end = result.ends[epoch.id]
        self._intake.source.forget_holes(self._intake.source.sealed - 60 * self._intake.source.rate_hz)
        self._intake.epochs = [e for e in self._intake.epochs if e is self._intake.epoch or len(self._data(e))]

    def release(self) -> Iterable[tuple[int, int]]:
        """Let go of what `done` made superfluous, after the checkpoint is safe.

        Returns the ranges of the segment that may be given back to the system.
        """
        return self._intake.journal.release(self._first_needed())

    def _first_needed(self) -> int:
        journal = self._intake.journal
        rows = journal.records(journal.first)
        needed = rows["kind"] == Kind.HELD
        # Held packets matter only while nothing has been placed after them.
        placed = np.flatnonzero(rows["kind"] == Kind.DATA)
        if len(placed):
            needed[: placed[-1]] = False
        for epoch in self._intake.epochs:
            stop = rows["timestamp"] + rows["length"].astype(np.int64) // self._width(epoch)
            needed |= (rows["kind"] == Kind.DATA) & (rows["epoch"] == epoch.id) & (stop > epoch.cut)
        first = np.flatnonzero(needed)
        upto = journal.first + (int(first[0]) if len(first) else len(rows))
        return min(upto, self.notes_from)
