"""The one place where the NTP monitor reads clocks."""

from __future__ import annotations

import time

from pipeline.ntp.wire import Instant

# Clocks read one after the other belong together only if nothing came in between.
CLOSE_NS = 20_000
TRIES = 50


def read() -> Instant:
    """All clocks at one moment, to about a microsecond; the closest of some tries on a busy machine."""
    best, best_width = None, 0
    for _ in range(TRIES):
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        realtime = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        width = after - before
        if best is None or width < best_width:
            best, best_width = Instant(realtime, (before + after) // 2, monotonic, boottime), width
        if best_width < CLOSE_NS:
            break
    assert best is not None
    return best
