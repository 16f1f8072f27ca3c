"""What speaks for the place of one RTP timeline in UTC, and the best that can be made of it.

radiod's status gives pairs (GPS_TIME, RTP_TIMESNAP) of the radiod host's clock; a pair can only be late,
because it is built after its sample was taken (ka9q-radio src/radio_status.c). Arrival times of packets are used
the same way where there is no status, and for the rate: there are more of them.

All times are of the recorder's clock: this host's, without what it was set by since the recording began
(`HostClock.shift_ns`). So setting the clock changes no label; only where NTP knows that the clock is right now
and was wrong before do labels follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import AnchorSource
from pipeline.stream.anchor import SECOND, Anchor, rounded
from pipeline.stream.envelope import UNKNOWN_SLOPE, Fit, Least, fit

# The kernel's own bound for a clock that nobody disciplines (Linux NTP_PHASE_LIMIT, 16 s).
UNDISCIPLINED_NS = 16 * SECOND
# What pairs cannot show is the lateness that all of them share: the block's processing and the clock reading
# itself, and on a machine that makes them later by turns also some of that.
PAIR_FLOOR_NS = 2_200_000
SHARED = 0.25
# A packet leaves radiod one 20 ms block and its processing after its first sample; without
# status nothing says how much later than that it came.
ARRIVAL_FLOOR_NS = 50_000_000
# One to a few pairs may all be late ones; hundreds of milliseconds were seen.
SCARCE_PAIR_NS = 200_000_000
SCARCE_PAIRS = 20
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
# How far back pairs tell what radiod's clock is now.
CLOCK_S = 60
# The rate is not stated before.
RATE_SPAN_S = 55.0


@dataclass(frozen=True, slots=True)
class HostClock:
    """What is known of the recorder's clock: offset to UTC and its bound, ns (clock - UTC); None = nothing.

    `shift_ns` is what this host's clock was set by since the recording began: host's clock - recorder's clock.
    """

    offset_ns: int | None = None
    uncertainty_ns: int = UNDISCIPLINED_NS
    shift_ns: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A line that the evidence gives: UTC `utc_ns` at timestamp `origin`, and `slope` ns per second beyond nominal.

    `systematic_ns` is the part of its bound that does not depend on the place, `wander_ns` that part of it that
    changes from one look to the next.
    """

    source: AnchorSource
    rate_hz: int
    origin: int
    utc_ns: int
    line: Fit
    systematic_ns: int
    wander_ns: int
    evidence_ns: int

    def _seconds(self, timestamp: int) -> float:
        return (timestamp - self.origin) / self.rate_hz

    def utc_at(self, timestamp: int) -> int:
        """UTC (ns since 1970) of a sample by this line."""
        beyond = self.line.slope * self._seconds(timestamp)
        return self.utc_ns + rounded((timestamp - self.origin) * SECOND, self.rate_hz) + round(beyond)

    def doubt_at(self, timestamp: int) -> int:
        """How far the line may move there with more evidence of the same kind, ns."""
        return round(self.line.doubt_at(self._seconds(timestamp))) + self.wander_ns

    def uncertainty_at(self, timestamp: int) -> int:
        """How far the line may be off there, ns."""
        return round(self.line.doubt_at(self._seconds(timestamp))) + self.systematic_ns

    def anchor(self, timestamp: int) -> Anchor:
        """The label's line that meets this one at `timestamp`."""
        return Anchor(
            timestamp,
            self.utc_at(timestamp),
            self.rate_hz,
            self.source,
            self.uncertainty_at(timestamp),
            self.evidence_ns,
            self.doubt_at(timestamp),
        )


