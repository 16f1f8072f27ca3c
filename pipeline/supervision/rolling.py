"""Restarting channels one at a time, the next when the one before is up again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pipeline.records import UNKNOWN_NS, ChildState
from pipeline.supervision.crew import Seat
from pipeline.supervision.restarts import SECOND_NS

# A channel that cannot come up must not keep the others from their turn.
PATIENCE_NS = 60 * SECOND_NS


class Rolling:
    """The queue of seats whose workers are to be restarted."""

    def __init__(self) -> None:
        self._queue: deque[Seat] = deque()
        self._since_ns = UNKNOWN_NS

    @property
    def busy(self) -> bool:
        """True while there is something to wait for."""
        return bool(self._queue)

    def add(self, seats: Iterable[Seat]) -> None:
        """Queue `seats`; one that still waits for its turn is not queued twice."""
        waiting = list(self._queue)[0 if self._since_ns == UNKNOWN_NS else 1 :]
        self._queue.extend(seat for seat in seats if seat not in waiting)

    def clear(self) -> None:
        """Forget the rest."""
        self._queue.clear()
        self._since_ns = UNKNOWN_NS

    def step(self, now_ns: int) -> None:
        """Ask for the restart that is next, if the one before is done."""
        while self._queue:
            seat = self._queue[0]
            if self._since_ns == UNKNOWN_NS:
                self._since_ns = now_ns
                if seat.life.wanted:
                    seat.restart(now_ns)
            if not self._done(seat, now_ns):
                return
            self._queue.popleft()
            self._since_ns = UNKNOWN_NS

    def _done(self, seat: Seat, now_ns: int) -> bool:
        since, life = self._since_ns, seat.life
        up = life.state is ChildState.RUNNING and life.started_ns >= since
        given_up = life.state is ChildState.FATAL and life.changed_ns >= since
        return up or given_up or not life.wanted or now_ns - since > PATIENCE_NS
