"""The known faults of signal-recorder's files, each found by what is left of it in the files themselves.

Its writer labels a file with a minute computed from an anchor, but fills it from the packet at hand, so
label and samples part company at the start of a session, at every loss across a minute's end and whenever the anchor
moves. Three things give it away: a gap's RTP timestamp beside where its zeros lie in the samples; when the
file was written (`ancestor_series`); and a minute tone at the wrong place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
MATCHED_GAPS = 50
MATCHED_RUNS = 200
# The ancestor truncates where it should round.
ROUNDING = 1
CLEAR_FIT = 0.85
# Of less there is no minute to look for, and a rate that makes it less may be any number.
LEAST_S = 10


@dataclass(frozen=True, slots=True)
class AncestorFacts:
    """What one file says that matters to others.

    `shift` is by how many samples its data are later than its label where a gap tells, `cut` how many zeros were cut
    off at its end; `tone_s` how long after iq[0] the minute tone begins, None when none is clear, 0 where it ought to
    be. Times in s, `snap` the anchor's pair.
    """

    minute_s: int
    rate_hz: int
    unix_s: float
    created_s: float
    snap: tuple[int | None, float | None]
    shift: int | None
    tone_s: float | None
    cut: int = 0


def one_file(values: Values, minute_s: int, samples: bool = True) -> tuple[list[Issue], AncestorFacts]:
    """What one file shows, and what it says of others; without `samples` only its keys are looked at."""
    issues = list(_arithmetic(values))
    shift = tone = None
    cut = 0
    if samples:
        if len(values["gap_samples_filled"]):
            found, shift, cut = _gaps(values)
            issues += found
        else:
            issues += gaplist.against_samples(values, np.zeros(len(values["iq"]), bool))
        tone = tone_place_s(values)
    else:
        issues += _indices(values)
    if not cut:
        issues += _overfull(values)
    snap = (values.get("time_snap_rtp"), values.get("time_snap_utc"))
    return issues, AncestorFacts(
        minute_s, values["sample_rate"], values["unix_timestamp"], values["created_timestamp"], snap, shift, tone, cut
    )


def _indices(v: Values) -> Iterator[Issue]:
    """Gap indices that cannot be of this file, by the list alone."""
    ends = v["gap_sample_indices"].astype(np.int64) + v["gap_samples_filled"].astype(np.int64)
    beyond = np.flatnonzero(ends > len(v["iq"]))
    if len(beyond):
        what = f"{len(beyond)} of {len(ends)} gap indices are not in the file at all"
        first = int(beyond[0])
        yield Issue("gap_index_cumulative", what, f"gap {first}: index {v['gap_sample_indices'][first]}")


def _arithmetic(v: Values) -> Iterator[Issue]:
    rate, filled = v["sample_rate"], int(v["gap_samples_filled"].sum())
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


def _overfull(v: Values) -> Iterator[Issue]:
    """More packets than the file has room for, where all listed zeros are in it."""
    count, filled = len(v["iq"]), int(v["gap_samples_filled"].sum())
    received = v["packets_received"]
    if received > 0 and filled < count:
        packet = round((count - filled) / received)
        over = received * packet + filled - count
        # A few packets too many cannot be a rounded packet size.
        if over > 0 and packet * received != count and over < count:
            what = f"{received} packets of {packet} samples and {filled} zeros are {over} more than the file holds"
            yield Issue("boundary_shift", f"{what}: they were dropped at the minute's end")


def _gaps(v: Values) -> tuple[list[Issue], int | None, int]:
    """The gap list against the zeros in the samples; the shift, and how many zeros were cut off."""
    issues: list[Issue] = []
    cut = 0
    count = len(v["iq"])
    filled = v["gap_samples_filled"].astype(np.int64)
    indices, rtps = v["gap_sample_indices"].astype(np.int64), v["gap_rtp_timestamps"].astype(np.int64)
    least = int(filled[filled > 0].min(initial=gaplist.packet_samples(v)))
    begins, lengths = gaplist.runs(v["iq"] == 0, min(least, gaplist.packet_samples(v)))
    zeros, listed = int(lengths.sum()), int(filled.sum())
    if listed > zeros and len(lengths) and begins[-1] + lengths[-1] == count:
        cut = listed - zeros
        what = f"{listed} zeros are listed, {zeros} are there: {cut} were cut off at the end"
        issues.append(Issue("gap_cut", what))
    elif listed < zeros:
        issues.append(Issue("unlisted_zeros", f"{zeros} samples in runs of zeros, {listed} are listed"))
    elif listed > zeros:
        issues.append(Issue("gap_not_zero", f"{listed} zeros are listed, only {zeros} are there"))
    shift = _shift(v["rtp_timestamp"], rtps, filled, begins, lengths, count)
    if shift is None and len(begins) > 1 and len(filled) > 1:
        issues.append(Issue("phantom_samples", "the distances between its gaps are not those of their RTP timestamps"))
    # Two gaps in a row are one run of zeros.
    run = np.searchsorted(begins, indices, "right") - 1
    inside = (run >= 0) & (indices < (begins + lengths)[run]) if len(begins) else np.zeros(len(indices), bool)
    wrong = np.flatnonzero(~inside).tolist()
    if wrong:
        what = f"{len(wrong)} of {len(indices)} gap indices are not where the zeros are"
        beyond = int(np.count_nonzero(indices + filled > count))
        what += f", {beyond} not in the file at all" if beyond else ""
        first = wrong[0]
        issues.append(Issue("gap_index_cumulative", what, f"gap {first}: index {indices[first]}"))
    return issues, shift, cut


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
    if len(iq) < LEAST_S * rate:
        return None
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
