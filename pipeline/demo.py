"""The main job on embedded sources: simulated radiod and NTP servers, the real pipeline, and a check.

Everything is on loopback. The recorder is started as anybody would start it, in processes
of its own; what it wrote is then held against what the simulator says it sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import PipelineError, npz
from pipeline.config import ConfigError, parse_config
from pipeline.minutefile import ARCHIVES
from pipeline.process import Lifeline
from pipeline.shm import Board, SharedMemoryError
from pipeline.simulator.spec import WWV_CHU, ChannelSpec, SimulatorSpec, ntp_farm
from pipeline.simulator.station import Ready, running_simulator
from pipeline.simulator.truth import Timeline, Truth, expected_iq

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 40.0
# After the last minute: the grace period, the writers' stagger and the writing itself.
WRITE_DEADLINE_S = 30.0
NTP_SERVERS = 10


class DemoError(PipelineError):
    """The demo could not be brought up or down."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file held against the truth: label error (ns), samples that differ, and what it says of itself."""

    path: Path
    channel: str
    completeness_pct: float
    gaps: int
    lost: int
    label_error_ns: int
    uncertainty_ns: int
    wrong_samples: int
    ntp_state: str
    ntp_offset_ms: float

    @property
    def sound(self) -> bool:
        """Complete, bit-exact and labelled within its own bound."""
        return (
            self.completeness_pct == 100.0
            and self.wrong_samples == 0
            and self.label_error_ns <= self.uncertainty_ns
            and self.ntp_state == "synced"
        )


def config_text(data_dir: Path, instance: str, group: str, ready: Ready) -> str:
    """The configuration that the demo runs, for the nine channels."""
    servers = ", ".join(f'"{host}:{port}"' for host, port in ready.ntp_addresses)
    lines = [
        "[station]",
        'callsign = "DEMO"',
        "[recorder]",
        f'instance = "{instance}"',
        f"data_dir = {json.dumps(str(data_dir), ensure_ascii=False)}",  # also TOML's way to quote
        "min_free_gb = 0.0",
        "partial_minutes = false",
        "[radiod]",
        f'data_address = "{group}:5004"',
        'interface = "lo"',
        "create_channels = false",
        "[ntp]",
        'sources = ["servers"]',
        f"servers = [{servers}]",
    ]
    for channel in WWV_CHU:
        lines += ["[[channels]]", f'name = "{channel.name}"', f"frequency_hz = {int(channel.frequency_hz)}"]
    return "\n".join(lines) + "\n"


