"""The host's clock is set wrongly while a stream is recorded: the labels of that stream do not move.

Only what this process is told of the clock is changed: the kernel's stamps, CLOCK_REALTIME
against CLOCK_BOOTTIME, what NTP makes of it, and GPS_TIME of a radiod that runs on the same host.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from helpers import Names
from pipeline import hostclock, landing, npz, receiver
from pipeline.records import AnchorSource
from pipeline.stream.lot import Lot
from pipeline.stream.timeline import SECOND
from process.fast_channel import RATE, fast_channel

HOUR = 3600 * SECOND


class Clock:
    """How far this process's clock has been set so far, ns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step_ns = 0
        # True UTC in the stream's own, faster time.
        self.utc_ns = 0
        difference = hostclock.realtime_less_boottime

        def set_difference() -> tuple[int, int]:
            found, width = difference()
            return found + self.step_ns, width

        monkeypatch.setattr(hostclock, "realtime_less_boottime", set_difference)
        monkeypatch.setattr(receiver, "_stamp", lambda _stamps, shift: self.utc_ns + self.step_ns - shift)

        came = landing.Landing.lot

        def lot(where: landing.Landing, shift: int) -> Lot:
            found = came(where, shift)
            return found._replace(arrivals_ns=[self.utc_ns + self.step_ns - shift] * len(found.lengths))

        monkeypatch.setattr(landing.Landing, "lot", lot)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("same_host", [True, False], ids=["radiod here", "radiod elsewhere"])
@pytest.mark.parametrize("step_ns", [SECOND // 2, -SECOND // 2, HOUR, -HOUR])
def test_step_within_a_timeline_changes_nothing(
    names: Names,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step_ns: int,
    same_host: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(receiver.Receiver, "_is_local", lambda _self, _address: same_host)
    with fast_channel(names, tmp_path) as fast:
        worker = fast.worker()
        for second in range(0, 250, 10):
            if second == 90:
                clock.step_ns = step_ns
                fast.know_the_clock(0.5 + step_ns / 1e6)
                fast.gps_step_ns = step_ns if same_host else 0
            if second == 150:
                fast.work(worker, lambda: fast.record.minutes_written == 2, "two minutes")
                worker = fast.worker()
            fast.send(10)
            clock.utc_ns = fast.utc_ns
            fast.work(worker, lambda: fast.record.packets_received == fast.sent, "the packets")
        fast.work(worker, lambda: fast.record.minutes_written == 4, "four minutes")
        assert fast.record.anchor_source == AnchorSource.RADIOD
        assert fast.minutes() == [0, 1, 2, 3], "each where it belongs"
        for path in fast.files():
            values = npz.read(path)
            assert values["segment_epoch_ids"].tolist() == [1] and values["epoch_reason"] == "start"
            assert abs(values["sample0_utc_ns"] - round(values["unix_timestamp"] * 1e9)) < 500_000
            assert len(values["gap_cause"]) == len(values["iq_extra"]) == 0
    assert f"clock was set by {'+' if step_ns > 0 else '-'}" in caplog.text


def test_suspend_is_a_gap_in_the_same_timeline(names: Names, tmp_path: Path, clock: Clock) -> None:
    """Both clocks that are compared run on while the machine sleeps, and so does radiod elsewhere."""
    with fast_channel(names, tmp_path) as fast:
        worker = fast.worker()
        for seconds, asleep in ((40, False), (25, True), (60, False)):
            for _ in range(seconds):
                fast.send(1, skip=asleep)
                clock.utc_ns = fast.utc_ns
                worker.tick()
        fast.work(worker, lambda: fast.record.last_minute_utc_s == fast.start_ns // SECOND + 60, "the second minute")
        files = [npz.read(path) for path in fast.files()]
    lost = [
        (values["unix_timestamp"] - fast.start_ns / SECOND + int(index) / RATE, int(count) / RATE)
        for values in files
        for cause, index, count in zip(
            values["gap_cause"], values["gap_sample_indices"], values["gap_samples_filled"], strict=True
        )
        if cause == "network"
    ]
    # The label of a stream this young may be a sample off.
    assert lost == [pytest.approx((40.0, 20.0), abs=0.003), pytest.approx((60.0, 5.0), abs=0.003)]
    assert {n for values in files for n in values["segment_epoch_ids"].tolist()} == {1}
