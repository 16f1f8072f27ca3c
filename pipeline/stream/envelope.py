"""The lower envelope of times that can only be late: the straight line that all of them lie on or above.

A status pair is built, and a packet sent, after its sample was taken: sooner or later after it, never
before. So the earliest ones tell, and a line through them tells the clocks' rates too. Of all lines
below the points the one with the least sum of distances is taken; it lies on the edge of their convex hull
that spans their mean place (Moon, Skelly, Towsley: Estimation and Removal of Clock Skew from Network
Delay Measurements, INFOCOM 1999).
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SECOND = 1_000_000_000
# Observations are kept for so long, of each second the least late one.
WINDOW_S = 600
# A shorter stretch says nothing of the rate; what a sample clock may be off then, ns per second.
LEAST_SPAN_S = 30.0
FEWEST_FOR_A_SLOPE = 20
UNKNOWN_SLOPE = 100_000.0
STEEPEST = 300_000.0
# Earlier by so much than all but a few others is torn, if it is one alone among others: what was sent in time
# is followed by more of it, and so many in a row are believed against any number of late ones.
TORN_NS = 10e6
FEW, FEW_OF = 9, 20
BELIEVED = 3
# What has been late for so long without one exception is late for good: samples were lost.
LOST_S = 60.0
FEWEST_LOST = 30
LEAST_LOST_NS = 2e6
UNUSUAL = 10.0
# The last seconds; all of so short a stretch may usually be as late as the least, or these quantiles, of all points.
RECENT_S = (30.0, 10.0, 3.0)
USUAL = (0.5, 0.95)
# How many of the earliest ones say how dense they lie, and so how far the true edge may be.
EDGE = 9
# Into how many parts the points are divided to see which of them can matter; fewer than FEWEST_FOR_A_SLOPE.
CHORDS = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """A lower envelope: `level` (ns) at x = 0 and `slope` (ns per second), true within `doubt_at`.

    `excess` is how much later than the line, ns, all recent points lie, or all lay before the
    line was moved to them: either samples were lost or everything was delayed, and nothing here can tell which. Or how
    much earlier than the line a few points are of which nothing tells yet whether they are torn.
    `spread` is how late half of the points are, ns; `span` how many seconds they cover.
    """

    level: float
    slope: float
    doubt: float
    slope_doubt: float
    middle: float
    spread: float
    span: float
    excess: float = 0.0

    def at(self, x: float) -> float:
        """The line at x seconds, ns."""
        return self.level + self.slope * x

    def doubt_at(self, x: float) -> float:
        """How far the line may be off at x seconds, ns."""
        return self.doubt + self.slope_doubt * abs(x - self.middle)


def fit(x: Floats, late: Floats, slope: float | None = None, slope_doubt: float = 0.0) -> Fit:
    """The lower envelope of points (x in ascending seconds, `late` in ns), at least one.

    With `slope` only the level is sought; `slope_doubt` is how far that slope may be off.
    """
    x, late, against = _without_torn(x, late)
    found = _line(x, late, slope, slope_doubt)
    above = late - found.level - found.slope * x
    seam, step = _lost(x, above)
    if seam:
        return replace(_line(x[seam:], late[seam:], slope, slope_doubt), excess=max(step, against))
    # What all of the last seconds have in common, where it is more than such seconds usually have.
    usual = (0.0, *np.quantile(above, USUAL).tolist())
    excess = [float(above[x > x[-1] - last_s].min()) - late_ns for last_s, late_ns in zip(RECENT_S, usual, strict=True)]
    return replace(found, excess=max(against, *excess))


def _without_torn(x: Floats, late: Floats) -> tuple[Floats, Floats, float]:
    """The points that are not torn, and by how much, ns, those left out without being sure of it are earlier."""
    # The doubt of so few is all that they differ by.
    if len(x) <= EDGE + 1:
        return x, late, 0.0
    few = min(max(FEW, len(x) // FEW_OF), len(x) // 3)
    level = late - _trend(x, late) * (x - x[0])
    early = level < np.partition(level, few)[few] - TORN_NS
    least, against = float(level[~early].min()), 0.0
    turns = np.flatnonzero(np.diff(early, prepend=False, append=False)).tolist()
    for first, stop in zip(turns[::2], turns[1::2], strict=True):
        if stop - first >= BELIEVED:
            early[first:stop] = False
        elif stop - first > 1 or first == 0 or stop == len(x):
            against = max(against, least - float(level[first:stop].min()))
    return x[~early], late[~early], against


def _trend(x: Floats, late: Floats) -> float:
    """A slope that a few wild points do not move: between the medians of both halves."""
    half = len(x) // 2
    first, second = slice(0, half), slice(len(x) - half, None)
    apart = float(np.median(x[second]) - np.median(x[first]))
    if apart < LEAST_SPAN_S / 2:
        return 0.0
    return float(np.clip((np.median(late[second]) - np.median(late[first])) / apart, -STEEPEST, STEEPEST))


def _line(x: Floats, late: Floats, slope: float | None, slope_doubt: float) -> Fit:
    span = float(x[-1] - x[0])
    own = slope is None
    if slope is None:
        known = span >= LEAST_SPAN_S and len(x) >= FEWEST_FOR_A_SLOPE
        slope = _hull_slope(x, late) if known else 0.0
        slope_doubt = 0.0 if known else UNKNOWN_SLOPE
    level = late - slope * x
    lowest = float(level.min())
    doubt = float(np.partition(level, min(EDGE, len(x) - 1))[min(EDGE, len(x) - 1)]) - lowest
    if own and not slope_doubt:
        # Both ends of the edge may be off.
        slope_doubt = 2 * doubt / span
    return Fit(lowest, slope, doubt, slope_doubt, float(x.mean()), float(np.median(level)) - lowest, span)


def _hull_slope(x: Floats, late: Floats) -> float:
    """The slope of the lower convex hull's edge that spans the mean of x."""
    hull: list[tuple[float, float]] = []
    low = _low(x, late)
    for a, b in zip(x[low].tolist(), late[low].tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (a - hull[-2][0]) >= (b - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((a, b))
    mean = float(x.mean())
    right = next(n for n, (a, _) in enumerate(hull) if a >= mean and n)
    (a, b), (c, d) = hull[right - 1], hull[right]
    return float(np.clip((d - b) / (c - a), -STEEPEST, STEEPEST))


def _low(x: Floats, late: Floats) -> npt.NDArray[np.intp]:
    """The few points that can be corners of the lower hull: none lies above the chords between low points."""
    edges = [len(x) * n // CHORDS for n in range(CHORDS + 1)]
    lowest = [a + int(np.argmin(late[a:b])) for a, b in itertools.pairwise(edges)]
    chord = sorted({0, *lowest, len(x) - 1})
    return np.flatnonzero(late <= np.interp(x, x[chord], late[chord]))


def _lost(x: Floats, above: Floats) -> tuple[int, float]:
    """Where the points begin that lie above the line for good, and by how much; (0, 0) when there is no such place.

    It is where the least late one of the next half minute differs most from that of the half minute before.
    """
    if len(above) < 2 * FEWEST_LOST:
        return 0, 0.0
    rises = _rises(above)
    # A loss has tilted the line that the points are measured from.
    level = above - np.arange(len(above)) * float(np.median(rises)) / FEWEST_LOST
    rises = _rises(level)
    place = int(np.argmax(rises))
    rise, seam = float(rises[place]), place + FEWEST_LOST
    least_before = float(level[place:seam].min())
    usual = float(np.median(np.abs(rises)))
    lasting = x[-1] - x[seam] >= LOST_S and level[seam:].min() - least_before >= rise / 2
    if rise < max(LEAST_LOST_NS, UNUSUAL * usual) or not lasting:
        return 0, 0.0
    return seam, rise


def _rises(level: Floats) -> Floats:
    least: Floats = np.lib.stride_tricks.sliding_window_view(level, FEWEST_LOST).min(axis=1)
    return least[FEWEST_LOST:] - least[:-FEWEST_LOST]


@dataclass(slots=True)
class Least:
    """Of every second of a timeline the least late observation: (timestamp, time in ns, another time in ns).

    Timestamps are extended. `count` is how many observations there were since the last `clear`.
    """

    rows: list[tuple[int, int, int]] = field(default_factory=list)
    count: int = 0
    _line: tuple[int, Fit, int] | None = field(default=None, init=False, repr=False, compare=False)

    def add(self, at: int, time_ns: int, other_ns: int, rate_hz: int) -> None:
        """Take an observation if it is its second's least late one."""
        self.count, self._line = self.count + 1, None
        rows, second = self.rows, at // rate_hz
        place = len(rows)
        while place and rows[place - 1][0] // rate_hz >= second:
            place -= 1
        if place < len(rows) and rows[place][0] // rate_hz == second:
            known = rows[place]
            # The earlier one of equals, in whatever order they came.
            if (time_ns - known[1]) * rate_hz < (at - known[0]) * SECOND or (
                (time_ns - known[1]) * rate_hz == (at - known[0]) * SECOND and at < known[0]
            ):
                rows[place] = (at, time_ns, other_ns)
            return
        rows.insert(place, (at, time_ns, other_ns))
        oldest = rows[-1][0] - WINDOW_S * rate_hz
        if rows[0][0] < oldest:
            del rows[: bisect_left(rows, (oldest,))]

    def clear(self) -> None:
        """Forget all."""
        self.rows, self.count, self._line = [], 0, None

    def points(self, origin: int, rate_hz: int) -> tuple[Floats, Floats, int]:
        """x (seconds of samples from timestamp `origin`), lateness (ns beyond the third value), and that value.

        Lateness is the time less the nominal duration of the samples from `origin` on.
        """
        exact = [time_ns - (at - origin) * SECOND // rate_hz for at, time_ns, _ in self.rows]
        base = exact[-1]
        x = np.array([at - origin for at, _, _ in self.rows], np.float64) / rate_hz
        return x, np.array([ns - base for ns in exact], np.float64), base

    def line(self, rate_hz: int) -> tuple[Fit, int]:
        """The lower envelope of `points` from the newest timestamp on, and the value that its lateness is beyond.

        There must be an observation. Asked for several times a minute and fitted once.
        """
        if self._line is None or self._line[0] != rate_hz:
            x, late, base = self.points(self.rows[-1][0], rate_hz)
            self._line = rate_hz, fit(x, late), base
        return self._line[1:]

    def to_json(self) -> list[Any]:
        """All of it as plain values."""
        return [self.count, [list(row) for row in self.rows]]

    @classmethod
    def from_json(cls, state: list[Any]) -> Least:
        """What `to_json` described."""
        count, rows = state
        return cls([(a, b, c) for a, b, c in rows], count)
