"""A worker is killed at every system call on the way of a minute from the socket to the disk.

Whatever was on disk then, the file is visible whole or not at all, and its successor leaves
exactly one file of the minute, bit for bit.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import pytest

from helpers import Names
from pipeline import npz
from pipeline.records import AnchorSource, ChannelRecord
from process import killpoint
from process.fast_channel import FastChannel, NoLifeline, fast_channel


class Sleeper(NoLifeline):
    """Lets the worker sleep until its writer is done, so that it makes the same calls each time."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def wake(self) -> None:
        os.write(self.write, b"\0")

    def sleep(self) -> None:
        ready, _, _ = select.select([self.read], [], [], 10.0)
        assert ready, "the writer never ended"
        os.read(self.read, 1)


def write_one(fast: FastChannel) -> None:
    """A worker's life from the packets that wait on the socket to the minute on disk."""
    sleeper: Any = Sleeper()
    worker = fast.worker(sleeper)
    worker.tick()
    sleeper.sleep()
    worker.tick()
    if fast.record.minutes_written != 1:
        raise AssertionError("no minute was written")


@pytest.mark.limit(400)
def test_death_at_any_system_call_of_a_write(names: Names, tmp_path: Path) -> None:
    with fast_channel(names, tmp_path, buffer_minutes=2) as fast:
        worker = fast.worker()
        fast.send(55)
        fast.work(worker, lambda: fast.record.packets_received == fast.sent, "most of the minute")
        # A status that was taken by one who dies is not missed, since there are two a second; here there are few.
        fast.work(worker, lambda: fast.record.anchor_source == AnchorSource.RADIOD, "a status")
        before, sent = bytes(fast.segment.buf), fast.sent
        point, deaths, ended = 1, 0, 0
        while ended < 2:
            fast.segment.buf[:] = before
            fast.board.channels[0].write(ChannelRecord())
            fast.sent = sent
            fast.send(7)
            died = killpoint.run(lambda: write_one(fast), point)
            deaths, ended = deaths + died, 0 if died else ended + 1
            for path in fast.files():
                npz.read(path)
            successor = fast.worker()
            fast.work(successor, lambda: fast.record.packets_received == fast.sent, "the packets")
            fast.work(successor, lambda: fast.cut_off == 60, f"the minute after a death at call {point}")
            assert fast.minutes() == [0], f"call {point}"
            assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".npz"], f"call {point}"
            (path,) = fast.files()
            path.unlink()
            for folder in (path.parent, path.parent.parent):
                folder.rmdir()
            point += 1
        print(f"{deaths} deaths at {point - 1} system calls")
        assert deaths > 80
