"""Real chronyd daemons as servers and as the local source: the numbered cases that need them.

A daemon that follows another with `offset 0.25` is a complete and consistent falseticker.
One with a faked clock is not: the kernel's receive stamps stay true.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from helpers import wait_for
from ntp_daemons import ROOT, Daemon, chronyds, faketime, follows
from pipeline.config import Ntp
from pipeline.ntp import chronyd, clock
from pipeline.ntp.loop import Loop
from pipeline.ntp.once import Measurement, measure_once
from pipeline.ntp.reading import Absence, Reading
from pipeline.ntp.report import Report
from pipeline.ntp.rows import RowState
from pipeline.records import NtpState

TOP = "127.0.0.101"
FOLLOWER = follows(TOP)


@dataclass(frozen=True)
class Daemons:
    """A free-running one, three that follow it, one of these 0.25 s off, one without a source."""

    top: Daemon
    followers: tuple[Daemon, ...]
    liar: Daemon
    lost: Daemon

    def config(self, source: Daemon | None = None, **changes: object) -> Ntp:
        """The followers as servers, and `source` as the local daemon."""
        base = Ntp(
            sources=("chronyd", "servers") if source else ("servers",),
            servers=tuple(d.server for d in self.followers),
            chronyd_address=source.command_address if source else "127.0.0.1:1",
        )
        return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    liar = follows(TOP, more="offset 0.25")
    directives = {f"127.0.0.{101 + i}": text for i, text in enumerate([ROOT, FOLLOWER, FOLLOWER, FOLLOWER, liar, ""])}
    with chronyds(tmp_path_factory.mktemp("chronyd"), directives) as (top, *followers, off, lost):
        wait_for(lambda: all(d.settled() for d in (*followers, off)), 20, "synchronised daemons")
        yield Daemons(top, tuple(followers), off, lost)


def measured(d: Daemons, *servers: Daemon, **changes: object) -> Measurement:
    return measure_once(d.config(servers=tuple(s.server for s in (*servers, *d.followers)), **changes))


def test_case_11_free_running_server(daemons: Daemons) -> None:
    found = measured(daemons, daemons.top)
    assert found.record.synced and found.servers[0].reason == "local-ref"
    allowed = measured(daemons, daemons.top, allow_local_reference=True)
    assert allowed.servers[0].reason == "" and allowed.record.truechimers == 4


def test_case_02_server_without_a_source(daemons: Daemons) -> None:
    found = measured(daemons, daemons.lost)
    assert found.record.synced and found.servers[0].reason == "unsync"


def test_case_13_server_whose_stamps_do_not_belong_together(daemons: Daemons, tmp_path: Path) -> None:
    host = "127.0.0.110"
    with chronyds(tmp_path, {host: "local stratum 5"}, {host: faketime("+0.25")}) as (faked,):
        wait_for(lambda: chronyd.read("127.0.0.1", faked.command_port).reason != "absent", 20, "the daemon")  # type: ignore[union-attr]
        found = measured(daemons, faked, allow_local_reference=True)
    assert found.record.synced and found.servers[0].reason == "neg-delay"


def test_case_26_and_53_real_falseticker_has_the_same_sign_seen_twice(daemons: Daemons) -> None:
    """As a server it is ahead of this host; as the local daemon it says that the host is slow."""
    found = measured(daemons, daemons.liar)
    assert found.record.synced and abs(found.record.offset_ms) <= found.record.uncertainty_ms
    assert found.servers[0].state is RowState.FALSETICKER
    assert found.servers[0].offset_ms == pytest.approx(-250.0, abs=1.0)
    reading = chronyd.read("127.0.0.1", daemons.liar.command_port)
    assert isinstance(reading, Reading) and reading.theta_s == pytest.approx(0.25, abs=1e-3)
    alone = measure_once(daemons.config(daemons.liar, sources=("chronyd",)))
    assert alone.record.offset_ms == pytest.approx(-250.0, abs=1.0)
    by_program = measure_once(daemons.config(daemons.liar, sources=("chronyc",)))
    assert by_program.record.offset_ms == pytest.approx(-250.0, abs=1.0)
    assert by_program.record.source == f"chronyc:{TOP}"


def test_healthy_daemon_is_the_source(daemons: Daemons) -> None:
    found = measure_once(daemons.config(daemons.followers[0]))
    assert found.record.synced and found.record.source == f"chronyd:{TOP}"
    assert found.record.truechimers == 3


@pytest.mark.parametrize("source", ["chronyd", "chronyc"])
def test_case_50_daemon_that_follows_its_own_clock(daemons: Daemons, source: str) -> None:
    found = measure_once(daemons.config(daemons.top, sources=(source, "servers")))
    assert found.local[source] == "follows its own clock (local)"
    assert found.record.synced and found.record.source.startswith("servers:")


@pytest.mark.parametrize("source", ["chronyd", "chronyc"])
def test_case_51_unsynchronised_daemon_is_not_an_offset_of_zero(daemons: Daemons, source: str) -> None:
    found = measure_once(daemons.config(daemons.lost, sources=(source,)))
    assert found.local[source] == "not synchronised"
    assert (found.record.valid, found.record.state) == (0, NtpState.UNSYNCED)


def test_case_54_error_of_a_daemon_is_not_its_offset(daemons: Daemons) -> None:
    """In `chronyc sources` the last column is the error; the one before, the measured offset, looks like one."""
    reading = chronyd.read("127.0.0.1", daemons.liar.command_port)
    (source,) = daemons.liar.sources()
    assert len(source) == 10 and source[2] == TOP
    error_s = float(source[9])
    assert isinstance(reading, Reading)
    assert error_s < reading.bound_s < 100 * error_s + 1e-3 < abs(reading.theta_s)


def test_case_57_daemon_and_servers_contradict_each_other(daemons: Daemons) -> None:
    found = measure_once(daemons.config(daemons.liar))
    assert (found.record.valid, found.record.synced, found.record.flags & 1) == (1, 0, 1)
    assert abs(found.record.offset_ms) < 1.0, "the servers' word is published"


def test_case_49_hung_killed_and_restarted_daemon(daemons: Daemons) -> None:
    """The servers take over each time, and the daemon when it is back; publication goes on."""
    victim = daemons.followers[2]
    seen: list[Report] = []
    loop = Loop(daemons.config(victim, publish_interval_s=0.1, synced_within_ms=1000.0), seen.append)

    def until(source: str, says: str) -> None:
        def there() -> bool:
            last = seen[-1] if seen else None
            return last is not None and last.record.source.startswith(source) and says in last.local.get("chronyd", "")

        end = clock.read().monotonic + 20 * 10**9
        loop.run(lambda: there() or clock.read().monotonic > end)
        assert there(), seen[-1]

    try:
        until("chronyd:", TOP)
        victim.send(signal.SIGSTOP)
        until("servers:", "does not answer")
        victim.send(signal.SIGCONT)
        until("chronyd:", TOP)
        victim.kill()
        until("servers:", "absent")
        victim.start()
        until("chronyd:", TOP)
    finally:
        loop.close()
        if victim.process is None:
            victim.start()
    assert all(report.record.valid for report in seen[1:])
    published = [report.record.published_monotonic_ns for report in seen]
    assert max(b - a for a, b in pairwise(published)) < 1.1e9


def test_case_52_daemon_whose_servers_are_gone_is_not_believed_for_ever(daemons: Daemons) -> None:
    """It goes on saying "normal". What it says now, judged later: the bound grows, then it is over."""
    daemons.top.send(signal.SIGSTOP)
    try:
        reply = tracking(daemons.followers[0])
        now = clock.read()

        def later(seconds: float) -> Reading | Absence:
            return chronyd.parse(reply, replace(now, realtime=now.realtime + int(seconds * 1e9)))

        young, old, gone = later(0), later(200), later(300)
        assert isinstance(young, Reading) and isinstance(old, Reading)
        assert old.bound_s - young.bound_s == pytest.approx(200 * 15e-6, rel=0.1)
        assert isinstance(gone, Absence) and gone.reason.startswith("last heard from its servers 30")
    finally:
        daemons.top.send(signal.SIGCONT)


def tracking(daemon: Daemon) -> bytes:
    """Its tracking report as it comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect(("127.0.0.1", daemon.command_port))
        s.send(chronyd.request(7))
        return s.recv(1024)


def test_case_42_host_clock_that_is_faked(daemons: Daemons, tmp_path: Path) -> None:
    """The whole program under a wrong clock: the kernel's stamps, which are not faked, must not be believed."""
    servers = ", ".join(f'"{d.server}"' for d in daemons.followers)
    path = tmp_path / "grape.toml"
    path.write_text(f'[ntp]\nsources = ["servers"]\nservers = [{servers}]\n')
    command = [sys.executable, "-m", "pipeline", "ntp", "--json", "-c", str(path)]
    running = {}
    for shift_s in (-3, 3, -3600, 400 * 86400):
        environment = {**os.environ, **faketime(f"{shift_s:+d}", "libfaketimeMT.so.1")}
        running[shift_s] = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    for shift_s, process in running.items():
        text, _ = process.communicate(timeout=60)
        verdict = json.loads(text)["verdict"]
        assert (process.returncode, verdict["valid"], verdict["synced"]) == (1, True, False)
        assert verdict["offset_ms"] == pytest.approx(shift_s * 1e3, abs=50.0)
