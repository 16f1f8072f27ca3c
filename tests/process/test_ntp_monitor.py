"""The monitor as a process: what it publishes, what `ps` shows, how it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers import wait_for
from ntp_farm import Fakes, Reply, asking, fakes, good, saying
from pipeline.config import Ntp
from pipeline.ntp import monitor
from pipeline.process import STOP_SIGNALS
from pipeline.records import UNKNOWN_NS, NtpRecord, NtpState
from pipeline.shm import Board

CYCLE_S = 0.5
LONG = os.environ.get("GRAPE_LONG") == "1"


class Monitor:
    """A forked monitor and the board that it writes."""

    def __init__(self, config: Ntp, board: Board) -> None:
        self.board = board
        self._parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = monitor.run(config, board, self._parent)
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def record(self) -> NtpRecord:
        return self.board.ntp.read()

    def title(self) -> str:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()

    def wait_for_state(self, state: NtpState) -> NtpRecord:
        wait_for(lambda: self.record().state == state, 10, f"{state.name}")
        return self.record()

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def board(instance: str) -> Iterator[Board]:
    made = Board.create(instance, os.getpid(), time.time_ns(), time.monotonic_ns())
    yield made
    made.segment.unlink()


@contextlib.contextmanager
def running(config: Ntp, board: Board) -> Iterator[Monitor]:
    """A monitor for the length of a block."""
    started = Monitor(config, board)
    try:
        yield started
    finally:
        if started.pid:
            started.stop(signal.SIGKILL)


def config(farm: Fakes, **changes: object) -> Ntp:
    return replace(asking(farm, publish_interval_s=CYCLE_S), **changes)  # type: ignore[arg-type]


def test_publishes_and_shows_itself(board: Board) -> None:
    with fakes(*[good] * 4, saying(Reply(offset_s=1.0))) as farm, running(config(farm), board) as m:
        first = m.wait_for_state(NtpState.SYNCED)
        assert first.truechimers == 4 and first.falsetickers == 1
        assert abs(first.offset_ms) <= first.uncertainty_ms
        assert abs(first.utc_ns - time.time_ns()) < 60e9
        wait_for(lambda: "synced 4/5" in m.title(), 5, "the title")
        assert m.title().startswith("grape-pipeline: ntp ") and "ms synced 4/5" in m.title()
        assert Path(f"/proc/{m.pid}/comm").read_text() == "gp-ntp\n"
        later = first.published_monotonic_ns + int(3 * CYCLE_S * 1e9)
        wait_for(lambda: m.record().published_monotonic_ns > later, 10, "later publications")
        found = json.loads(board.diagnostics.read() or b"")
        assert len(found["servers"]) == 5 and found["counters"]["samples"] >= 5
        assert found["servers"][4]["state"] == "falseticker"
        assert m.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: f"case_58_{number.name}")
def test_record_of_a_monitor_that_is_gone_grows_old(board: Board, number: signal.Signals) -> None:
    """What its readers see; the files of a real worker: tests/e2e/test_live_ntp.py."""
    stale_after_s = 1.5
    with fakes(*[good] * 4) as farm, running(config(farm), board) as m:

        def view() -> dict[str, Any]:
            return m.record().at(time.monotonic_ns(), stale_after_s)

        m.wait_for_state(NtpState.SYNCED)
        assert view()["synced"]
        os.kill(m.pid, number)
        old = wait_for(lambda: not (seen := view())["synced"] and seen, 10, "a stale record")
        assert (old["valid"], old["state"]) == (False, "unsynced")
        assert old["age_s"] > stale_after_s
        wait_for(lambda: view()["age_s"] > old["age_s"] + 0.2, 10, "the age to grow")
        assert view()["offset_ms"] == old["offset_ms"], "the last word is still shown"
        if number == signal.SIGSTOP:
            os.kill(m.pid, signal.SIGCONT)
            wait_for(lambda: view()["synced"], 10, "the monitor to go on")


def test_leaves_when_told_though_a_server_is_silent(board: Board) -> None:
    with fakes(lambda request, receive_ns: []) as farm, running(config(farm, timeout_s=60.0), board) as m:
        wait_for(lambda: farm.requests[0], 10, "a request")
        assert m.stop(signal.SIGINT) == 0


def test_leaves_when_its_parent_is_gone(board: Board) -> None:
    """Its parent here never was the one that it was told."""
    with fakes(good) as farm:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = monitor.run(config(farm), board, 1)
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_successor_never_publishes_less_than_its_predecessor(board: Board) -> None:
    with fakes(*[good] * 4) as farm, running(config(farm), board) as m:
        m.wait_for_state(NtpState.SYNCED)
        m.stop(signal.SIGKILL)
        before = m.record()
    with fakes(*[lambda request, receive_ns: []] * 4) as dead, running(config(dead), board) as m:
        held = m.wait_for_state(NtpState.HOLDOVER)
        assert held.valid and held.synced and held.published_monotonic_ns > before.published_monotonic_ns
        assert held.offset_ms == pytest.approx(before.offset_ms, abs=1.0)
        assert held.uncertainty_ms > before.uncertainty_ms
        assert abs(held.monotonic_ns - before.monotonic_ns) < 1_000_000
        assert m.stop() == 0


@pytest.mark.limit(420 if LONG else 60)
def test_case_38_all_servers_fail_and_come_back(board: Board) -> None:
    """As its readers see it, by the records' own stamps. GRAPE_LONG=1: six minutes with the default limits."""
    outage_s, changes = (360.0, {"publish_interval_s": 10.0}) if LONG else (7.0, {"holdover_s": 4.0})
    answered: list[int] = []
    up = [True]

    def flaky(request: bytes, receive_ns: int) -> list[bytes]:
        if up[0]:
            answered.append(time.monotonic_ns())
        return good(request, receive_ns) if up[0] else []

    with fakes(*[flaky] * 4) as farm, running(config(farm, timeout_s=0.1, **changes), board) as m:
        settings = config(farm, **changes)
        seen: list[NtpRecord] = []

        def look() -> NtpRecord:
            record = m.record()
            if record.published_monotonic_ns not in (UNKNOWN_NS, seen[-1].published_monotonic_ns if seen else None):
                seen.append(record)
            return record

        wait_for(lambda: look().synced, 10, "the first verdict")
        up[0] = False
        end = time.monotonic() + outage_s
        wait_for(lambda: look() and time.monotonic() > end, outage_s + 5, "the end of the outage")
        before = len(answered)
        up[0] = True
        cycle_s = settings.publish_interval_s
        wait_for(lambda: look().synced, 2 * cycle_s + 5, "a verdict after the outage")
        majority_ns = answered[before + settings.strict.min_agree - 1]
        assert m.stop() == 0
    check_outage(seen, settings, majority_ns)


