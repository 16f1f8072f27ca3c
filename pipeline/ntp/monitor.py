"""The NTP monitor's process.

A monitor that is started again does not take over its predecessor's samples, nor its
counters but that of clock steps. Until it has a verdict of its own it carries the
predecessor's last record on as holdover, with growing age and uncertainty, provided that
the host's clock has not been stepped in between; workers never see a good record replaced
by an empty one.
"""

from __future__ import annotations

import logging

from pipeline import EXIT_OK, process
from pipeline.config import Ntp
from pipeline.ntp.loop import Loop, Outside
from pipeline.ntp.pool import SERVERS
from pipeline.ntp.report import Report, diagnostics, title
from pipeline.ntp.verdict import basis_of_record, steps_so_far
from pipeline.shm import DIAGNOSTICS_SIZE, Board

log = logging.getLogger(__name__)

COMM = "gp-ntp"


def run(config: Ntp, board: Board, parent_pid: int, outside: Outside | None = None) -> int:
    """Measure and publish on `board` until stopped or orphaned; the process's exit code.

    Runs in a forked child that is single-threaded and has the stop signals blocked.
    """
    lifeline = process.Lifeline(parent_pid)
    process.set_name(COMM, "ntp starting")
    shown = ""

    def publish(report: Report) -> None:
        nonlocal shown
        board.ntp.write(report.record)
        board.diagnostics.write(diagnostics(report, DIAGNOSTICS_SIZE))
        line = title(report.record, len(report.rows))
        if line != shown:
            shown = line
            process.set_name(COMM, line)

    now = (outside or Outside()).clock()
    before = board.ntp.read()
    carried = basis_of_record(before, now)
    servers = f" ({len(config.servers)})" if SERVERS in config.sources else ""
    log.info("sources: %s%s", ", ".join(config.sources), servers)
    if carried is not None:
        log.info("the last monitor's result, %.0f s old, holds until there is one of this", carried.age_s(now))
    loop = Loop(config, publish, carried, outside, steps=steps_so_far(before, now))
    loop.watch(lifeline.wake_fd)
    loop.run(lifeline.stopping)
    loop.close()
    log.info("stopped")
    return EXIT_OK
