"""A real network in namespaces: cable out, adapter pulled, a switch that forgets, radiod that comes and goes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.live import Program, environment_of, spec, write_config
from helpers import REPOSITORY, Names, needs, needs_root, wait_for
from pipeline.shm import Board, SharedMemoryError
from pipeline.simulator.spec import ChannelSpec, SimulatorSpec, spec_to_json
from pipeline.simulator.station import Ready
from pipeline.simulator.truth import Truth
from truthcheck import check_simulated, load_tree

CHANNELS = (ChannelSpec("WWV 5 MHz", 5_000_000), ChannelSpec("WWV 10 MHz", 10_000_000))
# A minute that ends in the silence is written before anybody knows what comes after it.
GONE = ("network", "unknown")
NOWHERE = Ready(0, 0, 0, (("127.0.0.1", 1),))


class Lan:
    """radiod's host with a switch (`br0`), and ours, which hangs on it by `gp0`; nothing leads out."""

    def __init__(self, tag: str) -> None:
        self.radiod, self.ours = f"gpr{tag}", f"gpo{tag}"

    def sh(self, where: str, commands: str) -> None:
        command = ["ip", "netns", "exec", where, "sh", "-ec", commands]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
        assert done.returncode == 0, f"{commands}: {done.stderr}"

    def make(self) -> None:
        for namespace in (self.radiod, self.ours):
            subprocess.run(["ip", "netns", "add", namespace], check=True, env=_environment())
            self.sh(namespace, "ip link set lo up")
        self.sh(
            self.radiod,
            "ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100000\n"
            "ip addr add 10.77.0.1/24 dev br0; ip link set br0 up",
        )
        self.plug_in()

    def plug_in(self) -> None:
        """A new adapter with the old one's name and address."""
        self.sh(self.radiod, f"ip link add gp1 type veth peer name gp0 netns {self.ours}; ip link set gp1 master br0")
        # Groups go where they were asked for, as on a switch that snoops, and nowhere else.
        self.sh(self.radiod, "bridge link set dev gp1 mcast_flood off; ip link set gp1 up")
        self.sh(self.ours, "ip addr add 10.77.0.2/24 dev gp0; ip link set gp0 up")

    def forget(self, group: str) -> None:
        """The switch no longer knows that we want the group."""
        self.sh(self.radiod, f"bridge mdb del dev br0 port gp1 grp {group}")

    def close(self) -> None:
        for namespace in (self.radiod, self.ours):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


@pytest.fixture
def lan(names: Names) -> Iterator[Lan]:
    needs_root()
    needs("ip")
    needs("bridge")
    found = Lan(names.instance[1:])
    try:
        found.make()
        yield found
    finally:
        found.close()


@contextmanager
def radiod(lan: Lan, station: SimulatorSpec) -> Iterator[None]:
    """The simulated radiod on its host."""
    command = ["ip", "netns", "exec", lan.radiod, sys.executable, "-m", "pipeline.simulator"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), cwd=REPOSITORY)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(spec_to_json(station).encode() + b"\n")
        child.stdin.flush()
        assert select.select([child.stdout], [], [], 15)[0], "the simulator is not ready"
        json.loads(child.stdout.readline())
        yield
    finally:
        child.terminate()
        child.wait(10)
        child.stdin.close()
        child.stdout.close()


@contextmanager
def recorder(lan: Lan, config: Path, folder: Path) -> Iterator[tuple[Program, subprocess.Popen[bytes]]]:
    program = Program(config, folder / "data", folder / "log", environment_of(folder))
    with program.log.open("wb") as log:
        child = subprocess.Popen(
            ["ip", "netns", "exec", lan.ours, sys.executable, "-m", "pipeline", "start", "-c", str(config)],
            stdout=log, stderr=log, env={**program.environment, "PATH": _environment()["PATH"]},
        )  # fmt: skip
        try:
            yield program, child
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(40)


def board_of(names: Names) -> Board | None:
    try:
        return Board.open(names.instance)
    except SharedMemoryError:
        return None


class Ears:
    """What the channels hear."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def ages_s(self) -> list[float]:
        """Seconds since each channel's last packet."""
        now = time.monotonic_ns()
        records = [self._board.channels[i].read() for i in range(len(CHANNELS))]
        return [(now - record.last_packet_monotonic_ns) / 1e9 for record in records]

    def hear(self, deadline_s: float, what: str) -> None:
        wait_for(lambda: max(self.ages_s()) < 1.5, deadline_s, what)

    def are_deaf(self) -> None:
        wait_for(lambda: min(self.ages_s()) > 2.5, 10, "silence")


@pytest.mark.root
@pytest.mark.limit(200)
def test_what_networks_do(names: Names, lan: Lan, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    station = spec(names, CHANNELS, truth, interface="br0", ttl=1)
    station = SimulatorSpec(**{**{f: getattr(station, f) for f in station.__slots__}, "ntp_servers": ()})
    config = write_config(names, NOWHERE, CHANNELS, tmp_path)
    config.write_text(config.read_text().replace('"lo"', '"gp0"'))
    with recorder(lan, config, tmp_path) as (program, child):
        # radiod is not there at the start.
        board = wait_for(lambda: board_of(names), 15, "the start")
        wait_for(lambda: "silent for 8 s, joined again" in program.log.read_text(), 20, "the first attempt")
        with radiod(lan, station):
            ears = Ears(board)
            ears.hear(20, "radiod that came late")
            lan.sh(lan.ours, "ip link set gp0 down")
            ears.are_deaf()
            lan.sh(lan.ours, "ip link set gp0 up")
            ears.hear(10, "the cable that was put back")
            lan.forget(names.group)
            ears.are_deaf()
            ears.hear(15, "the group that the switch had forgotten")
            lan.sh(lan.ours, "ip link del gp0")
            ears.are_deaf()
            lan.plug_in()
            ears.hear(30, "the adapter that was plugged in again")
            time.sleep(2)
            sent = Truth.read(truth)
        child.send_signal(signal.SIGTERM)
        assert child.wait(40) == 0
    for channel in CHANNELS:
        verdict = check_simulated(program.data_dir, sent, channel.ssrc, 20 * channel.sample_rate_hz, GONE)
        assert not verdict.faults, "\n".join(verdict.faults[:10])
        causes = [c for v in load_tree(program.data_dir, channel.ssrc) for c in v["gap_cause"].tolist()]
        assert causes.count("network") >= 3 and set(causes) <= {*GONE, "start", "stop"}
    assert "Traceback" not in program.log.read_text()
