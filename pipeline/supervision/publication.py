"""What the supervisor shows of itself and its children: the board, `ps`, systemd."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pipeline.process import set_name
from pipeline.records import ChildRecord, ChildState
from pipeline.shm import Board
from pipeline.supervision.crew import Child, Seat
from pipeline.supervision.notify import Notifier
from pipeline.supervision.report import supervisor_title, up_text
from pipeline.supervision.restarts import SECOND_NS


class Publisher:
    """Writes the board's children cells, the process title and the service manager's datagrams."""

    def __init__(self, instance: str, board: Board, notifier: Notifier, now_ns: int) -> None:
        self._instance = instance
        self._board = board
        self._notifier = notifier
        self._started_ns = now_ns
        self._changed_ns = now_ns
        self._state = ChildState.STARTING
        self._title = ""
        self._watchdog_ns = now_ns

    def publish(self, state: ChildState, monitor: Child, seats: Iterable[Seat], now_ns: int) -> None:
        """One round: every child's record, our own with its heartbeat, the title if it changed."""
        seats = list(seats)
        if state is not self._state:
            self._state, self._changed_ns = state, now_ns
        children = self._board.children
        children[1].write(monitor.record(now_ns))
        for seat in seats:
            children[2 + seat.index].write(seat.record(now_ns))
        up = sum(seat.life.state is ChildState.RUNNING for seat in seats)
        total = sum(not seat.dropping for seat in seats)
        children[0].write(
            ChildRecord(
                started_monotonic_ns=self._started_ns,
                changed_monotonic_ns=self._changed_ns,
                heartbeat_monotonic_ns=now_ns,
                pid=os.getpid(),
                state=state,
                name="supervisor",
                reason=up_text(up, total),
            )
        )
        title = supervisor_title(self._instance, up, total, state is ChildState.STOPPING)
        if title != self._title:
            self._title = title
            set_name("gp-super", title)
            self._notifier.send(f"STATUS={up_text(up, total)}")

    def clear(self, seat: Seat) -> None:
        """The channel is gone: its cells are free."""
        self._board.children[2 + seat.index].write(ChildRecord())

    def feed_watchdog(self, progress: bool, now_ns: int) -> None:
        """Feed systemd's watchdog three times per period, and only while something gets done."""
        if self._notifier.watchdog_s and progress and now_ns >= self._watchdog_ns:
            self._watchdog_ns = now_ns + round(self._notifier.watchdog_s / 3 * SECOND_NS)
            self._notifier.send("WATCHDOG=1")
