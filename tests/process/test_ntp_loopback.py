"""Measuring against servers on loopback: in threads, and real chronyd daemons."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import needs, wait_for
from ntp_farm import KISS_RATE, Answer, Fakes, Reply, closed_port, fakes, good, saying, silent
from pipeline.cli.ntp import ntp as ntp_command
from pipeline.config import Ntp, Server
from pipeline.ntp import chronyd
from pipeline.ntp.once import Measurement, measure_once
from pipeline.ntp.reading import Reading
from pipeline.ntp.rows import Row, RowState

GOOD_STATES = (RowState.SYSTEM_PEER, RowState.COMBINED, RowState.NOT_COMBINED)


def config(farm: Fakes, *more: Server, **changes: object) -> Ntp:
    base = Ntp(sources=("servers",), servers=(*farm.servers, *more), timeout_s=0.3)
    return replace(base, **changes)  # type: ignore[arg-type]


def measured(*answers: Answer, **changes: object) -> tuple[Measurement, Fakes]:
    with fakes(*answers) as farm:
        return measure_once(config(farm, **changes)), farm


def only_bad(*answers: Answer, good_ones: int = 4) -> Row:
    """The row of the first of `answers`; the others are good, and nothing of theirs may suffer."""
    found, _ = measured(*answers, *[good] * good_ones)
    assert found.record.synced and found.record.truechimers >= good_ones
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms < 60
    assert all(row.state in GOOD_STATES for row in found.servers[-good_ones:])
    return found.servers[0]


def test_five_good() -> None:
    found, farm = measured(*[good] * 5)
    assert found.record.synced and found.record.truechimers == 5
    assert abs(found.record.offset_ms) <= found.record.uncertainty_ms
    assert [len(r) for r in farm.requests] == [1] * 5
    nonces = {r[0][40:] for r in farm.requests}
    assert len(nonces) == 5
    assert len({c[0][1] for c in farm.clients}) > 1, "a port of its own for every request"


def test_falseticker() -> None:
    row = only_bad(saying(Reply(offset_s=1.0)))
    assert (row.state, row.reason) == (RowState.FALSETICKER, "falseticker")
    assert row.offset_ms == pytest.approx(-1000.0, abs=50)


def test_silent() -> None:
    assert only_bad(silent).reason == "timeout"


def test_wrong_origin() -> None:
    row = only_bad(saying(Reply(origin=b"whatever", offset_s=5.0)))
    assert (row.reason, row.reach) == ("timeout (bogus)", 0)


def test_true_answer_after_forged_ones_is_taken() -> None:
    def among_forgeries(request: bytes, receive_ns: int) -> list[bytes]:
        forged = Reply(origin=bytes(8), offset_s=5.0).to_bytes(request, receive_ns)
        return [forged] * 10 + good(request, receive_ns)

    assert only_bad(among_forgeries).state in GOOD_STATES


def test_flood_of_forgeries_is_given_up() -> None:
    def flood(request: bytes, receive_ns: int) -> list[bytes]:
        return [Reply(origin=bytes(8)).to_bytes(request, receive_ns)] * 100 + good(request, receive_ns)

    assert only_bad(flood).reason == "bogus"


def test_second_answer_to_a_request_counts_for_nothing() -> None:
    def twice(request: bytes, receive_ns: int) -> list[bytes]:
        return [*good(request, receive_ns), Reply(offset_s=5.0).to_bytes(request, receive_ns)]

    row = only_bad(twice)
    assert row.state in GOOD_STATES and row.offset_ms is not None and abs(row.offset_ms) < 50


def test_kiss_of_death() -> None:
    assert only_bad(saying(KISS_RATE)).reason == "kiss:RATE"


def test_closed_port_is_known_at_once() -> None:
    with fakes(*[good] * 3) as farm:
        found = measure_once(config(farm, closed_port(), timeout_s=30.0))
    assert found.record.synced and found.servers[3].reason == "refused"


def test_nobody_answers() -> None:
    found, _ = measured(silent, silent, silent)
    assert not found.record.valid and [row.reason for row in found.servers] == ["timeout"] * 3


def test_two_against_two() -> None:
    found, _ = measured(good, good, saying(Reply(offset_s=1.0)), saying(Reply(offset_s=1.0)))
    assert not found.record.valid and not found.record.synced
    assert {row.reason for row in found.servers} == {"no-majority"}


def test_one_after_the_other() -> None:
    found, farm = measured(good, silent, good, good, parallel=False)
    assert found.record.synced and found.record.truechimers == 3
    assert found.servers[1].reason == "timeout"


def test_several_samples_in_advanced_mode() -> None:
    found, farm = measured(good, good, good, mode="advanced", samples=3)
    assert [len(r) for r in farm.requests] == [3, 3, 3]
    assert [row.reach for row in found.servers] == [7, 7, 7]


def test_blocked_resolver_holds_nobody_up() -> None:
    """A name that takes for ever: the others' verdict is there, the name is reported as it stands."""
    import threading

    from pipeline.ntp import once
    from pipeline.ntp.loop import Outside
    from pipeline.ntp.peer import Address

    release = threading.Event()
    looked_up: list[str] = []

    def lookup(host: str, port: int) -> tuple[Address, ...]:
        looked_up.append(host)
        if host == "slow.test":
            release.wait(30)
        return (Address("127.0.0.1", port),)

    with fakes(*[good] * 3) as farm, pytest.MonkeyPatch.context() as patch:
        patch.setattr(once, "NAMES_S", 0.2)
        named = config(farm, Server("slow.test"), Server("other.test", farm.servers[0].port))
        found = measure_once(named, outside=Outside(lookup=lookup))
        release.set()
    assert found.record.synced and found.record.truechimers == 3
    assert [row.reason for row in found.servers[3:]] == ["resolving", f"same address as {farm.servers[0]}"]
    assert sorted(looked_up) == ["other.test", "slow.test"], "numeric addresses need no resolver"


