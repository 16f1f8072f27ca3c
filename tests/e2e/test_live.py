"""The real program against the simulated station: bit-exact through faults and kills, and easy to operate."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from e2e.live import Program, kill_a_worker, ps, receiving, running, spec, write_config
from helpers import SHARED_MEMORY, Names, needs, needs_root, wait_for
from hostile import attack
from pipeline import npz
from pipeline.shm import Board
from pipeline.simulator.spec import ChannelSpec, FaultPlan
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from truthcheck import check_simulated

# Recorders join within this many frames (10 s at the highest rate used).
JOINED = 240_000


@pytest.mark.limit(180)
def test_two_encodings_with_every_fault_and_a_worker_killed_again_and_again(names: Names, tmp_path: Path) -> None:
    """What was sent is in the files bit for bit, what was not is listed, whatever happens on the way."""
    plain = FaultPlan(
        loss=0.01, reorder=0.05, reorder_depth=40, duplicate=0.02, duplicate_delay_s=0.3, mutes=((22.0, 3.0),),
        start_rtp=(1 << 32) - 16_000 * 30,
    )  # fmt: skip
    channels = (
        ChannelSpec("WWV 5 MHz", 5_000_000, faults=plain),
        ChannelSpec("WWV 10 MHz", 10_000_000, encoding="F32LE", faults=FaultPlan(loss=0.005, duplicate=0.01)),
        ChannelSpec("WWV 15 MHz", 15_000_000, sample_rate_hz=24_000, faults=FaultPlan(packet_frames=(100, 333, 47))),
    )
    truth = tmp_path / "truth"
    station = spec(names, channels, truth, restarts=((40.0, 3.0),), duration_s=70.0)
    chance = random.Random(7)
    with running_simulator(station) as ready:
        end = time.monotonic() + 71.0
        # A packet that is overtaken just before the mute comes when that is over.
        config = write_config(names, ready, channels, tmp_path, grace_s=8.0)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 10, "packets on every channel")
            board, dead = Board.open(names.instance), set[int]()
            while time.monotonic() < end:
                kill_a_worker(board, chance, dead)
                time.sleep(chance.uniform(0.1, 1.2))
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
    assert len(dead) >= 60
    sent = Truth.read(truth)
    for channel in channels:
        verdict = check_simulated(program.data_dir, sent, channel.ssrc, JOINED)
        assert not verdict.faults, "\n".join(verdict.faults[:10])
        assert verdict.samples > 60 * channel.sample_rate_hz
    assert not list(SHARED_MEMORY.glob(f"grape-pipeline-{names.instance}*"))


@pytest.mark.limit(120)
def test_an_operators_round(names: Names, tmp_path: Path) -> None:
    """Names, a killed worker's successor, a second start, restart, stop: as the contract says."""
    channels = (ChannelSpec("WWV 5 MHz", 5_000_000), ChannelSpec("WWV 10 MHz", 10_000_000))
    with running_simulator(spec(names, channels, tmp_path / "truth")) as ready:
        config = write_config(names, ready, channels, tmp_path)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 10, "packets on every channel")
            wait_for(lambda: program.status()["ntp"]["synced"], 10, "the NTP verdict")
            _check_names(program.pids())
            _check_kill(program)
            again = program.run("start")
            assert again.returncode == 1 and str(child.pid) in again.stderr
            assert "Traceback" not in again.stderr
            before = program.pids()
            assert program.run("restart", "WWV 5 MHz").returncode == 0
            wait_for(lambda: program.pids()["WWV_5_MHz"] != before["WWV_5_MHz"], 10, "the restarted worker")
            assert program.run("restart", "WWV 6 MHz").returncode == 2
            wait_for(lambda: program.run("status").returncode in (0, 1), 10, "a status without alarm")
            assert program.run("stop").returncode == 0
            assert child.wait(30) == 0
        assert program.run("status").returncode == 3
        assert program.run("stop").returncode == 3
    files = sorted(program.data_dir.rglob("*.npz"))
    assert {f.parent.name for f in files} == {"WWV_5_MHz", "WWV_10_MHz"}
    assert len([f for f in files if "archives" in f.parts]) == len(files), "a restart must not cut a minute in two"
    last = npz.read(max(files))
    assert last["gap_cause"][-1] == "stop"
    assert "Traceback" not in program.log.read_text()
    assert not ps(f"grape-pipeline: .*{names.instance}")


