"""When servers may be asked: the polite grid, back-off limits and the retry chain.

The refresh of `publish_interval_s` is re-evaluation and publication. Asking every public
server that often would be abuse (RFC 4330 section 10: never below 15 s; RFC 5905: poll
64 s and up), so the servers take turns: with 10 s cycles server k is asked in every 7th,
and one or two servers are asked in each. Servers of one's own network are asked in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SECOND = 10**9

PUBLIC_INTERVAL_S = 64.0
MAX_INTERVAL_S = 1024.0
# While a healthy local daemon is the source, public servers are only its witnesses.
WITNESS_INTERVAL_S = 256.0
# The second sample after the start, and every retry, come no sooner than this.
IDLE_S = 16.0
# Between the samples of one poll in advanced mode: BTIME of RFC 5905 for public servers.
BURST_SPACING_PUBLIC_S = 2.0
BURST_SPACING_LAN_S = 0.1
MISSES_BEFORE_BACKOFF = 3
KISS_MIN_INTERVAL_S = 128.0
KISS_MAX_INTERVAL_S = 65_536.0
KISS_HOLD_OFF = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """The cycles, counted from the monitor's start, and whose turn is in which.

    `samples` requests per poll stretch the public interval, so that no mode asks a public
    server more often than once in 64 s on average.
    """

    start_ns: int
    cycle_ns: int
    samples: int = 1

    @property
    def turns(self) -> int:
        """Cycles from one poll of a public server to its next."""
        return max(1, math.ceil(PUBLIC_INTERVAL_S * self.samples * SECOND / self.cycle_ns))

    @property
    def public_interval_s(self) -> float:
        """Seconds between two polls of a public server."""
        return self.turns * self.cycle_ns / SECOND

    def next_cycle(self, after_ns: int) -> int:
        """The first cycle that begins after `after_ns`."""
        return self.start_ns + ((after_ns - self.start_ns) // self.cycle_ns + 1) * self.cycle_ns

    def turn(self, index: int, lan: bool, not_before_ns: int) -> int:
        """Server `index`'s first turn that is not earlier than `not_before_ns`."""
        period = self.cycle_ns if lan else self.cycle_ns * self.turns
        phase = self.start_ns if lan else self.start_ns + index % self.turns * self.cycle_ns
        return phase + -(-(not_before_ns - phase) // period) * period


class RetryChain:
    """Extra rounds at given delays after a cycle without a verdict; one chain at a time.

    The delays are timers. Nothing waits for them, and publication does not know them.
    """

    def __init__(self, delays_s: Sequence[float]) -> None:
        self._delays = tuple(delays_s)
        self._due: list[int] = []
        self.exhausted = not self._delays

    @property
    def running(self) -> bool:
        return bool(self._due)

    @property
    def next_ns(self) -> int | None:
        """When the next retry is due."""
        return self._due[0] if self._due else None

    def start(self, now_ns: int) -> None:
        """Begin, unless a chain runs or has run since the last success."""
        if not self.exhausted and not self._due:
            self._due = [now_ns + int(d * SECOND) for d in self._delays]

    def take(self, now_ns: int) -> bool:
        """True once for each retry that has come due."""
        if not self._due or now_ns < self._due[0]:
            return False
        self._due.pop(0)
        self.exhausted = not self._due
        return True

    def succeeded(self) -> None:
        """There is a verdict: drop what is left and be ready for the next failure."""
        self._due.clear()
        self.exhausted = not self._delays
