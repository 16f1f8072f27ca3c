"""Rows of one table: what something takes here beside what the usual way takes, measured in turns in one run.

Every bench that takes part prints its rows as JSON when it is called with `--rows`; `python -m tests.bench` gathers
them. Times are CPU / wall, CPU being user and system time of all processes that take part.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison, or with no `peer` a figure that stands for itself.

    `ours` and `theirs` are one or two values of `unit`, two of them CPU and wall time; `ratio` is ours over
    theirs, value by value. `wanted` is in words.
    """

    what: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    ratio: Sequence[float] = ()
    wanted: str = ""

    def cells(self) -> list[str]:
        """As the table has them."""
        ratios = self.ratio or [a / b for a, b in zip(self.ours, self.theirs, strict=False)]
        return [
            self.what, f"{_numbers(self.ours)} {self.unit}".strip(), self.peer, _numbers(self.theirs),
            _numbers(ratios), self.wanted,
        ]  # fmt: skip


def _numbers(values: Iterable[float]) -> str:
    return " / ".join(_number(value) for value in values)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:,.{digits}f}".replace(",", " ")
    return f"{value:.2g}" if value and abs(value) < 0.001 else text


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table that can be read as it is."""
    head = ["", "ours", "beside", "theirs", "ours : theirs", "wanted"]
    lines = [head, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *shown[1:]])


def print_rows(rows: Iterable[Row]) -> None:
    """For `python -m tests.bench`."""
    json.dump([asdict(row) for row in rows], sys.stdout)


def read_rows(text: str) -> list[Row]:
    """What `print_rows` printed."""
    return [Row(**row) for row in json.loads(text)]


def machine() -> str:
    """Processor, cores, kernel and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))), "")
    return (
        f"{platform.node()}: {model or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def cpu_of(pid: int) -> float:
    """CPU time of a process with all its threads, also those that have ended (Linux posix-timers.h, CPUCLOCK_SCHED)."""
    return time.clock_gettime((~pid << 3) | 2)


def clock(servers: Iterable[int] = ()) -> Callable[[], tuple[float, float]]:
    """CPU s of this process, of its children that ended and of `servers`, and wall s; both since whenever."""
    pids = list(servers)

    def read() -> tuple[float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(cpu_of, pids))
        return used, time.perf_counter()

    return read
