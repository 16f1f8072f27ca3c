"""Cutting one UTC minute out of a channel's journal: which samples, what is missing, why.

A minute is made of *pieces*, one per RTP timeline that reaches into it, in order of time.
Each piece maps its extended timestamps to indices of the file by its own anchor. Packets
are placed by timestamp alone; sequence numbers say whether what is missing was lost on
the way (numbers missing) or never sent (numbers contiguous). Nothing is estimated: a
sample is either a received one or zero and listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline.stream.anchor import Anchor
from pipeline.stream.encodings import Records
from pipeline.stream.journal import FLAG_REORDERED, FLAG_UNTIMED
from pipeline.stream.rtp import bytes_per_frame, silent
from pipeline.stream.timeline import Epoch

PayloadAt = Callable[[int, int], memoryview]


@dataclass(frozen=True, slots=True)
class Gap:
    """Samples [index, index + samples) of the file are zero; `timestamp` is the first one's, extended."""

    index: int
    samples: int
    timestamp: int
    packets_lost: int
    cause: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One RTP timeline in the file: indices, extended timestamp and UTC of its first sample."""

    epoch_id: int
    index: int
    samples: int
    timestamp: int
    utc_ns: int


@dataclass(frozen=True, slots=True)
class Run:
    """Packets that follow one another on the wire and in memory: file index, frames, bytes, encoding."""

    index: int
    frames: int
    payload: memoryview
    encoding: str


@dataclass(slots=True)
class Minute:
    """A cut minute, not yet decoded; `samples` is its length at `rate_hz`.

    `last_arrival_ns` (CLOCK_REALTIME) is when the packet that arrived last came,
    `last_timestamp` the extended timestamp after it; 0 = no packet began in the minute whose stamp says when it came.
    """

    utc_ns: int
    rate_hz: int
    samples: int
    anchor: Anchor
    first_timestamp: int
    epoch_id: int
    epoch_reason: str
    segments: list[Segment] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    extra: list[Run] = field(default_factory=list)
    extra_samples: int = 0
    extra_lost: int = 0
    packets_received: int = 0
    packets_reordered: int = 0
    packets_late: int = 0
    packets_duplicate: int = 0
    packets_bad: int = 0
    samples_per_packet: int = 0
    last_arrival_ns: int = 0
    last_timestamp: int = 0

    @property
    def packets_lost(self) -> int:
        """Sequence numbers that never came, of packets that would begin in this minute or its extra samples."""
        return sum(gap.packets_lost for gap in self.gaps) + self.extra_lost

    @property
    def gap_samples(self) -> int:
        """Samples that are listed as missing."""
        return sum(gap.samples for gap in self.gaps)


@dataclass(slots=True)
class Piece:
    """One epoch's part of a minute: its records in order of timestamp, and where index 0 lies on its line.

    `width` is bytes per frame of each record, `encodings` its index in `names`.
    """

    epoch: Epoch
    anchor: Anchor
    origin: int
    records: Records
    encodings: npt.NDArray[np.int64]
    names: tuple[str, ...]
    begin: int = 0
    end: int = 0
    starts: npt.NDArray[np.int64] = field(init=False)
    stops: npt.NDArray[np.int64] = field(init=False)
    sequences: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        widths = np.array([bytes_per_frame(name) for name in self.names], np.int64)[self.encodings]
        self.starts = self.records["timestamp"] - self.origin
        self.stops = self.starts + self.records["length"].astype(np.int64) // widths
        self.sequences = self.records["sequence"]

    def inside(self, samples: int) -> npt.NDArray[np.intp]:
        """Rows that reach into [0, samples) with something that is in no file yet."""
        return np.flatnonzero((self.stops > self.sealed) & (self.starts < samples))

    @property
    def sealed(self) -> int:
        """The index before which all samples are in an earlier file; after a re-anchoring that may be in this one."""
        return max(0, self.epoch.cut - self.origin)

    def broken(self, begin: int, end: int | None = None) -> bool:
        """True when the samples [begin, end) are missing because the program was not running."""
        return any(begin <= at - self.origin and (end is None or at - self.origin < end) for at in self.epoch.breaks)

    def moved(self, samples: int, utc_ns: int) -> Piece:
        """The same records `samples` later; `utc_ns` is that of index 0."""
        anchor = self.anchor.moved(samples)
        return Piece(self.epoch, anchor, anchor.timestamp_at(utc_ns), self.records, self.encodings, self.names)


def lost_between(lost: int, start: int, end: int, first: int, stop: int) -> int:
    """How many of `lost` packets that fill [start, end) evenly begin in [first, stop).

    Over neighbouring ranges the parts add up to `lost` exactly.
    """
    length = max(1, end - start)

    def begun_before(at: int) -> int:
        return min(lost, max(0, -(-(at - start) * lost // length)))

    return begun_before(stop) - begun_before(first)


def cut(utc_ns: int, rate_hz: int, pieces: list[Piece], payload: PayloadAt, heap: int, tail_cause: str) -> Minute:
    """Cut the minute beginning at `utc_ns` out of `pieces` (at least one, in order of time).

    `payload(position, length)` gives bytes of the journal's heap of `heap` bytes.
    `tail_cause` is the cause of a gap that runs to the end with no packet known after it.
    """
    samples = 60 * rate_hz
    first = pieces[0]
    minute = Minute(utc_ns, rate_hz, samples, first.anchor, first.origin, first.epoch.id, first.epoch.reason)
    before: Piece | None = None
    for piece in pieces:
        rows = piece.inside(samples)
        at = before.end if before else 0
        if not len(rows) or piece.stops[rows].max() <= at:
            continue
        piece.begin = max(at, piece.sealed, int(piece.starts[rows[0]]))
        piece.end = min(samples, int(piece.stops[rows].max()))
        if before:
            cause = "restart" if before.broken(at) else _cause_before(piece.epoch)
            _add_gap(minute, at, piece.begin, before.origin, 0, cause)
        else:
            _head_gap(minute, piece, int(rows[0]))
        _inner_gaps(minute, piece, rows)
        begin = piece.origin + piece.begin
        minute.segments.append(
            Segment(piece.epoch.id, piece.begin, piece.end - piece.begin, begin, piece.anchor.utc_at(begin))
        )
        count(minute, piece, piece.sealed, samples)
        _silent_gaps(minute, piece, _add_runs(minute, piece, rows, payload, heap))
        before = piece
    if before:
        _tail_gap(minute, before, tail_cause)
    bound = max(piece.anchor.uncertainty_ns for piece in pieces)
    minute.anchor = replace(minute.anchor, uncertainty_ns=bound)
    minute.gaps.sort(key=lambda gap: gap.index)
    return minute


def extra_runs(piece: Piece, stop: int, samples: int, payload: PayloadAt, heap: int) -> list[Run]:
    """Runs of the samples [samples, stop) of the piece's line, indices from 0."""
    rows = np.flatnonzero((piece.stops > samples) & (piece.starts < stop))
    return [
        Run(run.index - samples, run.frames, run.payload, run.encoding)
        for run, _ in _runs(piece, rows, samples, stop, payload, heap)
    ]


