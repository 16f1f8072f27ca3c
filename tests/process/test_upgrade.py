"""What another version of the program left in shared memory is not given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers import Names
from pipeline.landing import LANDING_SIZE
from pipeline.segments import open_segment
from pipeline.shm import SharedMemoryError
from process.fast_channel import fast_channel

SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.parametrize("landing", [0, LANDING_SIZE // 2], ids=["without a landing", "with a smaller one"])
def test_journal_of_a_version_whose_packets_came_down_otherwise_is_gone_on_with(
    names: Names, tmp_path: Path, landing: int
) -> None:
    with fast_channel(names, tmp_path) as fast:
        worker = fast.worker()
        fast.send(40)
        fast.work(worker, lambda: fast.record.packets_received == fast.sent, "the packets")
        fast.send(5)
        path, whole = SHARED_MEMORY / fast.segment.name.lstrip("/"), fast.segment.size
        os.truncate(path, whole - LANDING_SIZE + landing)
        found = open_segment(names.instance, fast.channel, fast.config.recorder, True)
        assert found is not None and path.stat().st_size == whole
        fast.segment = found
        worker = fast.worker()
        fast.send(20)
        fast.work(worker, lambda: fast.record.minutes_written == 1, "a minute")
        assert fast.minutes() == [0]


def test_no_room_to_go_on_is_said_and_leaves_the_journal_for_the_next_start(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fast_channel(names, tmp_path) as fast:
        path, whole = SHARED_MEMORY / fast.segment.name.lstrip("/"), fast.segment.size
        os.truncate(path, whole - LANDING_SIZE)

        def full(*_: int) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patched, pytest.raises(SharedMemoryError, match="enlarge /dev/shm"):
            patched.setattr(os, "posix_fallocate", full)
            open_segment(names.instance, fast.channel, fast.config.recorder, True)
        assert path.stat().st_size < whole
        assert open_segment(names.instance, fast.channel, fast.config.recorder, True) is not None