@dataclass(slots=True)
class Evidence:
    """The status pairs (timestamp, UTC by radiod, arrival) and arrivals (timestamp, arrival, 0) of one timeline."""

    pairs: Least = field(default_factory=Least)
    arrivals: Least = field(default_factory=Least)

    def add_pair(self, timestamp: int, utc_ns: int, arrival_ns: int, rate_hz: int) -> None:
        """radiod's clock said `utc_ns` when the next packet was to be `timestamp`."""
        self.pairs.add(timestamp, utc_ns, arrival_ns, rate_hz)

    def add_arrivals(self, ends: npt.NDArray[np.int64], arrivals_ns: npt.NDArray[np.int64], rate_hz: int) -> None:
        """Packets whose last samples are before `ends` arrived at `arrivals_ns`."""
        # Differences first: a week's samples in nanoseconds do not fit 64 bits.
        delays = arrivals_ns - (ends - ends[0]) * SECOND // rate_hz
        seconds = ends // rate_hz
        for second in np.unique(seconds):
            rows = np.flatnonzero(seconds == second)
            best = rows[np.argmin(delays[rows])]
            self.arrivals.add(int(ends[best]), int(arrivals_ns[best]), 0, rate_hz)

    def propose(self, rate_hz: int, host: HostClock, chain_delay_ns: int, opening: tuple[int, int]) -> Proposal | None:
        """The best line that the evidence at hand gives; None when there is none at all.

        `opening` is the first packet's timestamp and arrival, for a timeline so short that nobody looked.
        `chain_delay_ns`, from antenna to timestamp, is taken off every label.
        """
        by_pairs = self._from_pairs(rate_hz, host, chain_delay_ns)
        by_arrivals = self._from_arrivals(rate_hz, host, chain_delay_ns, opening)
        if by_pairs is None or by_arrivals is None:
            return by_pairs or by_arrivals
        # radiod's word, until it is too old to tell more than the packets do.
        now = max(by_pairs.origin, by_arrivals.origin)
        stale = by_pairs.uncertainty_at(now) > 2 * by_arrivals.uncertainty_at(now) and by_pairs.origin < now - (
            CLOCK_S * rate_hz
        )
        return by_arrivals if stale else by_pairs

    def _from_pairs(self, rate_hz: int, host: HostClock, chain_delay_ns: int) -> Proposal | None:
        rows = self.pairs.rows
        if not rows:
            return None
        origin = rows[-1][0]
        x, late, base = self.pairs.points(origin, rate_hz)
        line = fit(x, late)
        slope, slope_doubt = self._slope(rate_hz, x)
        if slope_doubt < line.slope_doubt:
            line = fit(x, late, slope, slope_doubt)
        # How much radiod's clock is ahead of UTC, as far as this host can tell.
        behind = min(arrival - utc for at, utc, arrival in rows if at > origin - CLOCK_S * rate_hz)
        wrong = (host.offset_ns or 0) - behind
        follow = host.shift_ns
        if host.offset_ns is None or abs(wrong + follow) + host.uncertainty_ns >= abs(wrong):
            follow = 0
        scarce = SCARCE_PAIR_NS // self.pairs.count if self.pairs.count < SCARCE_PAIRS else 0
        utc = base + round(line.level)
        arrived = self._arrived_ns(origin, rate_hz)
        early = 0 if arrived is None else utc + behind - arrived
        # No sample arrives before it was taken: where pairs say so, all of them are late.
        shared = ARRIVAL_FLOOR_NS + early if early > PAIR_FLOOR_NS else PAIR_FLOOR_NS
        unseen = shared + scarce + round(SHARED * line.spread + line.excess)
        systematic = unseen + abs(wrong + follow) + host.uncertainty_ns
        utc += follow - chain_delay_ns
        newest = max(arrival for _, _, arrival in rows)
        return Proposal(AnchorSource.RADIOD, rate_hz, origin, utc, line, systematic, 0, newest)

    def _arrived_ns(self, timestamp: int, rate_hz: int) -> int | None:
        """When a sample arrived, had it the delay of the least late ones, by the recorder's clock; None if unknown."""
        rows = self.arrivals.rows
        if not rows or abs(timestamp - rows[-1][0]) > CLOCK_S * rate_hz:
            return None
        line, base = self.arrivals.line(rate_hz)
        after = timestamp - rows[-1][0]
        return base + after * SECOND // rate_hz + round(line.at(after / rate_hz))

    def _slope(self, rate_hz: int, x: npt.NDArray[np.float64]) -> tuple[float, float]:
        """The sample clock against radiod's clock, by the packets' arrivals and the clocks' difference; its doubt.

        Both in ns per second. `x` are the seconds of the pairs.
        """
        arrivals, rows = self._arrival_line(rate_hz), self.pairs.rows
        if arrivals is None or arrivals.slope_doubt >= UNKNOWN_SLOPE:
            return 0.0, math.inf
        first = rows[0][2] - rows[0][1]
        clocks = fit(x, np.array([arrival - utc - first for _, utc, arrival in rows], np.float64))
        return arrivals.slope - clocks.slope, arrivals.slope_doubt + clocks.slope_doubt

    def _arrival_line(self, rate_hz: int) -> Fit | None:
        return self.arrivals.line(rate_hz)[0] if self.arrivals.rows else None

    def _from_arrivals(
        self, rate_hz: int, host: HostClock, chain_delay_ns: int, opening: tuple[int, int]
    ) -> Proposal | None:
        arrivals = self.arrivals
        if not arrivals.rows:
            if opening[1] <= 0:
                return None
            arrivals = Least([(*opening, 0)], 1)
        origin = arrivals.rows[-1][0]
        line, base = arrivals.line(rate_hz)
        source = AnchorSource.WALL_CLOCK if host.offset_ns is None else AnchorSource.NTP
        # Whatever moves the host's clock moves these labels, so all of the bound is doubt.
        systematic = ARRIVAL_FLOOR_NS + host.uncertainty_ns + round(line.excess + line.spread)
        utc = base + round(line.level) - (host.offset_ns or 0) - chain_delay_ns
        newest = arrivals.rows[-1][1]
        return Proposal(source, rate_hz, origin, utc, line, systematic, systematic, newest)

    def rate_ppm(self, rate_hz: int) -> tuple[float, float]:
        """The sample clock against the recorder's, parts per million, and its standard deviation; NaN while unknown.

        By the least delayed packet of every second of the last ten minutes; positive = more samples than nominal.
        """
        line = self._arrival_line(rate_hz)
        if line is None or line.span < RATE_SPAN_S:
            return math.nan, math.nan
        return (1.0 / (1.0 + line.slope / 1e9) - 1.0) * 1e6, line.slope_doubt / 1e3 / 2

    def to_json(self) -> list[Any]:
        """All of it as plain values."""
        return [self.pairs.to_json(), self.arrivals.to_json()]

    @classmethod
    def from_json(cls, state: list[Any]) -> Evidence:
        """What `to_json` described."""
        pairs, arrivals = state
        return cls(Least.from_json(pairs), Least.from_json(arrivals))


