"""How long a worker may sleep; pure.

Each wake-up finds cold caches, which costs more than what is done then, so packets are taken in large lots. The
kernel keeps them meanwhile, as far as the socket's receive buffer reaches: how far that is depends on the
stream and on what the system allows, so it is measured.
"""

from __future__ import annotations

# What status and top show is no older than this.
LONGEST_S = 2.0
# Half a buffer is to be left when the worker comes twice as late as it means to.
SHARE = 0.25
SHORTEST_S = 0.02
# While nobody knows how full the buffer gets.
CAREFUL_S = 0.25


class Rhythm:
    """One socket's: `look` before it is drained, then sleep `pause_s`."""

    def __init__(self) -> None:
        self.pause_s = CAREFUL_S
        self._looked_ns: int | None = None

    def look(self, queued: tuple[int, int] | None, now_ns: int) -> None:
        """`queued` is how many bytes of the buffer are used, and how many there are; None = unknown."""
        before, self._looked_ns = self._looked_ns, now_ns
        if queued is None or before is None:
            self.pause_s = CAREFUL_S
            return
        away_s, (used, limit) = (now_ns - before) / 1e9, queued
        if not used:
            self.pause_s = LONGEST_S
        elif away_s > self.pause_s / 2:
            # After an early wake-up little is queued, which says little of the stream: packets come in bursts.
            self.pause_s = min(LONGEST_S, max(SHORTEST_S, away_s * SHARE * limit / used))
