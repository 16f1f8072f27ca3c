"""The loop around the engine: names, clocks that jump, a machine that is busy. Numbered cases."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import ntplib
import pytest

from ntp_farm import SECOND, asking, fakes, good, silent
from pipeline.config import Ntp, Server
from pipeline.ntp import clock, once
from pipeline.ntp.loop import Loop, Outside, reference_id
from pipeline.ntp.once import measure_once
from pipeline.ntp.peer import Address
from pipeline.ntp.report import Report
from pipeline.ntp.wire import Instant
from pipeline.records import NtpState
from pipeline.simulator.ntp import running_farm
from pipeline.simulator.spec import NtpServerSpec


def test_a_server_that_follows_this_host_would_call_it_so() -> None:
    """RFC 5905 section 7.3; the hash was printed by a chronyd 4.3 that follows fd00::1."""
    assert reference_id("192.0.2.7") == bytes([192, 0, 2, 7])
    assert reference_id("fd00::1") == bytes.fromhex("3f697da5")
    assert reference_id("fe80::1%eth0") == reference_id("fe80::1")
    assert reference_id("127.0.0.1") is reference_id("::1") is None


def test_case_37_nobody_answers_from_the_start() -> None:
    """Publications go on, in every cycle, and say that nothing is known."""
    seen: list[Report] = []
    with fakes(silent, silent, silent) as farm:
        loop = Loop(asking(farm, publish_interval_s=0.1, timeout_s=0.1), seen.append)
        loop.run(lambda: len(seen) > 20)
        loop.close()
    assert not any(report.record.valid or report.record.synced for report in seen)
    assert seen[-1].record.state == NtpState.UNSYNCED
    published = [report.record.published_monotonic_ns for report in seen]
    assert published == sorted(set(published))
    assert {row.reason for row in seen[-1].rows} == {"timeout"}


class JumpingClock:
    """The host's clocks; CLOCK_REALTIME is `offset_ns` off."""

    def __init__(self) -> None:
        self.offset_ns = 0

    def __call__(self) -> Instant:
        now = clock.read()
        return replace(now, realtime=now.realtime + self.offset_ns)


@pytest.mark.parametrize("step_ms", [500, -500, 2, -2], ids=lambda ms: f"case_41_{ms}_ms")
def test_host_clock_is_stepped_while_a_request_is_under_way(step_ms: int) -> None:
    """The clock jumps between the request and one server's answer: that sample is dropped, nobody else's is."""
    host = JumpingClock()

    def stepping(request: bytes, receive_ns: int) -> list[bytes]:
        host.offset_ns = step_ms * 1_000_000
        return good(request, receive_ns)

    with fakes(good, good, good, stepping) as farm:
        found = measure_once(asking(farm, parallel=False), outside=Outside(clock=host))
    assert [row.reason for row in found.servers] == ["", "", "", "host-step"]
    assert found.record.valid
    # What was measured before the step holds after it. A busy machine holds the fakes up on one way only.
    assert abs(found.record.offset_ms - step_ms) <= found.record.uncertainty_ms


def test_case_40_host_step_between_polls_shows_without_a_packet() -> None:
    host = JumpingClock()
    seen: list[Report] = []
    with fakes(*[good] * 4) as farm:
        loop = Loop(asking(farm, publish_interval_s=60.0), seen.append, outside=Outside(clock=host))
        loop.run(lambda: any(report.record.synced for report in seen) and not loop.engine.pool.busy(clock.read()))
        before_ms = seen[-1].record.offset_ms
        host.offset_ns = SECOND // 2
        loop.run(lambda: seen[-1].record.step_count == 1)
        requests = [len(r) for r in farm.requests]
        loop.close()
    record = seen[-1].record
    assert record.offset_ms == pytest.approx(before_ms + 500.0, abs=0.5)
    assert (record.valid, record.synced, requests) == (1, 0, [1] * 4)