@contextmanager
def running_pipeline(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`grape-pipeline start` for the length of the block; stopped in order at its end."""
    command = [sys.executable, "-m", "pipeline", "start", "-c", str(config)]
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def open_board(instance: str, child: subprocess.Popen[bytes], log: Path) -> Board:
    """The running instance's board; DemoError with the log's end when it does not come up."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            return Board.open(instance)
        except SharedMemoryError:
            time.sleep(0.05)
    tail = log.read_text(errors="replace").splitlines()[-5:]
    raise DemoError("the pipeline did not start: " + " | ".join(tail))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the demo is: files that are complete, and what the channels are doing."""

    elapsed_s: float
    files: int
    wanted: int
    running_pct: float
    ntp: str


def record(minutes: int, data_dir: Path, report: Callable[[Progress], None]) -> tuple[list[Checked], Path]:
    """Record `minutes` complete minutes of the nine channels into `data_dir` and check them.

    Returns a row per file and the folder of the logs and truth. Raises DemoError.
    """
    data_dir = data_dir.absolute()
    work = data_dir / "demo"
    work.mkdir(parents=True, exist_ok=True)
    instance = f"demo-{os.getpid()}"
    number = os.getpid()
    group = f"239.86.{number >> 8 & 0xFF}.{number & 0xFF}"
    truth, log = work / f"truth-{number}.jsonl", work / f"pipeline-{number}.log"
    spec = SimulatorSpec(
        data_address=(group, 5004),
        status_address=(f"239.87.{number >> 8 & 0xFF}.{number & 0xFF}", 5006),
        truth=truth,
        ntp_servers=ntp_farm(NTP_SERVERS),
    )
    with running_simulator(spec) as ready:
        config = work / f"config-{number}.toml"
        config.write_text(config_text(data_dir, instance, group, ready))
        check_config(config)
        with running_pipeline(config, log) as child:
            board = open_board(instance, child, log)
            before = set(files_of(data_dir))
            _wait(minutes, data_dir, before, board, child, report)
        fresh = sorted(set(files_of(data_dir)) - before)
    sent = Truth.read(truth)
    return [check(path, sent) for path in fresh], work


def check_config(path: Path) -> None:
    """The demo's own configuration must be sound; a folder with odd characters may spoil it."""
    try:
        parse_config(path.read_text(), path)
    except ConfigError as error:
        raise DemoError(f"the demo's configuration is not sound: {error}") from error


def files_of(data_dir: Path) -> list[Path]:
    """All minute files below `data_dir`."""
    return list((data_dir / ARCHIVES).rglob("*_iq.npz"))


def _wait(
    minutes: int,
    data_dir: Path,
    before: set[Path],
    board: Board,
    child: subprocess.Popen[bytes],
    report: Callable[[Progress], None],
) -> None:
    """Until every channel has `minutes` new files; DemoError if that takes longer than it can."""
    wanted = minutes * len(WWV_CHU)
    begin = time.monotonic()
    deadline = begin + 60 * (minutes + 1) + WRITE_DEADLINE_S
    stop = Lifeline(os.getppid())
    while True:
        now = time.monotonic()
        channels = [board.channels[i].read() for i in range(len(WWV_CHU))]
        fills = [c.minute_fill_pct for c in channels if c.minute_fill_pct == c.minute_fill_pct]
        ntp = board.ntp.read().at(time.monotonic_ns(), 30.0)
        done = sum(min(minutes, c.minutes_written) for c in channels)
        report(Progress(now - begin, done, wanted, min(fills, default=0.0), str(ntp["state"])))
        if done >= wanted and len(set(files_of(data_dir)) - before) >= wanted:
            return
        if child.poll() is not None:
            raise DemoError(f"the pipeline ended with status {child.returncode}; see its log below {data_dir / 'demo'}")
        if now > deadline:
            raise DemoError(f"only {done} of {wanted} files after {now - begin:.0f} s")
        if stop.stopping():
            raise DemoError("stopped")
        stop.wait(0.5)


def check(path: Path, truth: Truth) -> Checked:
    """Hold one file against the simulator's truth."""
    values = npz.read(path)
    timeline = _timeline(values, truth)
    error, wrong = 1 << 62, len(values["iq"])
    if timeline is not None:
        frame = timeline.frame(values["rtp_timestamp"])
        error = abs(int(values["sample0_utc_ns"]) - timeline.utc_ns(frame))
        wrong = wrong_samples(values["iq"], timeline, values["rtp_timestamp"])
    return Checked(
        path=path,
        channel=values["channel_name"],
        completeness_pct=values["completeness_pct"],
        gaps=values["gaps_count"],
        lost=values["packets_lost"],
        label_error_ns=error,
        uncertainty_ns=values["anchor_uncertainty_ns"],
        wrong_samples=wrong,
        ntp_state=values["ntp_state"],
        ntp_offset_ms=values["ntp_offset_ms"],
    )


def _timeline(values: dict[str, Any], truth: Truth) -> Timeline | None:
    lines = truth.of(values["rtp_ssrc"])
    utc, rtp = values["sample0_utc_ns"], values["rtp_timestamp"]
    return min(lines, key=lambda line: abs(line.utc_ns(line.frame(rtp)) - utc), default=None)


def wrong_samples(iq: np.ndarray[Any, Any], timeline: Timeline, rtp: int) -> int:
    """How many samples are not what the simulator made for that timestamp."""
    pairs = expected_iq(timeline, rtp, len(iq))
    sent = (pairs.astype(np.float32) / np.float32(32768)).view(np.complex64).reshape(-1)
    return int(np.count_nonzero(sent != iq))


__all__ = ["ChannelSpec", "Checked", "DemoError", "Progress", "check", "record"]
