"""What goes out: which minute is over, cut with all that is known by then, and let go of when it is on disk.

`due` says that a minute is over, `cut` hands it out, `done` and `release` let go of it. A
minute that was handed out and not yet acknowledged stays in the journal, whole; a successor
that finds it in the checkpoint cuts it again exactly as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.stream.anchor import MINUTE, SECOND, Anchor
from pipeline.stream.encodings import Uncut, uncut
from pipeline.stream.evidence import HostClock, Proposal, next_anchor, renewed
from pipeline.stream.intake import HELD_SHARE, Intake, Rejected
from pipeline.stream.journal import Kind
from pipeline.stream.minute import Minute, Piece, count, cut, extra_runs, lost_in, sent_in
from pipeline.stream.timeline import STATUS_REACH_S, Epoch
from pipeline.stream.toneanchor import ToneWatch

# A status normally follows the first packet of a timeline at once; until one has come or
# this much has been received, the timeline's place in UTC is not acted on.
SETTLE_S = 5
# A re-anchoring by less keeps the files in a row, with `iq_extra` or an overlap; after a
# greater one the next file begins with the next sample, wherever its minute is by then.
NEAR_NS = 11 * SECOND // 10
# Samples between two files are in the first one, so they must have come when it is cut: no more than this share of the
# time that late packets are waited for, which is at least so much. By default a leap second fits.
WAIT_SHARE = 0.6
LEAST_WAIT_NS = SECOND // 5
# Silence is time only after so long: what was held up for less still finds its minute, and the journal has room.
SILENCE_NS = 20 * SECOND
# Whether a minute is over is looked at no more often than this; as long as a timeline has no anchor in force, evidence
# may still bring it nearer.
LOOK_NS = MINUTE
UNSURE_LOOK_NS = 15 * SECOND


@dataclass(frozen=True, slots=True)
class End:
    """Where a cut leaves an epoch: the next file's first timestamp, its anchor, and the last packet before it."""

    cut: int
    anchor: Anchor
    previous_sequence: int | None
    previous_end: int


@dataclass(slots=True)
class Cut:
    """Minutes handed out together (more than one when rates differ), and what `done` will do.

    Records before `until` are in it; `newest` is the epoch that was being received. `anchors` are the files',
    by epoch.
    """

    minutes: list[Minute]
    utc_ns: int
    tail_cause: str
    until: int
    newest: int
    ends: dict[int, End] = field(default_factory=dict)
    anchors: dict[int, Anchor] = field(default_factory=dict)
    rejected: Rejected = Rejected(0, 0, 0)


