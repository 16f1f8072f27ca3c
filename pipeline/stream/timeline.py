"""RTP timestamp to UTC and back: anchors, what they rest on, and how far they may be wrong.

An *epoch* is one RTP timeline. Within it UTC is a straight line through an *anchor* with
the nominal sample rate, in integers; no arithmetic crosses epochs. radiod's status gives
pairs (GPS_TIME, RTP_TIMESNAP) of the radiod host's clock; a pair can only be late, because
it is built after its sample was taken (ka9q-radio src/radio_status.c), so the lower
envelope of many pairs is the estimate and their spread goes into the uncertainty. Arrival
times of packets are used the same way when there is no status.

The host's clock enters twice only: as the reference of arrival times, and as a bound on
how wrong radiod's clock may be.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import AnchorSource
from pipeline.stream.rtp import signed32

SECOND = 1_000_000_000
MINUTE = 60 * SECOND

# 0.5 s apart: two minutes of them see every scheduling hiccup's normal side.
PAIRS = 240
# One least-delayed packet per bucket; twelve buckets are a minute.
BUCKET_S = 5
BUCKETS = 24
RATE_BUCKETS = 12
# The kernel's own bound for a clock that nobody disciplines (Linux NTP_PHASE_LIMIT, 16 s).
UNDISCIPLINED_NS = 16 * SECOND
# What a pair cannot show: half a filter block and the clock reading itself.
PAIR_FLOOR_NS = 2_000_000
# A packet leaves radiod one 20 ms block and its processing after its first sample; without
# status nothing says how much later than that it came.
ARRIVAL_FLOOR_NS = 50_000_000
# One to a few pairs may all be late ones; hundreds of milliseconds were seen.
SCARCE_PAIR_NS = 200_000_000
# A pair this much earlier than its nine nearest neighbours is torn, not early.
TORN_NS = 20_000_000
# A status further than this from the packets around it belongs to another timeline.
STATUS_REACH_S = 10
# RTP_TIMESNAP is the next packet's timestamp; a few may be on their way through the socket.
STATUS_AHEAD_S = 0.5


# Whose word counts more: tones are the last resort where there is neither radiod nor NTP.
TRUST = {
    AnchorSource.NONE: 0,
    AnchorSource.WALL_CLOCK: 1,
    AnchorSource.WWV: 2,
    AnchorSource.WWVH: 2,
    AnchorSource.CHU: 2,
    AnchorSource.NTP: 3,
    AnchorSource.RADIOD: 4,
}


@dataclass(frozen=True, slots=True)
class HostClock:
    """What is known of the host's clock: offset host - UTC and its bound, ns; None = nothing."""

    offset_ns: int | None = None
    uncertainty_ns: int = UNDISCIPLINED_NS


@dataclass(frozen=True, slots=True)
class Anchor:
    """UTC of an extended RTP timestamp, and the straight line through it."""

    timestamp: int
    utc_ns: int
    rate_hz: int
    source: AnchorSource
    uncertainty_ns: int
    evidence_ns: int

    def utc_at(self, timestamp: int) -> int:
        """UTC (ns since 1970) of a sample, to the nearest nanosecond."""
        return self.utc_ns + _rounded((timestamp - self.timestamp) * SECOND, self.rate_hz)

    def timestamp_at(self, utc_ns: int) -> int:
        """The extended timestamp of the sample nearest to a UTC instant."""
        return self.timestamp + _rounded((utc_ns - self.utc_ns) * self.rate_hz, SECOND)

    def minute_of(self, timestamp: int) -> int:
        """UTC of the minute (ns since 1970) whose file a sample belongs to."""
        minute = self.utc_at(timestamp) // MINUTE * MINUTE
        # Half a sample before the boundary is nearer to it than to the sample before.
        return minute + MINUTE if timestamp >= self.timestamp_at(minute + MINUTE) else minute

    def to_json(self) -> list[int]:
        """The anchor as plain values."""
        return [int(value) for value in astuple(self)]

    @classmethod
    def from_json(cls, state: list[int]) -> Anchor:
        """The anchor that `to_json` described."""
        at, utc, rate, source, uncertainty, evidence = state
        return cls(at, utc, rate, AnchorSource(source), uncertainty, evidence)

    def moved(self, samples: int) -> Anchor:
        """The same anchor with the timeline `samples` later."""
        later = _rounded(samples * SECOND, self.rate_hz)
        return replace(self, utc_ns=self.utc_ns + later, uncertainty_ns=self.uncertainty_ns + abs(later))


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


