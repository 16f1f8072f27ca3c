"""A disk that is full, read-only, slow or forbidden: minutes wait in memory and come to the disk in order."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import Names, needs_root
from pipeline import durable
from pipeline import worker as worker_module
from pipeline.records import ChannelState, ChildRecord, ChildState
from pipeline.supervision.causes import Level, channel_cause
from pipeline.supervision.instance import check_data_dir
from pipeline.supervision.report import Row as StatusRow
from process.fast_channel import FastChannel, fast_channel
from process.small_disk import SmallDisk, small_disk
from snapshots import snapshot


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "RETRY_S", (0.05,))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    needs_root()
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=64") as found:
        yield found


def said(fast: FastChannel) -> tuple[Level, str]:
    """What `status` says of the channel."""
    now = time.monotonic_ns()
    child = ChildRecord(now, now, now, 0, os.getpid(), state=ChildState.RUNNING, name="FAST")
    row = StatusRow(0, child, fast.record)
    return channel_cause(row, snapshot(row, now_ns=now))


def fails_then_mends(fast: FastChannel, fail: Any, mend: Any, reason: str) -> None:
    """Three minutes while the disk fails; afterwards all are there, in order, as sent."""
    worker = fast.worker()
    fast.send(65)
    fast.work(worker, lambda: fast.record.minutes_written == 1, "the first minute")
    fail()
    fast.send(60)
    fast.work(worker, lambda: fast.record.state == ChannelState.BLOCKED, "the failure to show")
    fast.send(130)
    before = fast.record.packets_received
    fast.work(worker, lambda: fast.record.packets_received > before + 200, "packets all the same")
    level, text = said(fast)
    assert level is Level.CRIT and reason in text and "cannot be written" in text
    assert fast.record.backlog >= 3
    assert fast.minutes() == [0]
    written_ns = [p.stat().st_mtime_ns for p in fast.files()]
    mend()
    fast.work(worker, lambda: fast.record.minutes_written == 4, "all minutes")
    assert said(fast)[0] is not Level.CRIT
    assert fast.minutes() == [0, 1, 2, 3]
    times = [p.stat().st_mtime_ns for p in fast.files()]
    assert times == sorted(times) and times[:1] == written_ns
    assert not list(fast.folder.rglob("*.tmp")) and not list((fast.folder / "parts").rglob("*"))
    assert fast.record.minutes_dropped == 0


@pytest.mark.root
def test_disk_that_is_full_for_three_minutes(names: Names, disk: SmallDisk) -> None:
    with fast_channel(names, disk.folder) as fast:
        fails_then_mends(fast, disk.fill, (disk.folder / "somebody-elses-file").unlink, "disk full")


@pytest.mark.root
def test_disk_that_becomes_read_only(names: Names, disk: SmallDisk) -> None:
    with fast_channel(names, disk.folder) as fast:
        fails_then_mends(fast, lambda: disk.remount("ro"), lambda: disk.remount("rw"), "Read-only file system")


@pytest.mark.root
def test_disk_without_a_free_inode(names: Names, disk: SmallDisk) -> None:
    fillers = disk.folder / "fillers"

    def use_up() -> None:
        fillers.mkdir()
        for number in range(100):
            try:
                (fillers / str(number)).touch()
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return

    def give_back() -> None:
        for path in fillers.iterdir():
            path.unlink()

    with fast_channel(names, disk.folder) as fast:
        fails_then_mends(fast, use_up, give_back, "disk full")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EDQUOT])
def test_permission_that_is_lost_and_errors_of_the_disk(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """root may do anything, so the refusal is made up."""
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **named)

    def fail() -> None:
        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(durable, "write", lambda path, *_: refuse(path, 0))

    store = durable.write

    def mend() -> None:
        monkeypatch.setattr(os, "open", real)
        monkeypatch.setattr(durable, "write", store)

    with fast_channel(names, tmp_path) as fast:
        fails_then_mends(fast, fail, mend, os.strerror(number))


def test_reserve_on_the_disk(names: Names, tmp_path: Path) -> None:
    """`min_free_gb` is kept for others; a configuration that asks for less lets the minutes go to the disk."""
    with fast_channel(names, tmp_path, min_free_gb=1e6) as fast:
        worker = fast.worker()
        fast.send(125)
        fast.work(worker, lambda: fast.record.state == ChannelState.BLOCKED, "the reserve to be kept")
        assert said(fast)[0] is Level.CRIT and not fast.files()
        fast.replace_recorder(min_free_gb=0.0)
        worker = fast.worker()
        fast.work(worker, lambda: fast.record.minutes_written == 2, "both minutes")
        assert fast.minutes() == [0, 1]


@pytest.mark.root
def test_worker_that_is_replaced_while_the_disk_is_read_only(names: Names, disk: SmallDisk) -> None:
    """With an unfinished file in its folder, which it cannot remove."""
    with fast_channel(names, disk.folder) as fast:
        folder = disk.folder / "archives" / "FAST"
        folder.mkdir(parents=True)
        orphan = folder / ".20260101T000000Z_1000000_iq.npz.77.tmp"
        orphan.touch()
        disk.remount("ro")
        fast.send(65)
        for _ in range(2):
            worker = fast.worker()
            fast.work(worker, lambda: fast.record.state == ChannelState.BLOCKED, "the failure to show")
        disk.remount("rw")
        fast.work(worker, lambda: fast.record.minutes_written == 1, "the minute")
        assert fast.minutes() == [0]
        fast.send(60)
        worker = fast.worker()
        fast.work(worker, lambda: fast.record.minutes_written == 2, "the next minute")
        assert not orphan.exists()


def test_beyond_the_bound_the_oldest_minute_goes_and_is_counted(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with fast_channel(names, tmp_path, buffer_minutes=2) as fast:
        refuse = {"on": True}
        store = durable.write

        def full(*arguments: Any) -> None:
            if refuse["on"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            store(*arguments)

        monkeypatch.setattr(durable, "write", full)
        worker = fast.worker()
        for minute in range(9):
            fast.send(60)
            sent = fast.sent
            fast.work(worker, lambda s=sent: fast.record.packets_received == s, f"minute {minute} to be received")
        dropped = fast.record.minutes_dropped
        assert dropped > 2
        assert caplog.text.count("given up: memory is full and it could not be written") == dropped
        assert "No space left" in caplog.text
        refuse["on"] = False
        fast.send(5)
        fast.work(worker, lambda: fast.record.minutes_written == 9 - dropped, "what is left")
        assert fast.minutes() == list(range(dropped, 9)), "the newest stay, whole"
        assert "had to be given up" in said(fast)[1]


def test_write_that_hangs_is_told_and_blocks_nothing_but_itself(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that never answers: receiving goes on, status is loud, and beyond the bound it is the oldest that goes."""
    monkeypatch.setattr(worker_module, "STUCK_S", 0.2)
    monkeypatch.setattr("pipeline.channelreport.SLOW_WRITE_S", 0.1)
    answers = threading.Event()
    sync = os.fsync

    def hang(fd: int) -> None:
        answers.wait(60)
        sync(fd)

    with fast_channel(names, tmp_path, buffer_minutes=2) as fast:
        worker = fast.worker()
        monkeypatch.setattr(os, "fsync", hang)
        try:
            fast.send(65)
            fast.work(worker, lambda: fast.record.state == ChannelState.BLOCKED, "the hang to show")
            assert said(fast)[0] is Level.CRIT and "disk has not answered for" in said(fast)[1]
            for minute in range(7):
                fast.send(60)
                sent = fast.sent
                fast.work(worker, lambda s=sent: fast.record.packets_received == s, f"minute {minute} to be received")
            dropped = fast.record.minutes_dropped
            assert dropped > 2
        finally:
            answers.set()
        fast.work(worker, lambda: fast.record.minutes_written == 8 - (dropped - 1), "what is left")
        # The first one was in hand and came to the disk after all.
        assert fast.minutes() == [0, *range(dropped, 8)]
        assert fast.record.minutes_dropped == dropped - 1


@pytest.mark.root
def test_start_on_a_disk_that_is_full_or_read_only(names: Names, disk: SmallDisk) -> None:
    disk.fill()
    check_data_dir(disk.folder)
    disk.remount("ro")
    check_data_dir(disk.folder)


def test_packets_that_found_no_memory_at_the_stop_are_for_the_next_start(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fast_channel(names, tmp_path) as fast:
        worker = fast.worker()
        fast.send(50)
        fast.work(worker, lambda: fast.record.packets_received == fast.sent, "most of the minute")
        fast.send(5)
        with monkeypatch.context() as full:
            full.setattr(os, "pwritev", lambda *_: 0)
            assert worker.leave() == worker_module.EXIT_LEFT_IN_MEMORY
        assert not fast.files(), "a file now would lack them"
        successor = fast.worker()
        fast.send(10)
        fast.work(successor, lambda: fast.record.minutes_written == 1, "the minute")
        assert fast.minutes() == [0]
