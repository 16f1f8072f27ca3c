"""The program itself, its workers' turns timed: what each part costs, and how long packets waited for it.

    python timed_program.py FOLDER COMMAND...       as `grape-pipeline COMMAND...`

Every worker leaves FOLDER/<channel id>.json when it stops. Times are of the worker's main thread
(CLOCK_THREAD_CPUTIME_ID, which counts nanoseconds) and of its writer threads.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import __main__ as program
from pipeline import minutefile, npz
from pipeline.landing import Landing
from pipeline.overflow import queued
from pipeline.receiver import Receiver
from pipeline.stream.cutter import Cutter
from pipeline.stream.journal import Kind
from pipeline.worker import Worker, WorkerContext
from pipeline.writer import Writer

DATA = int(Kind.DATA)
# Set, it gives the data sockets what the system gives them by itself.
DEFAULT_BUFFER = "TIMED_PROGRAM_DEFAULT_BUFFER"
PARTS: dict[str, tuple[type, str]] = {
    "take": (Worker, "_take"),
    "from the socket": (Landing, "receive"),
    "into the journal": (Receiver, "_store"),
    "statuses": (Receiver, "drain_status"),
    "publish": (Worker, "_publish"),
    "cut": (Cutter, "cut"),
}
# Of one turn: when it began (CLOCK_MONOTONIC, s), CPU s of PARTS and of the whole turn, how old the
# oldest packet on the queue was (s), how full the socket's buffer was (0..1), whether a minute was being written.
TURN = ("at", *PARTS, "turn", "age", "fill", "writing")
JOB_PARTS: dict[str, tuple[Any, str]] = {"tones": (minutefile, "hear"), "deflate": (npz, "packed")}
# Of one write: when it began (s), CPU s in all, of listening for tones, of making the file's bytes; duration, s.
JOB = ("at", "cpu", *JOB_PARTS, "wall")


class Spent:
    """CPU s of the calling thread in one function, calls within it included."""

    def __init__(self, where: Any, name: str) -> None:
        self.seconds = 0.0
        timed = getattr(where, name)

        @functools.wraps(timed)
        def call(*arguments: Any, **options: Any) -> Any:
            begin = time.thread_time()
            try:
                return timed(*arguments, **options)
            finally:
                self.seconds += time.thread_time() - begin

        setattr(where, name, call)

    def since(self) -> float:
        """CPU s since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


# What is timed, in the order of PARTS and JOB_PARTS; empty until the program begins.
turn_spent: list[Spent] = []
job_spent: list[Spent] = []


class TimedWriter(Writer):
    """Notes each job."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.jobs: list[tuple[float, ...]] = []

    def _work(self, *arguments: Any) -> None:
        begin, cpu = time.monotonic(), time.thread_time()
        super()._work(*arguments)
        used = time.thread_time() - cpu
        parts = [part.since() for part in job_spent]
        self.jobs.append((begin, used, *parts, time.monotonic() - begin))


class TimedWorker(Worker):
    """Notes each turn."""

    _writer: TimedWriter
    folder: Path

    def __init__(self, context: WorkerContext, lifeline: Any) -> None:
        self.turns: list[tuple[float, ...]] = []
        self.age = self.fill = 0.0
        super().__init__(context, lifeline)

    def tick(self) -> None:
        at, cpu = time.monotonic(), time.thread_time()
        super().tick()
        used = time.thread_time() - cpu
        parts = [part.since() for part in turn_spent]
        self.turns.append((at, *parts, used, self.age, self.fill, float(self._writer.busy)))

    def _take(self) -> int:
        journal = self._intake.journal
        known, now_ns = journal.count, time.time_ns()
        used, limit = queued(self._context.sockets.data) or (0, 1)
        taken = super()._take()
        # Without numpy, which would cost more than what is measured.
        came = next((row["arrival_ns"] for row in journal.records(known) if row["kind"] == DATA), None)
        self.age, self.fill = 0.0 if came is None else (now_ns - int(came)) / 1e9, used / limit
        return taken

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
    turn_spent.extend(Spent(*where) for where in PARTS.values())
    job_spent.extend(Spent(*where) for where in JOB_PARTS.values())
    sys.exit(program.run(sys.argv[2:]))


if __name__ == "__main__":
    main()
