"""A buffer that was too small while the worker was away: counted on the channel that lost, and on no other."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from helpers import Names
from pipeline.overflow import Overflow, brimful, queued
from pipeline.sockets import sender
from pipeline.stream.timeline import SECOND
from process.fast_channel import fast_channel


def test_what_finds_no_room_is_counted(names: Names, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with fast_channel(names, tmp_path) as fast:
        fast.sockets.data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000)
        worker = fast.worker()
        fast.send(2)
        fast.work(worker, lambda: fast.record.packets_received == fast.sent, "the first packets")
        fast.send(10, skip=True)
        fast.send(2)
        fast.work(worker, lambda: fast.record.packets_received == 8, "packets after a loss on the way")
        assert (fast.record.packets_lost, fast.record.socket_dropped) == (20, 0), "the network's loss is not ours"
        # Its successor finds the queue full.
        fast.send(16)
        worker = fast.worker()
        worker.tick()
        queued = fast.record.packets_received - 8
        assert queued < 30
        fast.send(2)
        fast.work(worker, lambda: fast.record.packets_received == queued + 12, "packets after the loss")
        worker.tick()
        assert fast.record.socket_dropped == 32 - queued
        assert fast.record.packets_lost == 20 + 32 - queued
        assert f"{32 - queued} packets lost, the receive buffer" in caplog.text
        before = fast.record.socket_dropped
        worker = fast.worker()
        worker.tick()
        assert fast.record.socket_dropped == before, "the count is all workers'"


def test_what_the_filter_refuses_is_no_overflow(names: Names, tmp_path: Path) -> None:
    """Other channels' packets count as dropped in the kernel (SO_RXQ_OVFL), which is why nobody asks there."""
    with fast_channel(names, tmp_path) as fast, sender("lo") as other:
        worker = fast.worker()
        fast.send(1)
        for _ in range(2000):
            other.sendto(b"\x80" + bytes(200), (names.group, names.data_port))
        fast.work(worker, lambda: fast.record.packets_received == 2, "the packets")
        assert not brimful(queued(fast.sockets.data))
        assert fast.record.socket_dropped == 0


def test_a_full_buffer_counts_only_after_a_time_away() -> None:
    """What is lost while the worker keeps its rhythm was lost on the way; the queue may be full the moment after."""
    counter, full = Overflow(), (400_000, 400_000)
    counter.before(full, 0, 10 * SECOND, 2.0)
    assert [counter.after(True, 5), counter.after(True, 5)] == [0, 5], "the first time away is unknown"
    counter.before(full, 5, 12 * SECOND, 2.0)
    assert [counter.after(True, 9), counter.after(True, 9)] == [0, 0]
    counter.before(full, 9, 15 * SECOND, 2.0)
    assert [counter.after(True, 12), counter.after(True, 12)] == [0, 3]


def test_time_away_is_by_what_was_meant() -> None:
    """A small buffer is looked at often, and lost from sooner."""
    for pause_s, dropped in ((0.5, 3), (1.0, 0)):
        counter, full = Overflow(), (400_000, 400_000)
        counter.before((0, 400_000), 0, 10 * SECOND, pause_s)
        counter.after(True, 0)
        counter.before(full, 0, 11 * SECOND, pause_s)
        assert [counter.after(True, 3), counter.after(True, 3)] == [0, dropped]
