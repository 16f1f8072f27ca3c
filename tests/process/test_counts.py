"""What a channel has counted is true by its files, and a worker's successor goes on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import Names
from process.fast_channel import fast_channel


def test_gaps_and_bytes_are_those_of_the_files(names: Names, tmp_path: Path) -> None:
    with fast_channel(names, tmp_path) as fast:
        worker = fast.worker()
        for number in range(2):
            for _ in range(3):
                fast.send(10)
                fast.send(1, skip=True)
            fast.send(32 if number == 0 else 27)
            fast.work(worker, lambda number=number: fast.record.minutes_written > number, "a minute")
            files = sorted(tmp_path.glob("archives/*/*.npz"))
            record = fast.record
            assert record.gap_events == sum(len(np.load(path)["gap_cause"]) for path in files) >= 3 * (number + 1)
            assert record.bytes_written == sum(path.stat().st_size for path in files)
            assert record.disk_free_bytes > 0
            worker = fast.worker()
            worker.tick()
            after = fast.record
            assert (after.gap_events, after.bytes_written, after.packets_lost) == (
                record.gap_events,
                record.bytes_written,
                record.packets_lost,
            )
