"""The supervisor dies or is replaced in mid-minute: what nobody could receive is listed, all else is in the file."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from e2e.live import Program, environment_of, receiving, running, spec, write_config
from helpers import SHARED_MEMORY, Names, wait_for
from pipeline.simulator.spec import ChannelSpec
from pipeline.simulator.station import running_simulator
from pipeline.simulator.truth import Truth
from pipeline.supervision.instance import alive
from process.service_manager import ServiceManager, service_manager
from truthcheck import Verdict, check_simulated, load_tree

CHANNELS = (ChannelSpec("WWV 5 MHz", 5_000_000), ChannelSpec("WWV 10 MHz", 10_000_000, encoding="F32LE"))
JOINED = 160_000


def gaps(program: Program, ssrc: int) -> list[tuple[str, float, float]]:
    """(cause, begin, end) of every gap but those at the ends of the recording, UTC s."""
    found = []
    for values in load_tree(program.data_dir, ssrc):
        rows = zip(values["gap_cause"], values["gap_sample_indices"], values["gap_samples_filled"], strict=True)
        for cause, index, count in rows:
            begin = values["sample0_utc_ns"] / 1e9 + int(index) / values["sample_rate"]
            if cause not in ("start", "stop"):
                found.append((str(cause), begin, begin + int(count) / values["sample_rate"]))
    return found


def verdicts(program: Program, sent: Truth, excused: tuple[str, ...]) -> list[Verdict]:
    return [check_simulated(program.data_dir, sent, channel.ssrc, JOINED, excused) for channel in CHANNELS]


@pytest.mark.limit(150)
def test_only_the_time_without_a_process_is_missing(names: Names, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    with running_simulator(spec(names, CHANNELS, truth)) as ready:
        config = write_config(names, ready, CHANNELS, tmp_path)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 10, "packets on every channel")
            pids = program.pids()
            workers = [pids[name] for name in pids if name.startswith("WWV")]
            time.sleep(2)
            killed = time.time()
            child.kill()
            child.wait()
            wait_for(lambda: not any(map(alive, workers)), 5, "the workers to leave")
            gone = time.time()
        assert gone - killed < 2.5
        time.sleep(2)
        began = time.time()
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program), 10, "packets on every channel")
            up = time.time()
            time.sleep(2)
            sent = Truth.read(truth)  # the simulator goes on longer than we
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
    for channel, verdict in zip(CHANNELS, verdicts(program, sent, ("restart",)), strict=True):
        assert not verdict.faults, "\n".join(verdict.faults[:10])
        found = gaps(program, channel.ssrc)
        # Labels may be off by some milliseconds, packets are 20 ms long; a minute may have ended meanwhile.
        assert {cause for cause, _, _ in found} == {"restart"}
        assert killed - 0.05 < found[0][1] < gone + 0.05 and began < found[-1][2] < up + 0.05
        assert len(found) == 1 or (len(found) == 2 and found[0][2] == pytest.approx(found[1][1], abs=0.05))
    assert not list((program.data_dir / "parts").rglob("*.npz"))
    assert not list(SHARED_MEMORY.glob(f"grape-pipeline-{names.instance}*"))


def kill_all(manager: ServiceManager, pids: dict[str, int]) -> None:
    """The supervisor by SIGKILL, then whatever is left of the service, as systemd does (KillMode=mixed)."""
    assert manager.process is not None
    manager.process.kill()
    manager.process.wait()
    for pid in pids.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids.values())), 5, "the end of all")


@pytest.mark.limit(150)
def test_with_the_socket_store_nothing_is_missing(names: Names, tmp_path: Path) -> None:
    """Neither when everything is killed at once nor when systemd starts the service again for an upgrade."""
    truth = tmp_path / "truth"
    with running_simulator(spec(names, CHANNELS, truth)) as ready, service_manager(tmp_path) as manager:
        config = write_config(names, ready, CHANNELS, tmp_path)
        environment = environment_of(tmp_path)
        program = Program(config, tmp_path / "data", tmp_path / "log", environment)
        command = [sys.executable, "-m", "pipeline", "start", "-c", str(config)]

        def start() -> None:
            with program.log.open("ab") as log:
                manager.start(command, environment, log)
            wait_for(lambda: receiving(program), 10, "packets on every channel")

        start()
        time.sleep(2)
        kill_all(manager, program.pids())
        time.sleep(2)
        start()
        time.sleep(1)
        assert manager.process is not None
        manager.process.send_signal(signal.SIGUSR2)
        assert manager.process.wait(20) == 0
        time.sleep(2)
        start()
        time.sleep(1)
        sent = Truth.read(truth)
        manager.process.terminate()
        assert manager.process.wait(40) == 0
        kept = sorted((name.split("/")[0], name.split("/")[2]) for name in manager.kept)
        assert kept == [(channel, role) for channel in ("WWV_10_MHz", "WWV_5_MHz") for role in ("data", "status0")]
    for channel, verdict in zip(CHANNELS, verdicts(program, sent, ()), strict=True):
        assert not verdict.faults, "\n".join(verdict.faults[:10])
        assert gaps(program, channel.ssrc) == []
    assert not list((program.data_dir / "parts").rglob("*.npz")), "a restart must not cut a minute in two"
    assert "Traceback" not in program.log.read_text()