def _check_names(pids: dict[str, int]) -> None:
    listed = ps("grape-pipeline:")
    assert listed[pids["supervisor"]][0] == "gp-super"
    assert listed[pids["supervisor"]][1].endswith("2/2 up")
    assert listed[pids["ntp"]][0] == "gp-ntp"
    assert " synced 4/4" in listed[pids["ntp"]][1]
    comm, title = listed[pids["WWV_10_MHz"]]
    assert comm == "WWV_10_MHz"
    assert title.startswith("grape-pipeline: WWV_10_MHz ") and title.endswith("lost=0")


def _check_kill(program: Program) -> None:
    before = program.pids()
    os.kill(before["WWV_10_MHz"], signal.SIGKILL)
    after = wait_for(
        lambda: (now := program.pids()).get("WWV_10_MHz", 0) not in (0, before["WWV_10_MHz"]) and now, 5, "a successor"
    )
    assert {**after, "WWV_10_MHz": 0} == {**before, "WWV_10_MHz": 0}, "nobody else was touched"


@pytest.mark.limit(90)
def test_hostile_datagrams_cost_the_good_stream_nothing(names: Names, tmp_path: Path) -> None:
    """Random and forged datagrams on the data and status ports are counted; no sample, no worker is lost."""
    channels = (ChannelSpec("WWV 5 MHz", 5_000_000),)
    truth = tmp_path / "truth"
    with running_simulator(spec(names, channels, truth, duration_s=20.0)) as ready:
        end = time.monotonic() + 21.0
        config = write_config(names, ready, channels, tmp_path)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 10, "packets")
            before = program.pids()
            attack(names.group, 5_000_000, end - 5.0)
            found = program.status()["channels"][0]
            assert found["packets_bad"] > 100
            assert program.pids() == before
            wait_for(lambda: time.monotonic() > end, 30, "the end of the stream")
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
    verdict = check_simulated(program.data_dir, Truth.read(truth), 5_000_000, JOINED)
    assert not verdict.faults, "\n".join(verdict.faults[:10])
    assert verdict.missing == 0
    assert "Traceback" not in program.log.read_text()


@pytest.mark.limit(120)
def test_a_worker_makes_no_call_but_for_packets(names: Names, tmp_path: Path) -> None:
    """In steady state: no execve anywhere, and the NTP record costs no system call."""
    strace = needs("strace")
    needs_root()
    channels = (ChannelSpec("WWV 5 MHz", 5_000_000),)
    with running_simulator(spec(names, channels, tmp_path / "truth")) as ready:
        config = write_config(names, ready, channels, tmp_path)
        with running(config, tmp_path) as (program, _child):
            wait_for(lambda: receiving(program), 10, "packets")
            wait_for(lambda: program.status()["ntp"]["synced"], 10, "the NTP verdict")
            # Around the minute a file is written; that has calls of its own.
            wait_for(lambda: 15 < time.time() % 60 < 40, 45, "the middle of a minute")
            calls = {name: _trace(strace, pid, tmp_path / name) for name, pid in program.pids().items()}
    assert not any("execve" in found or "fork" in found or "clone" in found for found in calls.values())
    # Packets and statuses are taken and put into the journal, how many there are and the parent are asked for, the loop
    # sleeps; nothing else, but that its own heap may grow.
    expected = {
        "recvmmsg", "pwritev", "pwritev2", "recvmsg", "recvfrom", "getsockopt", "poll", "ppoll", "getppid",
        "restart_syscall", "brk",
    }  # fmt: skip
    assert set(calls["WWV_5_MHz"]) <= expected
    # A second's packets, some fifty, come with one call.
    assert 1 <= calls["WWV_5_MHz"].get("recvmmsg", 0) < 20


def _trace(strace: str, pid: int, out: Path) -> dict[str, int]:
    """Names and counts of the system calls that a process makes in about two seconds."""
    tracer = subprocess.Popen([strace, "-f", "-qq", "-o", str(out), "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: out.exists() and len(out.read_text().splitlines()) > 60, 20, f"system calls of {pid}")
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    names = (line.split(None, 1)[1].split("(")[0].strip() for line in out.read_text().splitlines() if "(" in line)
    return {name: len(list(group)) for name, group in itertools.groupby(sorted(names))}
