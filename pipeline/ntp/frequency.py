"""How fast the host's raw oscillator drifts from UTC, from the samples of all servers.

Between two polls of a server 70 s pass; an oscillator that is 40 ppm off moves 3 ms in
that time. One slope is fitted to all servers, each with its own offset, so that their
differences do not matter and ten servers of a few samples each are as good as one of many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

MIN_SAMPLES = 8
MIN_SPAN_S = 300.0
# The fit replaces a tolerance of 100 ppm by one of 15 ppm: three sigma must be inside.
MAX_STANDARD_ERROR = 5e-6
MAX_FREQUENCY = 500e-6


def fit(histories: Iterable[Sequence[tuple[int, int]]]) -> float | None:
    """UTC seconds gained per raw second, from (raw_ns, utc_minus_raw_ns) series; None if not known well."""
    series = [h for h in histories if len(h) > 1]
    count = sum(len(h) for h in series)
    span_s = max(((h[-1][0] - h[0][0]) / 1e9 for h in series), default=0.0)
    freedom = count - len(series) - 1
    if count < MIN_SAMPLES or span_s < MIN_SPAN_S or freedom < 1:
        return None
    centred = [_centred(h) for h in series]
    xx = sum(x * x for points in centred for x, _ in points)
    if xx == 0.0:
        return None
    slope = sum(x * y for points in centred for x, y in points) / xx
    residue = sum((y - slope * x) ** 2 for points in centred for x, y in points)
    standard_error = math.sqrt(residue / freedom / xx)
    if standard_error > MAX_STANDARD_ERROR or abs(slope) > MAX_FREQUENCY:
        return None
    return slope


def _centred(history: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    x0, y0 = history[0]
    points = [((x - x0) / 1e9, (y - y0) / 1e9) for x, y in history]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return [(x - mean_x, y - mean_y) for x, y in points]