def _add_gap(minute: Minute, begin: int, end: int, origin: int, lost: int, cause: str) -> None:
    if end > begin:
        minute.gaps.append(Gap(begin, end - begin, origin + begin, lost, cause))


def _cause(piece: Piece, lost: int, begin: int, end: int) -> str:
    """Why the samples [begin, end) between two received packets are missing."""
    if piece.broken(begin, end):
        return "restart"
    return "network" if lost else "mute"


def _cause_before(epoch: Epoch) -> str:
    """Why nothing is known before an epoch's first packet."""
    return {"start": "start", "radiod_restart": "restart"}.get(epoch.reason, "epoch")


def _head_gap(minute: Minute, piece: Piece, row: int) -> None:
    """What is missing before the file's first sample."""
    begin = piece.begin
    if row > 0:
        sequence, end = int(piece.sequences[row - 1]), int(piece.stops[row - 1])
    elif piece.epoch.previous_sequence is not None:
        sequence, end = piece.epoch.previous_sequence, piece.epoch.previous_end - piece.origin
    else:
        _add_gap(minute, 0, begin, piece.origin, 0, _cause_before(piece.epoch))
        return
    lost = max(0, int(piece.sequences[row]) - sequence - 1)
    # After a re-anchoring what lies here may be in the file before, by the other label.
    seam = min(max(end, piece.sealed), begin)
    _add_gap(minute, 0, seam, piece.origin, 0, "unknown")
    cause = _cause(piece, lost, end, begin)
    _add_gap(minute, seam, begin, piece.origin, lost_between(lost, end, begin, seam, begin), cause)


def _inner_gaps(minute: Minute, piece: Piece, rows: npt.NDArray[np.intp]) -> None:
    starts, stops, sequences = piece.starts[rows], piece.stops[rows], piece.sequences[rows]
    reached = np.maximum.accumulate(stops)
    for i in np.flatnonzero(starts[1:] > reached[:-1]):
        lost = max(0, int(sequences[i + 1] - sequences[i]) - 1)
        begin, end = int(reached[i]), int(starts[i + 1])
        _add_gap(minute, max(piece.begin, begin), end, piece.origin, lost, _cause(piece, lost, begin, end))


def _tail_gap(minute: Minute, piece: Piece, tail_cause: str) -> None:
    """What is missing after the file's last sample."""
    if piece.end >= minute.samples:
        return
    last = int(piece.inside(minute.samples)[-1])
    if last + 1 >= len(piece.starts):
        cause = "restart" if tail_cause != "stop" and piece.broken(piece.end) else tail_cause
        _add_gap(minute, piece.end, minute.samples, piece.origin, 0, cause)
        return
    lost = max(0, int(piece.sequences[last + 1] - piece.sequences[last]) - 1)
    after = int(piece.starts[last + 1])
    within = lost_between(lost, piece.end, after, piece.end, minute.samples)
    cause = _cause(piece, lost, piece.end, after)
    _add_gap(minute, piece.end, minute.samples, piece.origin, within, cause)


