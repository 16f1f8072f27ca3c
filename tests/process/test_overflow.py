"""A buffer that was too small while the worker was away: counted on the channel that lost, and on no other."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from helpers import Names
from pipeline import overflow
from pipeline.overflow import Overflow, brimful
from pipeline.sockets import sender
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
        assert not brimful(fast.sockets.data)
        assert fast.record.socket_dropped == 0


def test_nobody_asks_the_kernel_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(overflow, "brimful", lambda sock: bool(asked.append(sock)))
    counter, sock = Overflow(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        for tick in range(4, 100):
            counter.before(sock, 0, tick * 500_000_000)
            counter.after(True, 0)
        assert len(asked) == 1, "only the first time, after an unknown time away"
        counter.before(sock, 0, 103 * 500_000_000)
        assert len(asked) == 2
