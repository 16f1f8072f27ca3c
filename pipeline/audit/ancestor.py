"""The known faults of signal-recorder's files, each found by what is left of it in the files themselves.

Its writer labels a file with a minute computed from an anchor, but fills it from the packet at hand, so
label and samples part company at the start of a session, at every loss across a minute's end and whenever the anchor
moves. Three things give it away: a gap's RTP timestamp beside where its zeros lie in the samples; when the
file was written; and a minute tone at the wrong place.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audit import gaplist
from pipeline.audit.findings import Issue
from pipeline.stream.audio import Complex, bands, find_carrier
from pipeline.stream.pulses import pulses
from pipeline.stream.rtp import signed32
from pipeline.stream.tones import listen
from pipeline.stream.tonesearch import fits

Values = Mapping[str, Any]

WRAP = 1 << 32
# A file is written when its last sample is in hand; the ancestor's stalls reached 30 s, but not file after file.
SETTLED_FILES = 3
STEADY_S = 3.0
LATE_S = 5.0
LONGEST_STALL_S = 35.0
# Label errors up to here are for the residual of the tone near iq[0] to tell.
TONE_AWAY_S = 2.0
# How near the distance must be to 2^32 samples to be that.
WRAP_NEAR_S = 600.0
# The ancestor looks for tones for two minutes before it writes.
FIRST_FILES_S = 300.0
MATCHED_GAPS = 50
MATCHED_RUNS = 200
# The ancestor truncates where it should round.
ROUNDING = 1
CLEAR_FIT = 0.85


def one_file(values: Values) -> tuple[list[Issue], int | None]:
    """What one file shows, and by how many samples its data are later than its label where a gap tells."""
    issues = list(_arithmetic(values))
    shift = None
    if len(values["gap_samples_filled"]):
        found, shift = _gaps(values)
        issues += found
    else:
        issues += gaplist.against_samples(values, np.zeros(len(values["iq"]), bool))
    return issues, shift


def _arithmetic(v: Values) -> Iterator[Issue]:
    rate, count = v["sample_rate"], len(v["iq"])
    filled = int(v["gap_samples_filled"].sum())
    if v["gaps_filled"] != filled or v["gaps_count"] != len(v["gap_samples_filled"]):
        yield Issue("gap_sums", f"gaps_count {v['gaps_count']} and gaps_filled {v['gaps_filled']}, by the list "
                                f"{len(v['gap_samples_filled'])} and {filled}")  # fmt: skip
    snap_rtp, snap_utc = v.get("time_snap_rtp"), v.get("time_snap_utc")
    if snap_rtp is not None and snap_utc is not None and math.isfinite(snap_utc):
        age = v["unix_timestamp"] - snap_utc
        off = signed32(v["rtp_timestamp"] - snap_rtp - round(age * rate))
        if abs(off) > ROUNDING:
            yield Issue("label_line", f"rtp_timestamp is {off:+d} samples from the minute by time_snap_*")
        if abs(age) * rate > WRAP // 2:
            limit = WRAP / 2 / rate / 3600
            yield Issue("anchor_old", f"its anchor is {age / 3600:.2f} h old, the limit is {limit:.2f} h")
    received = v["packets_received"]
    if received > 0 and filled < count:
        packet = round((count - filled) / received)
        over = received * packet + filled - count
        # A few packets too many cannot be a rounded packet size.
        if over > 0 and packet * received != count and over < count:
            what = f"{received} packets of {packet} samples and {filled} zeros are {over} more than the file holds"
            yield Issue("boundary_shift", f"{what}: they were dropped at the minute's end")


def _gaps(v: Values) -> tuple[list[Issue], int | None]:
    """The gap list against the zeros in the samples."""
    issues: list[Issue] = []
    count = len(v["iq"])
    filled = v["gap_samples_filled"].astype(np.int64)
    indices, rtps = v["gap_sample_indices"].astype(np.int64), v["gap_rtp_timestamps"].astype(np.int64)
    least = int(filled[filled > 0].min(initial=gaplist.packet_samples(v)))
    begins, lengths = gaplist.runs(v["iq"] == 0, min(least, gaplist.packet_samples(v)))
    zeros, listed = int(lengths.sum()), int(filled.sum())
    if listed > zeros and len(lengths) and begins[-1] + lengths[-1] == count:
        what = f"{listed} zeros are listed, {zeros} are there: {listed - zeros} were cut off at the end"
        issues.append(Issue("gap_cut", what))
    elif listed < zeros:
        issues.append(Issue("unlisted_zeros", f"{zeros} samples in runs of zeros, {listed} are listed"))
    elif listed > zeros:
        issues.append(Issue("gap_not_zero", f"{listed} zeros are listed, only {zeros} are there"))
    shift = _shift(v["rtp_timestamp"], rtps, filled, begins, lengths, count)
    if shift is None and len(begins) > 1 and len(filled) > 1:
        issues.append(Issue("phantom_samples", "the distances between its gaps are not those of their RTP timestamps"))
    right = set(begins.tolist())
    wrong = [number for number, index in enumerate(indices.tolist()) if index not in right]
    # Two gaps in a row are one run of zeros.
    wrong = [n for n in wrong if not ((begins < indices[n]) & (begins + lengths > indices[n])).any()]
    if wrong:
        what = f"{len(wrong)} of {len(indices)} gap indices are not where the zeros are"
        beyond = int(np.count_nonzero(indices + filled > count))
        what += f", {beyond} not in the file at all" if beyond else ""
        first = wrong[0]
        issues.append(Issue("gap_index_cumulative", what, f"gap {first}: index {indices[first]}"))
    return issues, shift


def _shift(
    rtp: int,
    rtps: np.ndarray[Any, Any],
    filled: np.ndarray[Any, Any],
    begins: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    count: int,
) -> int | None:
    """By how many samples the data at an index are later than the label says, where most gaps agree.

    A gap whose RTP timestamp is known lies at some run of zeros that is as long, or that the file's end cuts.
    """
    votes: Counter[int] = Counter()
    gaps = min(len(rtps), MATCHED_GAPS)
    for stamp, length in zip(rtps[:gaps].tolist(), filled[:gaps].tolist(), strict=True):
        for begin, run in zip(begins[:MATCHED_RUNS].tolist(), lengths[:MATCHED_RUNS].tolist(), strict=True):
            if run == length or (run < length and begin + run == count) or run > length:
                votes[signed32(stamp - rtp - begin)] += 1
    if not votes:
        return None
    [(best, agree)] = votes.most_common(1)
    return best if 2 * agree > gaps else None


def tone_place_s(values: Values) -> float | None:
    """How long after iq[0] the minute tone begins, None when none is clear; 0 where it ought to be."""
    iq: Complex = np.asarray(values["iq"], np.complex64)
    rate = int(values["sample_rate"])
    hour = values["unix_timestamp"] % 3600 == 0
    wanted = pulses((), values["frequency_hz"], hour) + (pulses((), values["frequency_hz"], False) if hour else ())
    if listen(iq, rate, wanted).heard:
        return 0.0
    if rate < 4000 or not wanted:
        return None
    whole = bands(iq, rate, find_carrier(iq, rate), sorted({p.hz for p in wanted}), all(p.upper_only for p in wanted))
    places = []
    for pulse in wanted:
        fit, at = fits(whole, pulse)
        best = int(np.argmax(fit)) if len(fit) else 0
        if len(fit) and fit[best] >= CLEAR_FIT:
            places.append((float(fit[best]), whole.index(int(at[best])) / rate))
    if not places:
        return None
    near = round(max(places)[1] * rate)
    exact = listen(iq[near:], rate, wanted, iq[:near]).heard
    return near / rate + (exact[0].onset_s if exact else 0.0)


@dataclass(slots=True)
class AncestorSeries:
    """Follows one channel's files in order of their names."""

    _created: deque[float] = field(default_factory=lambda: deque(maxlen=SETTLED_FILES))
    _usual: float = 0.0
    _shift: int = 0
    _snap: tuple[Any, Any] | None = None
    _minute_s: int | None = None
    _jumped: bool = False
    _told: bool = False

    def feed(self, values: Values, minute_s: int, shift: int | None) -> Iterator[Issue]:
        """What this file shows together with those before it."""
        if not self._told:
            self._told = True
            yield Issue("known_limits", "written by signal-recorder")
        rate = values["sample_rate"]
        snap = (values.get("time_snap_rtp"), values.get("time_snap_utc"))
        fresh = snap != self._snap
        if fresh and minute_s != (self._minute_s or 0) + 60:
            self._shift, self._usual = 0, 0.0
            self._created.clear()
        if shift is not None and abs(shift) > ROUNDING:
            yield self._shifted(shift, rate)
        late_s = values["created_timestamp"] - values["unix_timestamp"] - 60.0
        jumped = self._jumped
        place = tone_place_s(values)
        right = place == 0.0 or (shift is not None and abs(shift) <= ROUNDING)
        yield from self._written(late_s, rate, right)
        if minute_s - 60 == self._minute_s and self._jumped != jumped:
            # A session's first files may follow such that jumped back before its begin.
            age = values["unix_timestamp"] - (snap[1] or values["unix_timestamp"])
            if self._jumped or abs(age) > FIRST_FILES_S:
                what = "it and the file before were written days apart: newer data took the place of older here"
                yield Issue("overwritten", what)
        if place is not None and place > TONE_AWAY_S:
            what = f"the minute tone is {place:.3f} s after iq[0]: the data begin {60 - place:.3f} s after a minute"
            yield Issue("mid_minute_start", what)
        self._snap, self._minute_s = snap, minute_s

    def _shifted(self, shift: int, rate: int) -> Issue:
        """A gap says where the samples are: later than the label from the start, or since some loss."""
        seconds = shift / rate
        what = f"by the gaps' RTP timestamps iq[0] is {seconds:+.4f} s ({shift:+d} samples) from the label"
        before, self._shift = self._shift, shift
        if before and before != shift:
            return Issue("boundary_shift", f"{what}, {before:+d} in an earlier file")
        packet = abs(seconds) < 0.5
        return Issue("boundary_shift" if packet else "mid_minute_start", what)

    def _written(self, late_s: float, rate: int, right: bool) -> Iterator[Issue]:
        """When the file was written against the end of its minute, s; `right` = its label is known to be true."""
        wrap_s = WRAP / rate
        turns = round(late_s / wrap_s)
        jumped = turns != 0 and abs(late_s - turns * wrap_s) < WRAP_NEAR_S
        if jumped:
            yield Issue(
                "label_jump", f"written {late_s / 3600:.2f} h after its minute, 2^32 samples are {wrap_s / 3600:.2f} h"
            )
        if jumped != self._jumped:
            self._created.clear()
        self._jumped = jumped
        if jumped:
            return
        self._created.append(late_s)
        if late_s < -1.0:
            yield Issue("label_future", f"written {-late_s:.1f} s before its minute ended")
            return
        if len(self._created) < SETTLED_FILES or max(self._created) - min(self._created) > STEADY_S:
            return
        level = min(self._created)
        if level < LATE_S or right:
            self._usual = level
            return
        minutes = round((level - self._usual) / 60.0)
        if minutes >= 1 and abs(level - self._usual - 60.0 * minutes) < STEADY_S:
            yield Issue("minutes_early", f"file after file is written {level:.1f} s after its minute's end: "
                                         f"the labels are {minutes} min early")  # fmt: skip
        else:
            code = "mid_minute_start" if level > LONGEST_STALL_S else "mid_minute_likely"
            yield Issue(code, f"file after file is written {level:.1f} s after its minute's end: "
                              f"the data begin about {level:.1f} s after the label")  # fmt: skip
