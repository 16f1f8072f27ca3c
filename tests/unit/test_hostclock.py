"""The recorder's clock: what setting the host's clock does to it, and what NTP says of it."""

from __future__ import annotations

import time

import pytest

from pipeline import hostclock
from pipeline.config import Ntp
from pipeline.hostclock import RecorderClock
from pipeline.ntp.wire import Instant
from pipeline.records import NtpRecord
from pipeline.stream.evidence import UNDISCIPLINED_NS, HostClock
from pipeline.stream.journal import Geometry, Journal
from streams import T0

MS = 1_000_000
S = 1_000_000_000
SHAPE = Geometry(4096, 1 << 20)


class Clocks:
    """The host's clocks: boot time runs, real time is boot time and what it was set to."""

    def __init__(self) -> None:
        self.boot_ns = 500 * S
        self.set_ns = T0
        self.suspended_ns = 0
        self.slow_reading_ns = 0

    def realtime(self) -> int:
        self.boot_ns += self.slow_reading_ns
        return self.boot_ns + self.set_ns

    def gettime(self, clock: int) -> int:
        if clock == time.CLOCK_BOOTTIME:
            return self.boot_ns
        return {time.CLOCK_REALTIME: self.realtime()}.get(clock, self.boot_ns - self.suspended_ns)

    def instant(self) -> Instant:
        monotonic = self.boot_ns - self.suspended_ns
        return Instant(self.boot_ns + self.set_ns, monotonic, monotonic, self.boot_ns)

    @property
    def monotonic_ns(self) -> int:
        return self.boot_ns - self.suspended_ns


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The module's view of the clocks, in the test's hand."""
    found = Clocks()
    monkeypatch.setattr(hostclock.time, "time_ns", found.realtime)
    monkeypatch.setattr(hostclock.time, "clock_gettime_ns", found.gettime)
    monkeypatch.setattr(hostclock.clock, "read", found.instant)
    return found


@pytest.fixture
def journal() -> Journal:
    """An empty one."""
    return Journal.format(memoryview(bytearray(SHAPE.size)), SHAPE, 1)


def record(clocks: Clocks, offset_ms: float, **facts: int) -> NtpRecord:
    """A valid one of this moment."""
    now = clocks.monotonic_ns
    return NtpRecord(now, now, clocks.realtime(), offset_ms, 2.0, 0.1, valid=1, state=1, quality=1).replace(**facts)


@pytest.mark.parametrize("step_ns", [500 * MS, -500 * MS, 3600 * S, -3600 * S, -S])
def test_setting_the_clock_is_seen_and_taken_off(clocks: Clocks, journal: Journal, step_ns: int) -> None:
    clock = RecorderClock(journal, "X")
    clock.look()
    assert (clock.shift_ns, clock.settled) == (0, True)
    clocks.set_ns += step_ns
    clock.look()
    assert (clock.shift_ns, clock.settled) == (step_ns, False)
    clock.look()
    assert (clock.shift_ns, clock.settled) == (step_ns, True)


def test_successor_goes_on_with_the_same_clock(clocks: Clocks, journal: Journal) -> None:
    first = RecorderClock(journal, "X")
    clocks.set_ns -= 3 * S
    first.look()
    clocks.set_ns += 7 * S + 427
    again = RecorderClock(Journal(journal.buffer, SHAPE), "X")
    assert (again.shift_ns, again.settled) == (-3 * S, True), "to the nanosecond: stamps are told apart by it"
    again.look()
    assert (again.shift_ns, again.settled) == (4 * S + 427, False), "what came in between is no evidence"


def test_suspend_is_no_setting(clocks: Clocks, journal: Journal) -> None:
    clock = RecorderClock(journal, "X")
    clocks.boot_ns += 3600 * S
    clocks.suspended_ns += 3600 * S
    clock.look()
    assert (clock.shift_ns, clock.settled) == (0, True)


def test_slow_reading_is_no_setting(clocks: Clocks, journal: Journal) -> None:
    clock = RecorderClock(journal, "X")
    clocks.slow_reading_ns = 30 * MS
    clock.look()
    assert (clock.shift_ns, clock.settled) == (0, True)


def test_ntp_speaks_of_the_hosts_clock_and_is_translated(clocks: Clocks, journal: Journal) -> None:
    clock = RecorderClock(journal, "X")
    assert clock.against_utc(record(clocks, 3.0), clocks.monotonic_ns, Ntp()) == HostClock(3 * MS, 2 * MS)
    clocks.set_ns += 500 * MS
    clock.look()
    clock.look()
    found = clock.against_utc(record(clocks, 503.0), clocks.monotonic_ns, Ntp())
    assert found == HostClock(3 * MS, 2 * MS, 500 * MS)


def test_publication_of_before_the_setting_still_holds(clocks: Clocks, journal: Journal) -> None:
    clock = RecorderClock(journal, "X")
    before = record(clocks, 3.0)
    clock.against_utc(before, clocks.monotonic_ns, Ntp())
    clocks.set_ns += 500 * MS
    clock.look()
    found = clock.against_utc(before, clocks.monotonic_ns, Ntp())
    assert (found.offset_ns, found.shift_ns) == (3 * MS, 500 * MS)


def test_what_was_known_counts_less_and_less(clocks: Clocks, journal: Journal) -> None:
    """The servers quarrel: the record is fresh and not valid."""
    clock, ntp = RecorderClock(journal, "X"), Ntp()
    last = record(clocks, 3.0)
    clock.against_utc(last, clocks.monotonic_ns, ntp)
    clocks.boot_ns += 20 * S
    assert clock.against_utc(last, clocks.monotonic_ns, ntp).uncertainty_ns == 2 * MS
    # From the publication on, however often it was looked at since.
    clocks.boot_ns -= 20 * S
    bounds = []
    for _ in range(3):
        clocks.boot_ns += 600 * S
        found = clock.against_utc(record(clocks, 3.0, valid=0), clocks.monotonic_ns, ntp)
        assert found.offset_ns == 3 * MS
        bounds.append(found.uncertainty_ns)
    assert bounds == [302 * MS, 602 * MS, 902 * MS]
    clocks.boot_ns += 40_000 * S
    assert clock.against_utc(record(clocks, 3.0, valid=0), clocks.monotonic_ns, ntp) == HostClock()


def test_silent_monitors_record_is_carried_on_as_its_successor_would(clocks: Clocks, journal: Journal) -> None:
    ntp = Ntp()
    last = record(clocks, 3.0)
    clocks.boot_ns += 100 * S
    found = RecorderClock(journal, "X").against_utc(last, clocks.monotonic_ns, ntp)
    assert found.offset_ns is not None and abs(found.offset_ns - 3 * MS) < 1000
    assert 2 * MS < found.uncertainty_ns < 100 * MS


def test_nothing_known_is_the_kernels_bound(clocks: Clocks, journal: Journal) -> None:
    found = RecorderClock(journal, "X").against_utc(NtpRecord(), clocks.monotonic_ns, Ntp())
    assert found == HostClock(None, UNDISCIPLINED_NS)
