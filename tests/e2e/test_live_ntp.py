"""The NTP monitor hung and killed under a real worker: files and status say how old its word is."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import pytest

from e2e.live import Program, receiving, running, spec, write_config
from helpers import Names, wait_for
from pipeline import npz
from pipeline.simulator.spec import ChannelSpec
from pipeline.simulator.station import running_simulator

STALE_S = 2.0
# A killed monitor stays dead and a stopped one is left alone, so that their records grow old.
SETTINGS = f"""publish_interval_s = 0.5
stale_after_s = {STALE_S}
[supervisor]
backoff_initial_s = 600.0
backoff_max_s = 600.0
monitor_heartbeat_timeout_s = 600.0
"""


@pytest.mark.limit(120)
def test_files_say_when_the_monitor_hangs_or_is_dead(names: Names, tmp_path: Path) -> None:
    """A minute that ends while the monitor is stopped, and one that is cut off after it was killed."""
    channels = (ChannelSpec("WWV 5 MHz", 5_000_000),)
    with running_simulator(spec(names, channels, tmp_path / "truth")) as ready:
        config = write_config(names, ready, channels, tmp_path, SETTINGS)
        with running(config, tmp_path) as (program, child):
            wait_for(lambda: receiving(program) and program.status()["ntp"]["synced"], 20, "packets and a verdict")
            wait_for(lambda: time.time() % 60 < 60 - 2 * STALE_S, 10, "time enough in this minute")
            monitor = program.pids()["ntp"]
            stopped = time.time()
            os.kill(monitor, signal.SIGSTOP)
            _check_status(program)
            boundary = (stopped // 60 + 1) * 60
            first = wait_for(lambda: _file(program, boundary - 60), 75, "the minute's file")
            os.kill(program.pids()["ntp"], signal.SIGCONT)
            wait_for(lambda: program.status()["ntp"]["synced"], 10, "the verdict of the monitor that goes on")
            before = program.pids()
            killed = time.time()
            os.kill(before["ntp"], signal.SIGKILL)
            _check_status(program)
            assert program.pids()["WWV_5_MHz"] == before["WWV_5_MHz"]
            child.send_signal(signal.SIGTERM)
            assert child.wait(40) == 0
            ended = time.time()
    _check_file(first, boundary - stopped, boundary - stopped)
    second = _file(program, boundary)
    assert second is not None
    _check_file(second, STALE_S, ended - killed)
    assert "Traceback" not in program.log.read_text()


def _check_status(program: Program) -> None:
    """It soon says unsynced, with an age that grows, though the last offset is still shown."""
    old = wait_for(lambda: not (s := program.status())["ntp"]["synced"] and s["ntp"], 15, "unsynced")
    assert (old["valid"], old["state"]) == (False, "unsynced")
    assert old["age_s"] > STALE_S
    wait_for(lambda: program.status()["ntp"]["age_s"] > old["age_s"] + 0.5, 10, "the age to grow")
    assert program.run("status").returncode == 1


def _file(program: Program, minute: float) -> Path | None:
    label = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(minute))
    found = list(program.data_dir.rglob(f"{label}_*.npz"))
    return found[0] if found else None


def _check_file(path: Path, least_s: float, most_s: float) -> None:
    """`least_s` and `most_s` are since the monitor published for the last time, at the minute's end."""
    file = npz.read(path)
    assert not file["ntp_valid"] and not file["ntp_synced"] and file["ntp_state"] == "unsynced"
    # Up to a cycle and a bit lies between the measurement and the monitor's end.
    assert least_s - 0.1 < file["ntp_age_s"] < most_s + 3.0
    assert math.isfinite(file["ntp_offset_ms"])
    assert file["time_snap_source"] != "ntp"
    # What was known of the host's clock is not lost with the monitor: labels stay good.
    assert file["anchor_uncertainty_ns"] < 100e6
