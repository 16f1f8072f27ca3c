"""Timelines and anchors for tests: sample 1000 was taken at T0."""

from __future__ import annotations

import numpy as np

from pipeline.records import AnchorSource
from pipeline.stream.anchor import SECOND, Anchor
from pipeline.stream.timeline import Epoch
from streams import T0

RATE = 16_000


def anchor(
    timestamp: int = 1000,
    utc_ns: int = T0,
    uncertainty_ns: int = 1_000_000,
    source: AnchorSource = AnchorSource.RADIOD,
    rate_hz: int = RATE,
    doubt_ns: int = 0,
) -> Anchor:
    return Anchor(timestamp, utc_ns, rate_hz, source, uncertainty_ns, T0, doubt_ns)


def epoch(first: int = 1000, rate_hz: int = RATE) -> Epoch:
    return Epoch(1, "start", first, T0, rate_hz, end=first, last_arrival_ns=T0, cut=-(1 << 62))


def paired(late_ns: list[int], rate_hz: int = RATE) -> Epoch:
    """An epoch with a pair each half second, each late by so much; sample 1000 was taken at T0."""
    found = epoch(rate_hz=rate_hz)
    for n, late in enumerate(late_ns):
        at = T0 + n * SECOND // 2
        found.end, found.last_arrival_ns = 1000 + n * rate_hz // 2, at + late
        found.add_pair(found.end, at + late, at + late)
    return found


def arrivals(found: Epoch, delays_ns: list[int], start: int = 0) -> None:
    """Packets of 20 ms, each so much later than its last sample."""
    ends = np.array([1000 + (start + n + 1) * 320 for n in range(len(delays_ns))], np.int64)
    times = np.array([T0 + (start + n + 1) * 20_000_000 + d for n, d in enumerate(delays_ns)], np.int64)
    found.add_arrivals(ends, times)