class TestCommand:
    def invoke(self, farm: Fakes, folder: Path, *arguments: str) -> tuple[int, str]:
        servers = ", ".join(f'"{s}"' for s in farm.servers)
        path = folder / "config.toml"
        path.write_text(f'[ntp]\nsources = ["servers"]\ntimeout_s = 0.3\nservers = [{servers}]\n')
        result = CliRunner().invoke(ntp_command, ["-c", str(path), *arguments])
        return result.exit_code, result.output

    def test_table(self, tmp_path: Path) -> None:
        with fakes(good, good, good, saying(Reply(offset_s=1.0)), silent) as farm:
            code, text = self.invoke(farm, tmp_path, "--once")
        lines = text.splitlines()
        assert code == 0
        assert lines[0].split()[:4] == ["Name", "Address", "St", "Reach"]
        assert sorted(line[0] for line in lines[1:6]) == ["*", "+", "+", "?", "x"]
        assert lines[5].endswith("timeout")
        assert lines[-1].startswith("synced: host - UTC ") and "3 of 5 servers agree" in lines[-1]

    def test_json_of_an_unsynchronised_host(self, tmp_path: Path) -> None:
        with fakes(silent, silent) as farm:
            code, text = self.invoke(farm, tmp_path, "--json")
        found = json.loads(text)
        assert code == 1
        assert list(found) == ["servers", "verdict"]
        assert " ".join(found["servers"][0]) == (
            "name address state reason offset_ms delay_ms dispersion_ms stratum reach"
        )
        expected = {"valid": False, "synced": False, "state": "unsynced", "offset_ms": None, "age_s": None}
        assert {k: found["verdict"][k] for k in expected} == expected
        keys = "valid synced state quality offset_ms uncertainty_ms jitter_ms source stratum leap truechimers"
        assert set(found["verdict"]) == {*keys.split(), "falsetickers", "utc_ns", "monotonic_ns", "age_s", "step_count"}


