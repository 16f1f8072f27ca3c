"""What the supervisor shows of itself and its children: the board, `ps`, systemd, and troubles in the log."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable

from pipeline.config import Config
from pipeline.logs import fields
from pipeline.process import set_name
from pipeline.records import UNKNOWN_NS, ChildRecord, ChildState
from pipeline.shm import Board
from pipeline.supervision.causes import Level
from pipeline.supervision.crew import Child, Seat
from pipeline.supervision.instance import SHM_DIR
from pipeline.supervision.lastminute import LastMinute
from pipeline.supervision.notify import Notifier
from pipeline.supervision.report import supervisor_title, up_text
from pipeline.supervision.restarts import SECOND_NS
from pipeline.supervision.snapshot import cpu_seconds, records
from pipeline.supervision.story import Line, Story

log = logging.getLogger(__name__)

# Every few seconds is soon enough for people, and all that is looked at then is cold in the caches.
STORY_NS = 5 * SECOND_NS
# What a worker counts and is shown by the minute too.
COUNTERS = (
    "packets_received", "packets_lost", "packets_reordered", "packets_bad", "socket_dropped", "bytes_written",
)  # fmt: skip
LEVELS = {Level.OK: logging.INFO, Level.WARN: logging.WARNING, Level.CRIT: logging.ERROR}


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
        self._paused = (UNKNOWN_NS, math.nan)
        self._minutes: dict[str, LastMinute] = {}
        self._gone = False
        self._grown: dict[str, dict[str, float]] = {}
        self._story, self._story_ns = Story(), now_ns

    def paused(self, now_ns: int, seconds: float) -> None:
        """This process could not run for so long, or the machine slept."""
        self._paused = (now_ns, seconds)

    def publish(
        self, state: ChildState, monitor: Child, seats: Iterable[Seat], alerts: ChildRecord, now_ns: int
    ) -> None:
        """One round: every child's record, our own with its heartbeat, the title if it changed."""
        seats = list(seats)
        if state is not self._state:
            self._state, self._changed_ns = state, now_ns
        children = self._board.children
        children[1].write(self._completed(monitor.record(now_ns), now_ns))
        for seat in seats:
            children[2 + seat.index].write(self._completed(seat.record(now_ns), now_ns, seat.index))
        self._board.alerts.write(self._completed(alerts, now_ns) if alerts.name else alerts)
        up = sum(seat.life.state is ChildState.RUNNING for seat in seats)
        total = sum(not seat.dropping for seat in seats)
        own = ChildRecord(
            started_monotonic_ns=self._started_ns,
            changed_monotonic_ns=self._changed_ns,
            heartbeat_monotonic_ns=now_ns,
            pid=os.getpid(),
            state=state,
            name="supervisor",
            reason=up_text(up, total),
            paused_monotonic_ns=self._paused[0],
            paused_s=self._paused[1],
        )
        children[0].write(self._completed(own, now_ns))
        title = supervisor_title(self._instance, up, total, state is ChildState.STOPPING)
        if title != self._title:
            self._title = title
            set_name("gp-super", title)
            self._notifier.send(f"STATUS={up_text(up, total)}")

    def _completed(self, record: ChildRecord, now_ns: int, index: int | None = None) -> ChildRecord:
        """The record with what is known of its last minute and of its trouble."""
        minute = self._minutes.setdefault(record.name, LastMinute())
        if record.pid and minute.due(now_ns):
            self._look(record, minute, now_ns, index)
        since = {"trouble_monotonic_ns": self._story.since(record.name)}
        return record.replace(**since, **self._grown.get(record.name, {}))

    def _look(self, record: ChildRecord, minute: LastMinute, now_ns: int, index: int | None) -> None:
        counters: tuple[float, ...] = (cpu_seconds(record.pid),)
        if index is not None:
            channel = self._board.channels[index].read()
            # A worker that has not spoken yet has not said what was counted before it.
            if channel.heartbeat_monotonic_ns == UNKNOWN_NS:
                return
            counters += tuple(getattr(channel, name) for name in COUNTERS)
        minute.add(now_ns, counters)
        grown = minute.grown()
        if grown is not None:
            window_s, (cpu_s, *counts) = grown
            found = {f"{name}_1m": int(count) for name, count in zip(COUNTERS, counts, strict=False)}
            self._grown[record.name] = {"window_s": window_s, "cpu_pct_1m": 100 * cpu_s / window_s, **found}

    def _see_board(self) -> None:
        """Somebody may remove a name in /dev/shm; what has it mapped goes on, nobody else finds it."""
        name = self._board.segment.name
        gone = not (SHM_DIR / name.lstrip("/")).exists()
        if gone and not self._gone:
            log.error(
                "shared memory %s was removed from outside (RemoveIPC of logind?); nobody sees the instance until it "
                "is started again", name,
            )  # fmt: skip
        self._gone = gone

    def tell(self, config: Config, seats: Iterable[Seat], now_ns: int) -> None:
        """Log what has gone wrong with the instance and what is well again."""
        if now_ns < self._story_ns:
            return
        self._story_ns = now_ns + STORY_NS
        self._see_board()
        for line in self._story.look(records(self._board, config, [seat.index for seat in seats])):
            log_line(line)

    def clear(self, seat: Seat) -> None:
        """The channel is gone: its cells are free."""
        self._board.children[2 + seat.index].write(ChildRecord())
        self._minutes.pop(seat.name, None)
        self._grown.pop(seat.name, None)

    def feed_watchdog(self, progress: bool, now_ns: int) -> None:
        """Feed systemd's watchdog three times per period, and only while something gets done."""
        if self._notifier.watchdog_s and progress and now_ns >= self._watchdog_ns:
            self._watchdog_ns = now_ns + round(self._notifier.watchdog_s / 3 * SECOND_NS)
            self._notifier.send("WATCHDOG=1")


def log_line(line: Line) -> None:
    """`WWV_10_MHz: no packets for 90 s`."""
    about = fields(event="trouble" if line.level else "well", who=line.who or "supervisor")
    log.log(LEVELS[line.level], "%s: %s", line.who or "supervisor", line.text, extra=about)
