"""The monitor as a process: what it publishes, what `ps` shows, how it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import wait_for
from ntp_farm import Fakes, Reply, fakes, good, saying
from pipeline.config import Ntp
from pipeline.ntp import monitor
from pipeline.process import STOP_SIGNALS
from pipeline.records import NtpRecord, NtpState
from pipeline.shm import Board

CYCLE_S = 0.5


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
    base = Ntp(sources=("servers",), servers=farm.servers, publish_interval_s=CYCLE_S, timeout_s=0.3)
    return replace(base, **changes)  # type: ignore[arg-type]


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


def test_outage_and_recovery(board: Board) -> None:
    up = [True]

    def flaky(request: bytes, receive_ns: int) -> list[bytes]:
        return good(request, receive_ns) if up[0] else []

    settings = {"timeout_s": 0.1, "holdover_s": 1.0}
    with fakes(*[flaky] * 4) as farm, running(config(farm, **settings), board) as m:
        m.wait_for_state(NtpState.SYNCED)
        up[0] = False
        held = m.wait_for_state(NtpState.HOLDOVER)
        assert held.valid and held.synced
        lost = m.wait_for_state(NtpState.UNSYNCED)
        assert not lost.valid and lost.at(time.monotonic_ns(), 30)["offset_ms"] is None
        up[0] = True
        m.wait_for_state(NtpState.SYNCED)
        assert m.stop() == 0