def count(minute: Minute, piece: Piece, first: int, stop: int) -> None:
    """Count the packets that begin in [first, stop) of the piece's line as the minute's."""
    begun = np.flatnonzero((piece.starts >= first) & (piece.starts < stop))
    minute.packets_received += len(begun)
    minute.packets_reordered += int(np.count_nonzero(piece.records["flags"][begun] & FLAG_REORDERED))
    if len(begun):
        minute.samples_per_packet = int(np.median(piece.stops[begun] - piece.starts[begun]))
        # A stamp of while the clock was set may be hours off.
        timed = begun[piece.records["flags"][begun] & FLAG_UNTIMED == 0]
        if not len(timed):
            return
        newest = timed[np.argmax(piece.records["arrival_ns"][timed])]
        minute.last_arrival_ns = int(piece.records["arrival_ns"][newest])
        minute.last_timestamp = int(piece.stops[newest]) + piece.origin


def _missing(piece: Piece, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(packets lost, start, end) of what did not come between packets and reaches into [first, stop)."""
    reached = np.maximum.accumulate(piece.stops)
    for i in np.flatnonzero(piece.starts[1:] > reached[:-1]):
        end, start = int(reached[i]), int(piece.starts[i + 1])
        if end < stop and start > first:
            yield max(0, int(piece.sequences[i + 1] - piece.sequences[i]) - 1), end, start


def lost_in(piece: Piece, first: int, stop: int) -> int:
    """How many packets of which nothing came would begin in [first, stop) of the piece's line."""
    return sum(lost_between(lost, end, start, first, stop) for lost, end, start in _missing(piece, first, stop))


def sent_in(piece: Piece, first: int, stop: int) -> bool:
    """True when all of [first, stop) was sent, as far as the packets tell that came."""
    return int(piece.stops.max()) >= stop and all(lost for lost, _, _ in _missing(piece, first, stop))


def _runs(
    piece: Piece, rows: npt.NDArray[np.intp], begin: int, end: int, payload: PayloadAt, heap: int
) -> Iterator[tuple[Run, tuple[npt.NDArray[np.intp], memoryview]]]:
    """Runs clipped to [begin, end), each with its rows and the whole of its bytes."""
    if not len(rows):
        return
    starts, stops = piece.starts[rows], piece.stops[rows]
    lengths = piece.records["length"][rows].astype(np.int64)
    positions = piece.records["position"][rows].astype(np.int64)
    encodings = piece.encodings[rows]
    widths = np.array([bytes_per_frame(name) for name in piece.names], np.int64)
    breaks = (
        (starts[1:] != stops[:-1])
        | (positions[1:] != positions[:-1] + lengths[:-1])
        | (encodings[1:] != encodings[:-1])
        | (lengths[:-1] != (stops - starts)[:-1] * widths[encodings[:-1]])
        | (positions[1:] % heap == 0)
    )
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    for a, b in zip(edges, edges[1:], strict=False):
        encoding = piece.names[int(encodings[a])]
        whole = payload(int(positions[a]), int(lengths[a:b].sum()))
        first, last = max(begin, int(starts[a])), min(end, int(stops[b - 1]))
        if last <= first:
            continue
        width = bytes_per_frame(encoding)
        skip = (first - int(starts[a])) * width
        yield Run(first, last - first, whole[skip : skip + (last - first) * width], encoding), (rows[a:b], whole)


def _add_runs(
    minute: Minute, piece: Piece, rows: npt.NDArray[np.intp], payload: PayloadAt, heap: int
) -> npt.NDArray[np.intp]:
    """Add the piece's runs to the minute; returns the rows whose packets hold nothing but zeros."""
    quiet: list[npt.NDArray[np.intp]] = []
    for run, (members, whole) in _runs(piece, rows, piece.begin, piece.end, payload, heap):
        minute.runs.append(run)
        lengths = piece.records["length"][members].astype(np.int64)
        if not (lengths % 4).any():
            quiet.append(members[silent(whole, lengths)])
    return np.concatenate(quiet) if quiet else rows[:0]


def _silent_gaps(minute: Minute, piece: Piece, rows: npt.NDArray[np.intp]) -> None:
    if not len(rows):
        return
    starts = np.maximum(piece.starts[rows], piece.begin)
    stops = np.minimum(piece.stops[rows], piece.end)
    edges = [0, *(np.flatnonzero(starts[1:] != stops[:-1]) + 1).tolist(), len(rows)]
    for a, b in zip(edges, edges[1:], strict=False):
        _add_gap(minute, int(starts[a]), int(stops[b - 1]), piece.origin, 0, "zero_block")
