"""Reads an instance's state from outside: its board and /proc; disturbs no process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.config import Config
from pipeline.shm import Board
from pipeline.supervision.causes import Process, Row, Snapshot
from pipeline.supervision.instance import alive

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def records(board: Board, config: Config | None = None, places: Iterable[int] | None = None) -> Snapshot:
    """What shared memory alone says, of all channels or of those at `places`; taking it makes no system call."""
    meant = {channel.id: channel for channel in config.enabled_channels} if config else {}
    workers = (
        (i, board.children[2 + i].read()) for i in (range(board.header.max_channels) if places is None else places)
    )
    rows = tuple(Row(i, child, board.channels[i].read(), meant.get(child.name)) for i, child in workers if child.name)
    return Snapshot(
        instance=board.header.instance,
        now_ns=time.monotonic_ns(),
        supervisor_exists=True,
        supervisor=board.children[0].read(),
        monitor=board.children[1].read(),
        ntp=board.ntp.read(),
        ntp_diagnostics=board.diagnostics.read(),
        rows=rows,
        config=config or Config(),
        alerts=board.alerts.read(),
        alerts_report=board.alerts_report.read(),
    )


def take(board: Board, config: Config | None = None, *, brief: bool = False) -> Snapshot:
    """The instance as it is now; `config` adds what the board does not hold (addresses, folder).

    `brief` leaves out what takes most of the time: open descriptors and the file system.
    """
    s = records(board, config)
    uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    pids = [child.pid for child in s.children if child.pid]
    return replace(
        s,
        supervisor_exists=alive(board.header.supervisor_pid),
        processes={pid: found for pid in pids if (found := read_process(pid, uptime_s, brief)) is not None},
        filesystem=None if brief else filesystem(s.config.recorder.data_dir),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process since it started; 0 when it is gone."""
    found = read_process(pid, 0.0, brief=True)
    return 0.0 if found is None else found.cpu_s


def read_process(pid: int, uptime_s: float, brief: bool = False) -> Process | None:
    """CPU, memory and, unless `brief`, descriptors of one process (proc(5)); None when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        # The name in parentheses may hold blanks and parentheses.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    age_s = uptime_s - int(fields[19]) / _TICKS_PER_S
    fds = None
    if not brief:
        with contextlib.suppress(OSError):
            fds = sum(1 for _ in (folder / "fd").iterdir())
    return Process(100 * cpu_s / max(age_s, 0.1), int(fields[21]) * _PAGE_MB, fds, cpu_s)


def filesystem(path: Path) -> str | None:
    """The kind of file system that `path` is on, from this process's mount table."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    best = max(
        (m for m in mounts if path.is_relative_to(m[1].replace("\\040", " "))), key=lambda m: len(m[1]), default=None
    )
    return best[2] if best else None
