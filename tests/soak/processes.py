"""What a running instance costs, process by process, and what it leaves: read from /proc and /dev/shm."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from helpers import segments
from pipeline.shm import Board


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


def shared_mb(instance: str) -> float:
    """Pages of the instance's shared memory that exist."""
    total = 0
    for path in segments(instance):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total / 1e6


@dataclass
class Course:
    """Samples of one process name: (seconds since its process began to be seen, kB, descriptors), by pid."""

    lives: dict[int, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))

    def growth_kb_h(self, settled_s: float) -> float | None:
        """Slope over the lives longer than `settled_s`, their beginnings left out; None when there is none."""
        slopes = []
        for life in self.lives.values():
            calm = [(t, kb) for t, kb, _ in life if t >= settled_s]
            # A step of the heap looks like growth in a shorter time.
            if len(calm) >= 10 and calm[-1][0] - calm[0][0] >= settled_s:
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
            kb, fds = anonymous_kb(pid), descriptors(pid)
            if kb is not None and fds is not None:
                age = now - self._since.setdefault(pid, now)
                self.courses[name].lives[pid].append((age, kb, fds))
        self.segment_counts.append(len(segments(self.instance)))
        self.shared.append(shared_mb(self.instance))

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
