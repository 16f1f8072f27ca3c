"""The real program on a simulated station, for tests that need processes, sockets and time."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import REPOSITORY, Names, wait_for
from pipeline.shm import Board
from pipeline.simulator.spec import ChannelSpec, SimulatorSpec, ntp_farm
from pipeline.simulator.station import Ready


@dataclass(frozen=True)
class Program:
    """A running instance of the program."""

    config: Path
    data_dir: Path
    log: Path
    environment: dict[str, str]

    def run(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """One command of the program against this instance."""
        command = [sys.executable, "-m", "pipeline", *words, "-c", str(self.config)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=self.environment, check=False
        )

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def pids(self) -> dict[str, int]:
        """Name to pid of every process, from the shared record."""
        return {p["name"]: p["pid"] for p in self.status()["processes"] if p["pid"]}


def spec(names: Names, channels: tuple[ChannelSpec, ...], truth: Path, **facts: Any) -> SimulatorSpec:
    """A simulated station on this test's own groups, with four NTP servers."""
    first, second, third, fourth = names.group.split(".")
    control = f"{first}.{second}.{third}.{(int(fourth) + 128) % 256}"
    return SimulatorSpec(
        channels=channels,
        data_address=(names.group, 5004),
        status_address=(control, 5006),
        programme=facts.pop("programme", "counter"),
        truth=truth,
        ntp_servers=ntp_farm(4),
        **facts,
    )


def write_config(
    names: Names, ready: Ready, channels: tuple[ChannelSpec, ...], folder: Path, more: str = "", grace_s: float = 2.0
) -> Path:
    """A configuration that hears that station."""
    servers = ", ".join(f'"{host}:{port}"' for host, port in ready.ntp_addresses)
    text = f"""
[recorder]
instance = "{names.instance}"
data_dir = "{folder / "data"}"
min_free_gb = 0.0
late_packet_grace_s = {grace_s}
[radiod]
data_address = "{names.group}:5004"
interface = "lo"
create_channels = false
[ntp]
sources = ["servers"]
servers = [{servers}]
{more}
"""
    for channel in channels:
        text += (
            f'[[channels]]\nname = "{channel.name}"\nfrequency_hz = {int(channel.frequency_hz)}\n'
            f"ssrc = {channel.ssrc}\n"
            f'sample_rate_hz = {channel.sample_rate_hz}\nencoding = "{channel.encoding}"\n'
        )
        if channel.data_address is not None:
            text += f'data_address = "{channel.data_address[0]}:{channel.data_address[1]}"\n'
    path = folder / "grape.toml"
    path.write_text(text)
    return path


def environment_of(folder: Path) -> dict[str, str]:
    """For the program when it runs in `folder`, with what bin/grape-pipeline sets."""
    return {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_RUNTIME_DIR": str(folder), "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "2097152",
    }  # fmt: skip


@contextmanager
def running(config: Path, folder: Path, deadline_s: float = 20.0) -> Iterator[tuple[Program, subprocess.Popen[bytes]]]:
    """`start` in the foreground, ready when every channel has taken a packet; killed at the end if still there."""
    environment = environment_of(folder)
    program = Program(config, folder / "data", folder / "log", environment)
    with program.log.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "start", "-c", str(config)], stdout=log, stderr=log, env=environment
        )
        try:
            wait_for(
                lambda: "supervisor pid" in program.log.read_text() or child.poll() is not None, deadline_s, "the start"
            )
            assert child.poll() is None, program.log.read_text()
            yield program, child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(30)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def receiving(program: Program) -> bool:
    """True when every channel has packets."""
    return all(channel["packets_received"] > 0 for channel in program.status()["channels"])


def kill_a_worker(board: Board, chance: random.Random, dead: set[int]) -> bool:
    """SIGKILL for a random worker whose pid is not in `dead`, where it then is; False when there is none now."""
    records = [cell.read() for cell in board.children[2:]]
    living = [record.pid for record in records if record.pid and record.pid not in dead]
    if not living:
        return False
    victim = chance.choice(living)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    dead.add(victim)
    return True


def ps(pattern: str) -> dict[int, tuple[str, str]]:
    """pid to (comm, title) of the processes whose title matches."""
    listing = subprocess.run(["ps", "-eo", "pid=,comm=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listing.splitlines())
    return {int(row[0]): (row[1], row[2].strip()) for row in rows if len(row) == 3 and re.match(pattern, row[2])}