def test_case_47_blocked_resolver_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that takes for ever: the others' verdict is there, the name is reported as it stands."""
    release = threading.Event()
    looked_up: list[str] = []

    def lookup(host: str, port: int) -> tuple[Address, ...]:
        looked_up.append(host)
        if host == "slow.test":
            release.wait(30)
        if host == "gone.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (Address("127.0.0.1", port),)

    monkeypatch.setattr(once, "NAMES_S", 0.2)
    with fakes(*[good] * 3) as farm:
        port = farm.servers[0].port
        named = asking(farm, Server("slow.test"), Server("other.test", port), Server("gone.test"))
        found = measure_once(named, outside=Outside(lookup=lookup))
        release.set()
    assert found.record.synced and found.record.truechimers == 3
    reasons = [row.reason for row in found.servers[3:]]
    assert reasons == ["resolving", f"same address as {farm.servers[0]}", "name: Name or service not known"]
    assert sorted(looked_up) == ["gone.test", "other.test", "slow.test"], "numeric addresses need no resolver"


def test_case_47_cycles_go_on_while_a_resolver_is_blocked() -> None:
    release = threading.Event()
    seen: list[Report] = []

    def lookup(_host: str, port: int) -> tuple[Address, ...]:
        release.wait(30)
        return (Address("127.0.0.1", port),)

    with fakes(*[good] * 3) as farm:
        config = asking(farm, Server("slow.test"), publish_interval_s=0.1)
        loop = Loop(config, seen.append, outside=Outside(lookup=lookup))
        loop.run(lambda: loop.engine.counters.cycles > 10)
        blocked = seen[-1]
        release.set()
        loop.run(lambda: seen[-1].rows[3].reason != "resolving")
        loop.close()
    assert blocked.record.synced and blocked.record.truechimers == 3 and blocked.rows[3].reason == "resolving"
    assert seen[-1].rows[3].address == "127.0.0.1"


@pytest.mark.parametrize("dead", ["fe80::1", "127.0.0.99"], ids=["case_48_no_route", "case_48_silent"])
def test_next_address_of_a_name_is_used(dead: str) -> None:
    """A link-local address without an interface cannot even be connected to."""

    def lookup(_host: str, port: int) -> tuple[Address, ...]:
        return Address(dead, port), Address("127.0.0.1", port)

    with fakes(*[good] * 4) as farm, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.99", farm.servers[0].port))
        named = asking(farm, servers=(Server("dual.test", farm.servers[0].port), *farm.servers[1:]))
        found = measure_once(named, outside=Outside(lookup=lookup))
    assert found.record.synced and found.record.truechimers == 4
    assert found.servers[0].address == str(Address("127.0.0.1", farm.servers[0].port))


@contextmanager
def busy(kind: str) -> Iterator[None]:
    """Four processes, or a thread of this one, that compute all the time."""
    done = threading.Event()
    hogs = []
    if kind == "processors":
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    else:
        threading.Thread(target=lambda: [None for _ in iter(done.is_set, True)], daemon=True).start()
    try:
        yield
    finally:
        done.set()
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.parametrize("kind", ["processors", "interpreter"], ids=lambda kind: f"case_43_busy_{kind}")
def test_accuracy_on_a_busy_machine(kind: str) -> None:
    """The truth is 0. Side by side with a thread pool of ntplib requests, which reads T4 when it gets to run."""
    specs = [NtpServerSpec(host=f"127.0.30.{k}") for k in range(1, 11)]
    client = ntplib.NTPClient()
    with running_farm(specs) as addresses, busy(kind), ThreadPoolExecutor(10) as pool:
        config = Ntp(sources=("servers",), servers=tuple(Server(*a) for a in addresses))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(25):
            ours += [abs(row.offset_ms) / 1e3 for row in measure_once(config).servers if row.offset_ms is not None]
            requests = [pool.submit(client.request, host, version=4, port=port) for host, port in addresses]
            theirs += [abs(request.result().offset) for request in requests]
    assert len(ours) == 250
    assert sorted(ours)[225] < 50e-6
    assert sorted(ours)[245] < sorted(theirs)[245] / 3