def check_outage(seen: list[NtpRecord], settings: Ntp, majority_ns: int) -> None:
    late_ns = int((settings.publish_interval_s + 1.0) * 1e9)
    assert all(b.published_monotonic_ns - a.published_monotonic_ns < late_ns for a, b in pairwise(seen))
    states = [state for state, _ in groupby(seen, lambda record: NtpState(record.state)) if state != NtpState.STARTING]
    assert states == [NtpState.SYNCED, NtpState.HOLDOVER, NtpState.UNSYNCED, NtpState.SYNCED]
    held = [record for record in seen if record.state == NtpState.HOLDOVER]
    assert all(record.valid and record.synced and record.truechimers == 0 for record in held)
    assert all(b.uncertainty_ms > a.uncertainty_ms and age_s(b) > age_s(a) for a, b in pairwise(held))
    assert max(map(age_s, held)) <= settings.holdover_s
    lost = next(record for record in seen if record.state == NtpState.UNSYNCED)
    assert not lost.valid and not lost.synced and lost.at(lost.published_monotonic_ns, 30)["offset_ms"] is None
    assert settings.holdover_s < age_s(lost) < settings.holdover_s + settings.publish_interval_s + 1.0
    assert seen[-1].published_monotonic_ns - majority_ns < settings.publish_interval_s * 1e9


def age_s(record: NtpRecord) -> float:
    return (record.published_monotonic_ns - record.monotonic_ns) / 1e9
