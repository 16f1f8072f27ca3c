"""The program itself, its workers' turns timed: what each part costs, and how long packets waited for it.

    python timed_program.py FOLDER COMMAND...       as `grape-pipeline COMMAND...`

Every worker leaves FOLDER/<channel id>.json when it stops. Times are of the worker's main thread
(CLOCK_THREAD_CPUTIME_ID, which counts nanoseconds) and of its writer threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import __main__ as program
from pipeline.overflow import queued
from pipeline.stream.journal import Kind
from pipeline.worker import Worker, WorkerContext
from pipeline.writer import Writer

DATA = int(Kind.DATA)
# Set, it gives the data sockets what the system gives them by itself.
DEFAULT_BUFFER = "TIMED_PROGRAM_DEFAULT_BUFFER"
# Of one turn: when it began (CLOCK_MONOTONIC, s), CPU s of taking and publishing and of the whole turn, how old the
# oldest packet on the queue was (s), how full the socket's buffer was (0..1), whether a minute was being written.
TURN = ("at", "take", "publish", "turn", "age", "fill", "writing")


class TimedWriter(Writer):
    """Notes each job: when it began, its CPU time and its duration, s."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.jobs: list[tuple[float, float, float]] = []

    def _work(self, *arguments: Any) -> None:
        begin, cpu = time.monotonic(), time.thread_time()
        super()._work(*arguments)
        self.jobs.append((begin, time.thread_time() - cpu, time.monotonic() - begin))


class TimedWorker(Worker):
    """Notes each turn."""

    _writer: TimedWriter
    folder: Path

    def __init__(self, context: WorkerContext, lifeline: Any) -> None:
        self.turns: list[tuple[float, ...]] = []
        self.costs = {"take": 0.0, "publish": 0.0}
        self.age = self.fill = 0.0
        super().__init__(context, lifeline)

    def tick(self) -> None:
        at, cpu = time.monotonic(), time.thread_time()
        self.costs = dict.fromkeys(self.costs, 0.0)
        super().tick()
        costs = (self.costs["take"], self.costs["publish"], time.thread_time() - cpu)
        self.turns.append((at, *costs, self.age, self.fill, float(self._writer.busy)))

    def _take(self) -> int:
        journal = self._intake.journal
        known, now_ns = journal.count, time.time_ns()
        used, limit = queued(self._context.sockets.data) or (0, 1)
        cpu = time.thread_time()
        taken = super()._take()
        self.costs["take"] += time.thread_time() - cpu
        # Without numpy, which would cost more than what is measured.
        came = next((row["arrival_ns"] for row in journal.records(known) if row["kind"] == DATA), None)
        self.age, self.fill = 0.0 if came is None else (now_ns - int(came)) / 1e9, used / limit
        return taken

    def _publish(self, *arguments: Any, **options: Any) -> None:
        cpu = time.thread_time()
        super()._publish(*arguments, **options)
        self.costs["publish"] += time.thread_time() - cpu

    def leave(self) -> int:
        left = super().leave()
        found = {"turns": self.turns, "jobs": self._writer.jobs}
        (self.folder / f"{self._channel.id}.json").write_text(json.dumps(found))
        return left


def main() -> None:
    """Run the command."""
    from pipeline import sockets, worker

    if os.environ.get(DEFAULT_BUFFER):
        # The kernel doubles what it is asked for.
        sockets.DATA_BUFFER_BYTES = int(Path("/proc/sys/net/core/rmem_default").read_text()) // 2
    TimedWorker.folder = Path(sys.argv[1])
    worker.Writer, worker.Worker = TimedWriter, TimedWorker  # type: ignore[misc]
    sys.exit(program.run(sys.argv[2:]))


if __name__ == "__main__":
    main()
