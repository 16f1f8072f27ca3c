"""One round of measurement, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.config import Ntp
from pipeline.ntp.loop import Loop, Outside
from pipeline.ntp.report import Note, Report
from pipeline.ntp.rows import Row
from pipeline.records import NtpRecord

# Names that have not been resolved by then are reported as they are.
NAMES_S = 5.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one round gave."""

    report: Report

    @property
    def servers(self) -> tuple[Row, ...]:
        """A row per server, in the order of the configuration."""
        return self.report.rows

    @property
    def record(self) -> NtpRecord:
        """The verdict."""
        return self.report.record

    @property
    def local(self) -> Mapping[str, str]:
        """A line per local source."""
        return self.report.local


def measure_once(config: Ntp, progress: Progress | None = None, outside: Outside | None = None) -> Measurement:
    """Ask every configured source once and judge.

    Takes as long as the slowest answer, `timeout_s` with a silent server, a few seconds
    with a name that does not resolve. `progress(done, all)` is called as servers are done.
    """
    loop = Loop(replace(config, max_retries=0), _nothing, outside=outside, tell=_nothing)
    engine = loop.engine
    clock = (outside or Outside()).clock
    started_ns = clock().monotonic
    done = -1
    try:
        while True:
            loop.turn()
            wait_for_names = (clock().monotonic - started_ns) / 1e9 < NAMES_S
            left = engine.pool.unsettled(wait_for_names)
            if progress and len(engine.pool) - left != done:
                done = len(engine.pool) - left
                progress(done, len(engine.pool))
            if not left and engine.local_complete():
                break
        engine.starting = False
        report = engine.report(clock())
    finally:
        loop.close()
    return Measurement(report)


def _nothing(_news: Report | Note) -> None:
    """The table says it all."""