@contextmanager
def chronyds(folder: Path, *directives: str) -> Iterator[list[int]]:
    """Real daemons with -x (never touching the clock) on 127.0.0.101 and up; yields their command ports.

    In a directive, {port} is the NTP port that all of them use.
    """
    program = needs("chronyd")
    port, *command_ports = [closed_port().port for _ in range(1 + len(directives))]
    with ExitStack() as stack:
        for i, (directive, command_port) in enumerate(zip(directives, command_ports, strict=True)):
            home = folder / f"chronyd{i}"
            home.mkdir(mode=0o750)
            conf = home / "chrony.conf"
            conf.write_text(
                f"port {port}\nbindaddress 127.0.0.{101 + i}\ncmdport {command_port}\nbindcmdaddress 127.0.0.1\n"
                f"bindcmdaddress {home}/sock\npidfile {home}/pid\nallow 127.0.0.0/8\n{directive.format(port=port)}\n"
            )
            command = [program, "-x", "-d", "-U", "-u", "root", "-f", str(conf)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield [port, *command_ports]


def test_real_chronyd_servers_and_daemon(tmp_path: Path) -> None:
    """Three slaves of one chronyd, one of them 0.25 s off, one free-running, one without a source.

    The signs of chronyd's "system time" and of our own measurement are the same thing seen twice.
    """
    slave = "server 127.0.0.101 port {port} minpoll 0 maxpoll 0 iburst"
    daemons: Sequence[str] = ["local stratum 1", slave, slave, slave, f"{slave} offset 0.25", ""]
    with chronyds(tmp_path, *daemons) as (port, *command):

        def settled() -> bool:
            found = [chronyd.read("127.0.0.1", c) for c in command]
            # The bound of the first updates is a second and more.
            return [isinstance(f, Reading) and f.bound_s < 1e-3 for f in found] == [False, *[True] * 4, False]

        wait_for(settled, 15, "four synchronised chronyds")
        servers = tuple(Server(f"127.0.0.{101 + i}", port) for i in range(6))
        base = Ntp(sources=("servers",), servers=servers)
        found = measure_once(base)
        reasons = [row.reason for row in found.servers]
        assert reasons == ["local-ref", "", "", "", "falseticker", "unsync"]
        assert found.record.synced and abs(found.record.offset_ms) <= found.record.uncertainty_ms
        off = found.servers[4].offset_ms
        assert off == pytest.approx(-250.0, abs=1.0), "the server is ahead, the host seems behind"

        # The same daemon as the local source: it says the host is 0.25 s slow; the servers know better.
        liar = f"127.0.0.1:{command[4]}"
        against = measure_once(replace(base, sources=("chronyd", "servers"), chronyd_address=liar))
        assert (against.record.valid, against.record.synced, against.record.flags & 1) == (1, 0, 1)
        alone = measure_once(replace(base, sources=("chronyd",), chronyd_address=liar))
        assert alone.record.offset_ms == pytest.approx(off, abs=1.0)
        right = f"127.0.0.1:{command[1]}"
        agreed = measure_once(replace(base, sources=("chronyd", "servers"), chronyd_address=right))
        assert agreed.record.source == "chronyd:127.0.0.101" and agreed.record.synced
        by_program = measure_once(replace(base, sources=("chronyc",), chronyd_address=liar))
        assert by_program.record.offset_ms == pytest.approx(off, abs=1.0)
        assert by_program.record.source == "chronyc:127.0.0.101"
        free = f"127.0.0.1:{command[0]}"
        own = measure_once(replace(base, sources=("chronyd", "servers"), chronyd_address=free))
        assert own.local["chronyd"] == "follows its own clock (local)"
        assert own.record.source.startswith("servers:") and own.record.synced


def test_verdict_does_not_wait_for_dead_servers() -> None:
    """The loop publishes with the last live answer that matters, seconds before the dead ones time out."""
    from pipeline.ntp.loop import Loop
    from pipeline.ntp.report import Report

    synced: list[float] = []

    def publish(report: Report) -> None:
        if report.record.synced:
            synced.append(time.monotonic())

    with fakes(*[good] * 8, silent, silent) as farm:
        loop = Loop(config(farm, timeout_s=20.0), publish)
        loop.run(lambda: bool(synced))
        pending = sum(p.pending for p in loop.engine.pool.peers)
        loop.close()
    assert pending >= 2