def renewed(current: Anchor, proposed: Proposal, first: int, stop: int) -> Anchor:
    """The anchor in force with the bound that today's evidence gives it for samples [first, stop)."""
    bound = max(abs(proposed.utc_at(t) - current.utc_at(t)) + proposed.uncertainty_at(t) for t in (first, stop))
    return replace(current, uncertainty_ns=bound, evidence_ns=proposed.evidence_ns)


def next_anchor(current: Anchor, proposed: Proposal, at: int) -> Anchor:
    """The anchor for the minutes from timestamp `at` on.

    A label must not wander with every new pair, so the one in force stays unless the proposal is clearly
    different (beyond half its own doubt, or at another rate) or clearly better (half the doubt or the uncertainty, and
    not the same sample; or of a source that is trusted more).
    """
    difference = abs(proposed.utc_at(at) - current.utc_at(at))
    doubt, sample = proposed.doubt_at(at), SECOND // current.rate_hz
    better = 2 * doubt < current.doubt_ns or 2 * proposed.uncertainty_at(at) < current.uncertainty_ns
    if (
        proposed.rate_hz != current.rate_hz
        or difference > max(doubt // 2, sample)
        or (better and difference > sample)
        or TRUST[proposed.source] > TRUST[current.source]
    ):
        return proposed.anchor(at)
    return renewed(current, proposed, at, at)
