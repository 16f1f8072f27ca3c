"""A disk that is full for three minutes under the whole program. GRAPE_LONG=1: it takes six minutes.

tests/process/test_disk.py has the same and more with a stream that runs faster than time.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from e2e.live import receiving, running, spec, write_config
from helpers import Names, needs_root, wait_for
from pipeline.simulator.spec import ChannelSpec
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from process.small_disk import small_disk
from truthcheck import check_simulated, load_tree

CHANNELS = (ChannelSpec("WWV 5 MHz", 5_000_000), ChannelSpec("WWV 10 MHz", 10_000_000))
FULL_S = 190.0


@pytest.mark.skipif(os.environ.get("GRAPE_LONG") != "1", reason="six minutes; GRAPE_LONG=1 runs it")
@pytest.mark.root
@pytest.mark.limit(600)
def test_all_minutes_come_to_the_disk_in_order(names: Names, tmp_path: Path) -> None:
    needs_root()
    truth = tmp_path / "truth"
    with (
        small_disk(tmp_path / "data", "size=80m") as disk,
        running_simulator(spec(names, CHANNELS, truth)) as ready,
    ):
        config = write_config(names, ready, CHANNELS, tmp_path)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 15, "packets on every channel")
            wait_for(lambda: len(list(disk.folder.rglob("*.npz"))) == 2, 75, "the first files")
            filler, filled = disk.fill(), time.monotonic()
            wait_for(lambda: program.run("status").returncode == 2, 90, "an alarm")
            told = program.run("status").stdout
            assert "cannot be written: minutes wait in memory: disk full" in told
            while time.monotonic() < filled + FULL_S:
                assert program.run("status").returncode == 2
                time.sleep(5)
            assert len(list(disk.folder.rglob("*.npz"))) == 2
            waiting = [channel["backlog"] for channel in program.status()["channels"]]
            assert min(waiting) >= 3
            filler.unlink()
            wait_for(lambda: max(c["backlog"] for c in program.status()["channels"]) == 0, 60, "the waiting minutes")
            assert program.run("status").returncode in (0, 1)
            sent = Truth.read(truth)
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
        for channel in CHANNELS:
            verdict = check_simulated(program.data_dir, sent, channel.ssrc, 240_000)
            assert not verdict.faults, "\n".join(verdict.faults[:10])
            assert verdict.missing == 0 and verdict.files >= 5
            written = [values["path"].stat().st_mtime_ns for values in load_tree(program.data_dir, channel.ssrc)]
            assert written == sorted(written)
        assert not list((program.data_dir / "parts").rglob("*.npz"))
