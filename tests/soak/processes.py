"""What a running instance costs, process by process, and what it leaves: read from /proc and /dev/shm."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from helpers import segments
from pipeline.shm import Board

# Of a life, to tell an hour's growth: in ten minutes a single step of the heap of 0.3 MB looks like 2 MB an hour.
LONG_ENOUGH_S = 2400.0


def pids(board: Board) -> dict[str, int]:
    """Name to pid of the processes that the board shows."""
    records = (cell.read() for cell in board.children)
    return {record.name: record.pid for record in records if record.name and record.pid}


def anonymous_kb(pid: int) -> int | None:
    """Memory that is this process's alone: its heap, stacks and what it has copied of its parent's (proc(5))."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1])
    return None


def descriptors(pid: int) -> int | None:
    """How many files and sockets it has open."""
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return None


def cpu_s(pid: int) -> float | None:
    """CPU time of a process, user + system, all threads (clock_getcpuclockid(3)); /proc/PID/stat is coarser."""
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return None


def shared_mb(instance: str) -> float:
    """Pages of the instance's shared memory that exist."""
    total = 0
    for path in segments(instance):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total / 1e6


@dataclass
class Course:
    """Samples of one process name: (seconds since its process began to be seen, kB, descriptors), by pid.

    `cpu` has the CPU seconds that each process had used when it was first and when it was last seen; one that
    was started in the meantime had used none at first.
    """

    lives: dict[int, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """CPU seconds that all processes of this name were seen to use."""
        return sum(last - first for first, last in self.cpu.values())

    def growth_kb_h(self, settled_s: float) -> float | None:
        """Slope over the lives of long enough after `settled_s`; None when there is none."""
        slopes = []
        for life in self.lives.values():
            calm = [(t, kb) for t, kb, _ in life if t >= settled_s]
            if len(calm) >= 10 and calm[-1][0] - calm[0][0] >= LONG_ENOUGH_S:
                times, sizes = zip(*calm, strict=True)
                slopes.append((calm[-1][0] - calm[0][0], statistics.linear_regression(times, sizes).slope * 3600))
        weight = sum(t for t, _ in slopes)
        return sum(t * s for t, s in slopes) / weight if weight else None

    @property
    def peak_kb(self) -> int:
        return max((kb for life in self.lives.values() for _, kb, _ in life), default=0)

    @property
    def most_descriptors(self) -> tuple[int, int]:
        """(fewest, most) open descriptors, the first seconds of a process left out."""
        found = [fds for life in self.lives.values() for t, _, fds in life if t > 5]
        return (min(found), max(found)) if found else (0, 0)


class Watch:
    """Takes a sample of every process when asked."""

    def __init__(self, instance: str, board: Board) -> None:
        self.instance = instance
        self.courses: dict[str, Course] = defaultdict(Course)
        self.segment_counts: list[int] = []
        self.shared: list[float] = []
        self._board = board
        self._since: dict[int, float] = {}

    def look(self, now: float) -> None:
        for name, pid in pids(self._board).items():
            kb, fds, used = anonymous_kb(pid), descriptors(pid), cpu_s(pid)
            if kb is not None and fds is not None and used is not None:
                age, course = now - self._since.setdefault(pid, now), self.courses[name]
                course.lives[pid].append((age, kb, fds))
                course.cpu[pid] = (course.cpu[pid][0] if pid in course.cpu else 0.0 if self.shared else used, used)
        self.segment_counts.append(len(segments(self.instance)))
        self.shared.append(shared_mb(self.instance))

    def cpu_shares(self) -> tuple[float, float, float]:
        """CPU seconds of all workers, of the supervisor and of the NTP monitor between the first look and the last."""
        used = {name: course.cpu_s for name, course in self.courses.items()}
        return sum(used.values()) - used["supervisor"] - used["ntp"], used["supervisor"], used["ntp"]

    def lines(self, settled_s: float) -> list[str]:
        """A line a process."""
        out = []
        for name, course in self.courses.items():
            growth = course.growth_kb_h(settled_s)
            grows = "too short-lived to say" if growth is None else f"{growth / 1000:+.2f} MB/h"
            low, high = course.most_descriptors
            lives = len(course.lives)
            out.append(f"{name:16} {lives:4} lives  peak {course.peak_kb / 1000:5.1f} MB  {grows}  {low}-{high} fds")
        return out

    def faults(self, settled_s: float, limit_mb_h: float = 1.0) -> list[str]:
        """What grew."""
        found = []
        for name, course in self.courses.items():
            growth = course.growth_kb_h(settled_s)
            if growth is not None and growth > limit_mb_h * 1000:
                found.append(f"{name} grows by {growth / 1000:.2f} MB/h")
        if len(set(self.segment_counts)) > 1:
            found.append(f"segments came and went: {sorted(set(self.segment_counts))}")
        return found


@dataclass(frozen=True, slots=True)
class Machine:
    """CPU seconds of the whole machine since it started (proc(5), stat)."""

    busy_s: float
    softirq_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Machine:
        """Until now."""
        hertz = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _wait, irq, softirq, steal = (
            int(word) / hertz for word in Path("/proc/stat").read_text().split()[1:9]
        )
        return cls(user + nice + system + irq + softirq, irq + softirq, steal)

    def since(self, before: Machine, length_s: float) -> str:
        """What happened meanwhile, other programs included."""
        busy, softirq, stolen = (
            (getattr(self, name) - getattr(before, name)) / length_s for name in ("busy_s", "softirq_s", "stolen_s")
        )
        return (
            f"machine: {busy:.2f} of {os.cpu_count()} cores busy, {softirq:.2f} of them in interrupts; "
            f"{stolen:.2f} taken by its host"
        )