@dataclass(slots=True)
class Epoch:
    """One RTP timeline: where it begins, what is known of its time and of its format."""

    id: int
    reason: str
    first_timestamp: int
    first_arrival_ns: int
    rate_hz: int
    end: int = 0
    last_arrival_ns: int = 0
    rate_known: bool = False
    cut: int = 0
    previous_sequence: int | None = None
    previous_end: int = 0
    anchor: Anchor | None = None
    formats: list[tuple[int, str]] = field(default_factory=list)
    # Where the samples ended when the program did; it went on after that.
    breaks: list[int] = field(default_factory=list)
    pairs: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=PAIRS))
    arrivals: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=BUCKETS))

    def near(self, timestamp: int) -> int:
        """A wire timestamp as the extended one nearest to the newest sample."""
        return self.end + signed32(timestamp - self.end)

    def owns_status(self, timesnap: int, arrival_ns: int, current: bool) -> bool:
        """True when a status with this RTP_TIMESNAP, come at `arrival_ns`, can be of this timeline.

        It may be seconds behind the packets (radiod catching up) but never ahead of them,
        and it may come shortly before the first packet but not after another timeline began.
        """
        reach = STATUS_REACH_S * SECOND
        if (
            not self.first_arrival_ns - reach
            <= arrival_ns
            <= self.last_arrival_ns + (reach if current else SECOND // 2)
        ):
            return False
        at = self.near(timesnap)
        newest = self.first_timestamp if arrival_ns < self.first_arrival_ns else self.end
        ahead = at - newest
        return self.first_timestamp - self.rate_hz <= at and -STATUS_REACH_S <= ahead / self.rate_hz <= STATUS_AHEAD_S

    def learn(self, timesnap: int, rate_hz: int | None, encoding: str | None) -> None:
        """A status says how packets from `timesnap` on are made."""
        if rate_hz and rate_hz != self.rate_hz:
            self.arrivals.clear()
            if self.reason == "timestamp_jump":
                self.reason = "rate_change"
            self.rate_hz = rate_hz
        self.rate_known = self.rate_known or bool(rate_hz)
        if encoding:
            self._add_format(self.near(timesnap), encoding)

    def _add_format(self, at: int, encoding: str) -> None:
        row = bisect_right(self.formats, at, key=lambda known: known[0])
        if row and self.formats[row - 1][1] == encoding:
            return
        if row < len(self.formats) and self.formats[row][1] == encoding:
            del self.formats[row]
        self.formats.insert(row, (at, encoding))

    def forget_formats(self, before: int) -> None:
        """Drop what was in force only for samples before `before`."""
        while len(self.formats) > 1 and self.formats[1][0] <= before:
            del self.formats[0]

    def add_pair(self, timesnap: int, utc_ns: int, arrival_ns: int) -> None:
        """A status pair: radiod's clock said `utc_ns` when the next packet was to be `timesnap`."""
        self.pairs.append((self.near(timesnap), utc_ns, arrival_ns))

    def add_arrivals(self, ends: npt.NDArray[np.int64], arrivals_ns: npt.NDArray[np.int64]) -> None:
        """Packets whose last samples are before `ends` arrived at `arrivals_ns` of the host's clock."""
        # Differences first: a week's samples in nanoseconds do not fit 64 bits.
        delays = arrivals_ns - (ends - ends[0]) * SECOND // self.rate_hz
        buckets = ends // (BUCKET_S * self.rate_hz)
        for bucket in np.unique(buckets):
            rows = np.flatnonzero(buckets == bucket)
            best = rows[np.argmin(delays[rows])]
            self._add_arrival(int(bucket), int(ends[best]), int(arrivals_ns[best]))

    def _add_arrival(self, bucket: int, end: int, arrival_ns: int) -> None:
        known = next((i for i, entry in enumerate(self.arrivals) if entry[0] == bucket), None)
        if known is not None:
            _, best_end, best = self.arrivals[known]
            if _rounded((end - best_end) * SECOND, self.rate_hz) > arrival_ns - best:
                self.arrivals[known] = (bucket, end, arrival_ns)
        elif not self.arrivals or bucket > self.arrivals[-1][0]:
            self.arrivals.append((bucket, end, arrival_ns))

    def propose(self, host: HostClock, chain_delay_ns: int) -> Anchor | None:
        """The best anchor that the evidence at hand gives; None when there is none at all.

        `chain_delay_ns`, from antenna to timestamp, is taken off every label.
        """
        anchor = self._from_pairs(host) or self._from_arrivals(host)
        if anchor is None or not chain_delay_ns:
            return anchor
        return replace(anchor, utc_ns=anchor.utc_ns - chain_delay_ns)

    def _from_pairs(self, host: HostClock) -> Anchor | None:
        if not self.pairs:
            return None
        residuals = self._residuals((at, utc) for at, utc, _ in self.pairs)
        ordered = sorted(residuals)
        floor = ordered[min(9, len(ordered) // 3)] - TORN_NS
        best = min(r for r in ordered if r >= floor)
        spread = ordered[len(ordered) // 2] - best
        scarce = SCARCE_PAIR_NS // len(ordered) if len(ordered) < 20 else 0
        clock = min(arrival - utc for _, utc, arrival in self.pairs) - (host.offset_ns or 0)
        uncertainty = PAIR_FLOOR_NS + max(spread, scarce) + abs(clock) + host.uncertainty_ns
        # Of equal ones the first sample's, in whatever order they came to be known.
        at, utc = min((at, utc) for r, (at, utc, _) in zip(residuals, self.pairs, strict=True) if r == best)
        newest = max(arrival for _, _, arrival in self.pairs)
        return Anchor(at, utc, self.rate_hz, AnchorSource.RADIOD, uncertainty, newest)

    def _from_arrivals(self, host: HostClock) -> Anchor | None:
        points = [(at, arrival) for _, at, arrival in self.arrivals]
        if not points and self.first_arrival_ns > 0:
            # A timeline so short that nobody looked.
            points = [(self.first_timestamp, self.first_arrival_ns)]
        if not points:
            return None
        residuals = self._residuals(points)
        best = min(residuals)
        at, arrival = points[residuals.index(best)]
        spread = sorted(residuals)[len(residuals) // 2] - best
        source = AnchorSource.WALL_CLOCK if host.offset_ns is None else AnchorSource.NTP
        uncertainty = ARRIVAL_FLOOR_NS + spread + host.uncertainty_ns
        utc = arrival - (host.offset_ns or 0)
        return Anchor(at, utc, self.rate_hz, source, uncertainty, points[-1][1])

    def _residuals(self, points: Iterable[tuple[int, int]]) -> list[int]:
        origin = self.first_timestamp
        return [utc - _rounded((at - origin) * SECOND, self.rate_hz) for at, utc in points]

    def rate_ppm(self) -> float:
        """The sample clock against the clock of the arrival times, parts per million; NaN while unknown.

        Least squares through the least delayed packet of each five seconds of the last
        two minutes; positive = more samples than nominal.
        """
        if len(self.arrivals) < RATE_BUCKETS:
            return math.nan
        ends = [(end - self.first_timestamp) / self.rate_hz for _, end, _ in self.arrivals]
        first = self.arrivals[0][2]
        times = [(arrival - first) / SECOND for _, _, arrival in self.arrivals]
        mean_end, mean_time = sum(ends) / len(ends), sum(times) / len(times)
        square = sum((e - mean_end) ** 2 for e in ends)
        slope = sum((e - mean_end) * (t - mean_time) for e, t in zip(ends, times, strict=True)) / square
        return (1.0 / slope - 1.0) * 1e6 if slope > 0 else math.nan

    def to_json(self) -> dict[str, Any]:
        """Everything a successor needs, as plain values."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        anchor = self.anchor.to_json() if self.anchor else None
        return {**state, "anchor": anchor, "pairs": list(self.pairs), "arrivals": list(self.arrivals)}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Epoch:
        """The epoch that `to_json` described."""
        plain = dict(state)
        plain["anchor"] = Anchor.from_json(state["anchor"]) if state["anchor"] else None
        plain["formats"] = [(at, encoding) for at, encoding in state["formats"]]
        plain["pairs"] = deque(((a, b, c) for a, b, c in state["pairs"]), maxlen=PAIRS)
        plain["arrivals"] = deque(((a, b, c) for a, b, c in state["arrivals"]), maxlen=BUCKETS)
        return cls(**plain)


def next_anchor(current: Anchor, proposed: Anchor, at: int) -> Anchor:
    """The anchor for the minutes from timestamp `at` on.

    A label must not wander with every new pair, so the one in force stays unless the
    proposal is clearly different (beyond its own uncertainty, or at another rate) or clearly
    better (half the uncertainty, or of a source that is trusted more).
    """
    difference = abs(proposed.utc_at(at) - current.utc_at(at))
    if (
        proposed.rate_hz != current.rate_hz
        or difference > proposed.uncertainty_ns
        or 2 * proposed.uncertainty_ns < current.uncertainty_ns
        or TRUST[proposed.source] > TRUST[current.source]
    ):
        return proposed
    return replace(current, uncertainty_ns=proposed.uncertainty_ns + difference, evidence_ns=proposed.evidence_ns)
