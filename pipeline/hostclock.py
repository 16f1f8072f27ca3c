"""The recorder's clock: this host's, without what it was set by since the recording began.

CLOCK_BOOTTIME runs through whatever happens to CLOCK_REALTIME, suspend included, and is slewed with it. The
difference of the two when a channel's first packet came is kept in the channel's segment; what it has become
since is what the clock was set by: by an operator, by NTP after a boot without a battery, or for a leap second.
"""

from __future__ import annotations

import logging
import math
import time

from pipeline.config import Ntp
from pipeline.ntp import clock
from pipeline.ntp.verdict import carry_on
from pipeline.records import NtpRecord
from pipeline.stream.evidence import UNDISCIPLINED_NS, HostClock
from pipeline.stream.journal import Journal

log = logging.getLogger(__name__)

# Smaller differences are the reading of two clocks one after the other.
LEAST_STEP_NS = 500_000
TRIES = 5
CLOSE_NS = 20_000
# How fast the kernel's own bound grows for a clock that nobody disciplines (Linux MAXFREQ, 500 ppm).
GROWTH = 500e-6


def realtime_less_boottime() -> tuple[int, int]:
    """CLOCK_REALTIME - CLOCK_BOOTTIME, ns, by the closest of a few readings; and how close that was."""
    best, difference = 1 << 62, 0
    for _ in range(TRIES):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        now = time.time_ns()
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if after - before < best:
            best, difference = after - before, now - (before + after) // 2
        if best <= CLOSE_NS:
            break
    return difference, best


def recorder_base(journal: Journal) -> int:
    """What is added to CLOCK_BOOTTIME in the recorder's clock, ns; as it is now while the journal has none."""
    if journal.clock_base_ns == 0:
        journal.clock_base_ns = realtime_less_boottime()[0]
    return journal.clock_base_ns


class RecorderClock:
    """One channel's view of the host's clock; `look` at every wake-up, before stamps are used.

    `shift_ns` is host's clock - recorder's clock. `settled` is False while stamps may be from before or after
    the clock was set.
    """

    def __init__(self, journal: Journal, name: str) -> None:
        self._name = name
        self._journal = journal
        self._base_ns = recorder_base(journal)
        # As the predecessor saw it last; what happened since is seen by the first look.
        self.shift_ns = journal.clock_shift_ns
        self.settled = True
        # Of the last valid publication: the recorder's clock less UTC, its bound, and CLOCK_MONOTONIC.
        self._known: tuple[int, int, int] | None = None

    def _measured(self, known_ns: int) -> int:
        difference, width = realtime_less_boottime()
        found = difference - self._base_ns
        return found if abs(found - known_ns) >= LEAST_STEP_NS + width else known_ns

    def look(self) -> None:
        """See whether the clock was set since the last look."""
        shift = self._measured(self.shift_ns)
        self.settled = shift == self.shift_ns
        if not self.settled:
            log.warning(
                "%s: the host's clock was set by %+.6f s; labels of streams that run stay",
                self._name, (shift - self.shift_ns) / 1e9,
            )  # fmt: skip
            self.shift_ns = self._journal.clock_shift_ns = shift

    def against_utc(self, record: NtpRecord, now_ns: int, ntp: Ntp) -> HostClock:
        """What the NTP record says of the recorder's clock at `now_ns` (CLOCK_MONOTONIC).

        A silent monitor's record is carried on as its successor would. Where there is none the last valid one
        counts, less and less: a clock that was known is not lost because the servers quarrel.
        """
        if record.valid and not math.isnan(record.offset_ms) and not record.stale(now_ns, ntp.stale_after_s):
            return HostClock(*self._learn(record), self.shift_ns)
        if (carried := carry_on(record, clock.read(), ntp.holdover_s)) is not None:
            return HostClock(carried[0] - self.shift_ns, carried[1], self.shift_ns)
        if self._known is None:
            return HostClock(shift_ns=self.shift_ns)
        offset_ns, bound_ns, at_ns = self._known
        bound_ns += round((now_ns - at_ns) * GROWTH)
        if bound_ns >= UNDISCIPLINED_NS:
            return HostClock(shift_ns=self.shift_ns)
        return HostClock(offset_ns, bound_ns, self.shift_ns)

    def _learn(self, record: NtpRecord) -> tuple[int, int]:
        """The recorder's clock less UTC and its bound, ns, as they were when the record was published.

        A publication is translated when it is first seen: what the clock is set by later is not in it.
        """
        published_ns = record.published_monotonic_ns
        if self._known is None or published_ns != self._known[2]:
            bound_ms = 0.0 if math.isnan(record.uncertainty_ms) else record.uncertainty_ms
            self._known = (round(record.offset_ms * 1e6) - self.shift_ns, round(bound_ms * 1e6), published_ns)
        return self._known[:2]
