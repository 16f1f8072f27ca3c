"""How much counters grew within the last minute: kept by the supervisor, which outlives the workers that count.

Pure. A counter that begins anew with its process (CPU time) goes on from where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

SECOND_NS = 1_000_000_000
WINDOW_NS = 60 * SECOND_NS
LOOK_NS = 5 * SECOND_NS


class LastMinute:
    """Several counters that are looked at together, every `LOOK_NS`."""

    def __init__(self) -> None:
        self._seen: tuple[float, ...] = ()
        self._sums: tuple[float, ...] = ()
        self._looks: deque[tuple[int, tuple[float, ...]]] = deque()

    def due(self, now_ns: int) -> bool:
        """True when it is time for another look."""
        return not self._looks or now_ns - self._looks[-1][0] >= LOOK_NS

    def add(self, now_ns: int, counters: Sequence[float]) -> None:
        """Take the counters as they are at `now_ns`; always the same ones in the same order."""
        new = tuple(counters)
        before = self._seen or new
        grown = [b - a if b >= a else b for a, b in zip(before, new, strict=True)]
        self._seen = new
        self._sums = tuple(s + g for s, g in zip(self._sums or (0.0,) * len(new), grown, strict=True))
        self._looks.append((now_ns, self._sums))
        while len(self._looks) > 2 and now_ns - self._looks[1][0] >= WINDOW_NS:
            self._looks.popleft()

    def grown(self) -> tuple[float, tuple[float, ...]] | None:
        """(seconds between the first look that counts and the newest, growth within them); None before two looks."""
        if len(self._looks) < 2:
            return None
        (first_ns, first), (last_ns, last) = self._looks[0], self._looks[-1]
        return (last_ns - first_ns) / SECOND_NS, tuple(b - a for a, b in zip(first, last, strict=True))
