"""Other ends than SIGKILL: stopped, crashed in a library, out of memory, hanging in a write. Nothing is lost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from e2e.live import receiving, running, spec, write_config
from helpers import Names, needs, needs_root, wait_for
from pipeline.shm import Board
from pipeline.simulator.spec import ChannelSpec
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from truthcheck import check_simulated, load_tree

STOPPED = ChannelSpec("STOPPED", 1_000_000)
CRASHED = ChannelSpec("CRASHED", 2_000_000)
LIMITED = ChannelSpec("LIMITED", 3_000_000)
HANGING = ChannelSpec("HANGING", 4_000_000)
CHANNELS = (STOPPED, CRASHED, LIMITED, HANGING)
# The length of the stream, which so has one end of a minute in it at least.
LENGTH_S = 66.0
HANG_S = 12
JOINED = 240_000


@pytest.mark.root
@pytest.mark.limit(180)
def test_every_sample_is_in_the_files(names: Names, tmp_path: Path) -> None:
    needs_root()
    strace = needs("strace")
    truth = tmp_path / "truth"
    with running_simulator(spec(names, CHANNELS, truth, duration_s=LENGTH_S)) as ready:
        end = time.monotonic() + LENGTH_S + 1
        config = write_config(names, ready, CHANNELS, tmp_path)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 15, "packets on every channel")
            pids = program.pids()
            board = Board.open(names.instance)
            os.kill(pids["STOPPED"], signal.SIGSTOP)
            # Enough to receive with, too little for a minute of samples.
            limit = _address_space(pids["LIMITED"]) + (4 << 20)
            resource.prlimit(pids["LIMITED"], resource.RLIMIT_AS, (limit, limit))
            inject = f"inject=fsync:delay_enter={HANG_S * 1_000_000}:when=1"
            tracer = subprocess.Popen(
                [strace, "-f", "-qq", "-e", "trace=fsync", "-e", inject, "-o", str(tmp_path / "trace")]
                + ["-p", str(pids["HANGING"])]
            )
            try:
                for _ in range(3):
                    os.kill(_pid(board, "CRASHED"), signal.SIGSEGV)
                    time.sleep(2.5)
                wait_for(lambda: _pid(board, "STOPPED") not in (0, pids["STOPPED"]), 20, "a successor")
                wait_for(lambda: _pid(board, "LIMITED") not in (0, pids["LIMITED"]), 90, "a successor")
                wait_for(lambda: time.monotonic() > end, LENGTH_S, "the end of the stream")
                wait_for(lambda: _written(board, "HANGING"), 60, "the write that hung")
                assert _pid(board, "HANGING") == pids["HANGING"], "a slow disk is no reason to die"
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.wait(10)
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
    sent = Truth.read(truth)
    for channel in CHANNELS:
        verdict = check_simulated(program.data_dir, sent, channel.ssrc, JOINED)
        assert not verdict.faults, f"{channel.name}: {verdict.faults[:5]}"
        assert all(
            set(values["gap_cause"]) <= {"start", "stop"} for values in load_tree(program.data_dir, channel.ssrc)
        )
    log = program.log.read_text()
    assert "no sign of life" in log and "killed by SIGSEGV" in log


def _address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _pid(board: Board, name: str) -> int:
    return next(record.pid for record in (cell.read() for cell in board.children) if record.name == name)


def _written(board: Board, name: str) -> int:
    return next(row.minutes_written for row in (cell.read() for cell in board.channels) if row.name == name)