class Cutter:
    """The minutes of one channel, out of its intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.outstanding: Cut | None = None
        # A predecessor's cut that is to be made again, without its minutes.
        self.again: Cut | None = None
        self.counted = intake.rejected
        self.tones = ToneWatch()
        self._tidied = (intake.journal.count, 0)
        self._next_look = (0, 0)
        # What the evidence of each timeline gives, for one cut.
        self._lines: dict[int, Proposal | None] = {}

    def now_utc(self, silent_ns: int, host: HostClock) -> int | None:
        """UTC by the current timeline, `silent_ns` after its newest packet came; None while unknown."""
        epoch = self._intake.epoch
        if epoch is None:
            return None
        young = (
            self._intake.source.end - epoch.first_timestamp < SETTLE_S * epoch.rate_hz and silent_ns < SETTLE_S * SECOND
        )
        if young and not epoch.evidence.pairs.count:
            return None
        anchor = self.anchor(epoch, host)
        return None if anchor is None else anchor.utc_at(self._intake.source.end) + silent_ns

    def anchor(self, epoch: Epoch, host: HostClock) -> Anchor | None:
        """The anchor in force for an epoch, or the one it would get now."""
        if epoch.anchor is not None:
            return epoch.anchor
        self._intake.scan()
        proposed = self._propose(epoch, host)
        return None if proposed is None else proposed.anchor(epoch.first_timestamp)

    def _propose(self, epoch: Epoch, host: HostClock) -> Proposal | None:
        return epoch.propose(host, self._intake.settings.chain_delay_ns)

    def _propose_for(self, epoch: Epoch, host: HostClock, current: Anchor) -> Proposal | None:
        """What all evidence gives in a cut, the tones' too, `current` being in force."""
        if epoch.id not in self._lines:
            self._lines[epoch.id] = self._propose(epoch, host)
        proposed = self._lines[epoch.id]
        return None if proposed is None else self.tones.instead_of(proposed, epoch.id, current)

    def due(self, silent_ns: int, host: HostClock, flush: bool = False) -> int | None:
        """UTC (ns) of the next minute that can be cut, `silent_ns` after the newest packet came; None if there is none.

        With `flush` the running minute counts too, whatever the time.
        """
        if self.outstanding is not None:
            return None
        if self.again is not None:
            return self.again.utc_ns
        now = self.now_utc(silent_ns if silent_ns >= SILENCE_NS else 0, host)
        if now is None and not flush:
            return None
        newest = self._intake.epochs[-1].id if self._intake.epochs else 0
        if now is not None and not flush and self._looked(now, newest):
            return None
        self._intake.scan()
        begins = [(epoch.id, self._first_minute(epoch, host)) for epoch in self._intake.epochs]
        minutes = [m for _, m in begins if m is not None]
        if not minutes:
            return None
        minute = min(minutes)
        if now is not None:
            # A timeline that ended, and whose clock was ahead, is over before that time comes.
            ahead = [m for epoch, m in begins if epoch != newest and m is not None and m - now > NEAR_NS]
            if ahead:
                return min(ahead)
        if flush or (now is not None and now >= minute + MINUTE + self._wait_ns):
            return minute
        if now is not None:
            look = now + (LOOK_NS if all(epoch.anchor for epoch in self._intake.epochs) else UNSURE_LOOK_NS)
            self._next_look = (min(minute + MINUTE + self._wait_ns, look), newest)
        return None

    def _looked(self, now: int, newest: int) -> bool:
        """True when the journal was looked through lately and nothing can be due before the next look.

        Doing so at every wake-up would nearly always find nothing.
        """
        at, epoch = self._next_look
        return epoch == newest and 0 < at - now <= LOOK_NS

    @property
    def _wait_ns(self) -> int:
        return max(self._intake.settings.grace_ns, LEAST_WAIT_NS)

    def _first_minute(self, epoch: Epoch, host: HostClock) -> int | None:
        anchor = self.anchor(epoch, host)
        if anchor is None:
            return None
        rest = self._uncut(epoch)
        return anchor.minute_of(max(int(rest.records["timestamp"][0]), epoch.cut)) if len(rest.records) else None

    def _uncut(self, epoch: Epoch, until: int | None = None) -> Uncut:
        """The epoch's packets that are not wholly cut."""
        rows = self._intake.journal.records(self._intake.journal.first, until)
        return uncut(rows, epoch, self._intake.settings.encoding)

    def cut(self, utc_ns: int, host: HostClock, tail_cause: str) -> Cut:
        """Cut the minute at `utc_ns`; what belongs to it by then is in it, what comes later is late."""
        self._intake.scan()
        self._lines = {}
        journal, again = self._intake.journal, self.again
        if again is not None:
            tail_cause = again.tail_cause
        result = Cut([], utc_ns, tail_cause, again.until if again else journal.count, self._intake.source.epoch)
        result.newest = again.newest if again else result.newest
        pieces = self._pieces(utc_ns, host, result.until)
        for members in _groups(pieces):
            rate = members[0].anchor.rate_hz
            tail = "epoch" if members[-1].epoch.id != result.newest else tail_cause
            minute = cut(utc_ns, rate, members, journal.payload, journal.shape.heap, tail)
            if minute.segments:
                result.minutes.append(minute)
        result.minutes.sort(key=lambda m: sum(s.samples for s in m.segments) / m.rate_hz, reverse=True)
        for piece in pieces:
            result.anchors[piece.epoch.id] = piece.anchor
            known = again.ends.get(piece.epoch.id) if again else None
            self._settle(piece, result, known or self._end(piece, result, host))
        self._count_rejected(result, again.rejected if again else self._intake.rejected)
        self.outstanding, self.again = result, None
        return result

    def _pieces(self, utc_ns: int, host: HostClock, until: int) -> list[Piece]:
        pieces: list[Piece] = []
        for epoch in self._intake.epochs:
            anchor = self.anchor(epoch, host)
            if anchor is None:
                continue
            rest = self._uncut(epoch, until)
            piece = Piece(epoch, anchor, anchor.timestamp_at(utc_ns), rest.records, rest.encodings, rest.names)
            if not len(piece.inside(60 * anchor.rate_hz)):
                continue
            if pieces and epoch.anchor is None:
                piece = _after(pieces[-1], piece, utc_ns)
            epoch.anchor = piece.anchor
            inside = piece.inside(60 * anchor.rate_hz)
            if len(inside):
                piece.anchor = self._bound(piece, inside, host)
                pieces.append(piece)
        return pieces

    def _bound(self, piece: Piece, inside: npt.NDArray[np.intp], host: HostClock) -> Anchor:
        """The piece's anchor with the bound that is known now that its minute is over."""
        if self.again is not None and piece.epoch.id in self.again.anchors:
            return self.again.anchors[piece.epoch.id]
        proposed = self._propose_for(piece.epoch, host, piece.anchor)
        if proposed is None:
            return piece.anchor
        first = max(0, int(piece.starts[inside[0]]))
        stop = min(60 * piece.anchor.rate_hz, int(piece.stops[inside].max()))
        return renewed(piece.anchor, proposed, piece.origin + first, piece.origin + stop)

    def _end(self, piece: Piece, result: Cut, host: HostClock) -> End:
        """Decide the epoch's next anchor and where the next file begins."""
        epoch = piece.epoch
        end = piece.origin + 60 * piece.anchor.rate_hz
        # Nothing comes after a stop that a better anchor could be for.
        proposed = self._propose_for(epoch, host, piece.anchor) if result.tail_cause != "stop" else None
        following = next_anchor(piece.anchor, proposed, end) if proposed else piece.anchor
        begin = following.timestamp_at(result.utc_ns + MINUTE)
        ahead_ns = (begin - end) * SECOND // following.rate_hz
        if not -NEAR_NS <= ahead_ns <= min(NEAR_NS, WAIT_SHARE * self._wait_ns):
            begin = end
        elif begin > end and not sent_in(piece, end - piece.origin, begin - piece.origin):
            # Zeros between two files would be in no list: the label moves when a stream runs there.
            begin, following = end, piece.anchor
        before = np.flatnonzero(piece.stops <= begin - piece.origin)
        if not len(before):
            return End(begin, following, epoch.previous_sequence, epoch.previous_end)
        row = int(before[-1])
        return End(begin, following, int(piece.sequences[row]), int(piece.stops[row]) + piece.origin)

    def _settle(self, piece: Piece, result: Cut, end: End) -> None:
        """What lies between this minute's end and the next's begin is this minute's."""
        journal, epoch = self._intake.journal, piece.epoch
        result.ends[epoch.id] = end
        samples, stop = 60 * piece.anchor.rate_hz, end.cut - piece.origin
        for minute in result.minutes:
            if stop > samples and minute.segments[-1].epoch_id == epoch.id:
                minute.extra = extra_runs(piece, stop, samples, journal.payload, journal.shape.heap)
                minute.extra_samples = stop - samples
                minute.extra_lost = lost_in(piece, samples, stop)
                count(minute, piece, samples, stop)
        if epoch is self._intake.epoch:
            self._intake.source.sealed = end.cut

    def _count_rejected(self, result: Cut, rejected: Rejected) -> None:
        result.rejected = rejected
        if result.minutes:
            first = result.minutes[0]
            first.packets_duplicate = rejected.duplicate - self.counted.duplicate
            first.packets_late = rejected.late - self.counted.late
            first.packets_bad = rejected.bad - self.counted.bad

    def done(self, result: Cut) -> None:
        """The minutes are on disk (or given up); a checkpoint taken now says so."""
        self.outstanding = None
        intake = self._intake
        if result.minutes:
            self.counted = result.rejected
        for epoch in intake.epochs:
            end = result.ends.get(epoch.id)
            if end is not None:
                epoch.cut, epoch.anchor = end.cut, end.anchor
                epoch.previous_sequence, epoch.previous_end = end.previous_sequence, end.previous_end
                epoch.breaks = [at for at in epoch.breaks if at >= epoch.previous_end]
                # A packet that reaches over the cut began earlier.
                epoch.forget_formats(epoch.cut - STATUS_REACH_S * epoch.rate_hz)
        intake.source.holes.forget(intake.source.sealed - 60 * intake.source.rate_hz)
        intake.epochs = [e for e in intake.epochs if e is intake.epoch or len(self._uncut(e).records)]

    def crowded(self) -> bool:
        """True when the journal holds much that no minute needs: take a checkpoint and `release`.

        Statuses of a channel that is mute, and packets of strangers, come without any minute.
        """
        journal, held = self._intake.journal, self._intake.held_bytes
        if self.outstanding is not None:
            return False
        count_then, held_then = self._tidied
        flooded = held > max(held_then, journal.shape.heap // HELD_SHARE // 2)
        return flooded or (journal.used_fraction() > 0.5 and journal.count - count_then > journal.shape.records // 64)

    def release(self) -> Iterable[tuple[int, int]]:
        """Let go of what is superfluous, after the checkpoint is safe.

        Returns the ranges of the segment that may be given back to the system.
        """
        journal = self._intake.journal
        given = journal.release(self._first_needed())
        rows = journal.records(journal.first)
        self._intake.held_bytes = int(rows["length"][rows["kind"] == Kind.HELD].sum())
        self._tidied = (journal.count, self._intake.held_bytes)
        return given

    def _first_needed(self) -> int:
        journal = self._intake.journal
        rows = journal.records(journal.first)
        runs = [run.number for run in self._intake.source.candidates.runs]
        held = np.flatnonzero((rows["kind"] == Kind.HELD) & np.isin(rows["epoch"], runs))
        first = [int(held[0])] if len(held) else []
        for epoch in self._intake.epochs:
            rest = self._uncut(epoch)
            first += [int(rest.numbers.min())] if len(rest.numbers) else []
        return journal.first + min(first, default=len(rows))


def _groups(pieces: list[Piece]) -> list[list[Piece]]:
    """The pieces that go into one file each time: of one rate, and none where another has its samples."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        rate = piece.anchor.rate_hz
        samples = 60 * rate
        begin = max(piece.sealed, int(piece.starts[piece.inside(samples)[0]]))
        for group in groups:
            last = group[-1]
            if last.anchor.rate_hz == rate and int(last.stops[last.inside(samples)].max()) <= begin:
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _after(before: Piece, piece: Piece, utc_ns: int) -> Piece:
    """A timeline cannot begin before the one it followed ended: the piece, later if it does."""
    end = before.anchor.utc_at(before.origin + int(before.stops.max()))
    begin = piece.anchor.utc_at(piece.origin + int(piece.starts[0]))
    if begin >= end:
        return piece
    piece = piece.moved(-(-(end - begin) * piece.anchor.rate_hz // SECOND), utc_ns)
    short = int(before.stops.max() - piece.starts[0])
    same = before.anchor.rate_hz == piece.anchor.rate_hz
    return piece.moved(short, utc_ns) if same and short > 0 else piece
