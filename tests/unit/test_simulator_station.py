"""The simulator as a process: ready, stopped, killed, restarted; and the client library that talks to it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from ka9q.control import RadiodControl
from ka9q.status import decode_status_packet

from helpers import new_names, wait_for
from pipeline.simulator.signal import counter_value
from pipeline.simulator.spec import (
    WWV_CHU,
    ChannelSpec,
    FaultPlan,
    NtpServerSpec,
    SimulatorError,
    SimulatorSpec,
    spec_to_json,
)
from pipeline.simulator.station import Ready, run_simulator, running_simulator
from pipeline.simulator.truth import Truth, expected_iq
from pipeline.simulator.wire import RTP_HEADER, encode_samples, find_interface, receiver

ONE = (ChannelSpec("WWV 10 MHz", 10e6),)


def spec(**facts: object) -> SimulatorSpec:
    data, control = new_names(), new_names()
    facts = {"programme": "counter", **facts}
    return SimulatorSpec(
        data_address=(data.group, data.data_port),
        status_address=(control.group, control.status_port),
        **facts,  # type: ignore[arg-type]
    )


@contextmanager
def ears(group: str, port: int) -> Iterator[socket.socket]:
    sock = receiver(find_interface("lo"), group, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    try:
        yield sock
    finally:
        sock.close()


def hear(sock: socket.socket, packets: int, deadline_s: float = 10.0) -> list[tuple[bytes, int]]:
    """The next (datagram, source port) pairs; fails if they do not come in time."""
    heard: list[tuple[bytes, int]] = []
    end = time.monotonic() + deadline_s
    while len(heard) < packets:
        if not select.select([sock], [], [], max(0.0, end - time.monotonic()))[0]:
            pytest.fail(f"{len(heard)} of {packets} packets in {deadline_s} s")
        data, address = sock.recvfrom(65536)
        heard.append((data, address[1]))
    return heard


def test_nine_channels_are_bit_exact_at_the_receiver(tmp_path: Path) -> None:
    wanted = spec(channels=WWV_CHU, programme="wwv", truth=tmp_path / "truth.jsonl")
    with ears(*wanted.data_address) as sock, running_simulator(wanted) as ready:
        heard = hear(sock, 9 * 60)
        assert {port for _, port in heard} == {ready.source_port}
    truth = Truth.read(tmp_path / "truth.jsonl")
    assert len(truth.timelines) == 9
    for data, _ in heard:
        _, _, _, ts, ssrc = RTP_HEADER.unpack_from(data)
        (timeline,) = truth.of(ssrc)
        assert data[12:] == encode_samples(expected_iq(timeline, ts, 320), "S16BE")


def test_restart_changes_port_and_timeline_and_killing_keeps_the_truth(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    wanted = spec(channels=ONE, restarts=((0.3, 0.2),), faults=FaultPlan(drops=((0.1, 2),)), truth=path)
    with ears(*wanted.data_address) as sock, running_simulator(wanted) as ready:
        heard = hear(sock, 30)
        os.kill(ready.pid, signal.SIGKILL)
    ports = [port for _, port in heard]
    again = next(n for n, port in enumerate(ports) if port != ports[0])
    _, kind, seq, ts, _ = RTP_HEADER.unpack_from(heard[again][0])
    assert (kind, seq, ts) == (0x80 | 120, 0, 2**32 - 320)
    truth = Truth.read(path)
    first, second = truth.timelines
    assert [t.source_port for t in truth.timelines] == [ports[0], ports[-1]]
    assert second.start_utc_ns - first.start_utc_ns == 500_000_000
    assert [e["seq"] for e in truth.events if e["kind"] == "packet"] == [5, 6]
    assert [(t.generation, t.reason) for t in truth.timelines] == [(0, "start"), (1, "restart")]
    assert [e["reason"] for e in truth.events if e["kind"] == "removed"] == ["restart"]
    assert again == 13


def test_ntp_servers_end_with_a_killed_simulator() -> None:
    def is_free(address: tuple[str, int]) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind(address)
            return True
        return False

    with running_simulator(spec(channels=(), ntp_servers=(NtpServerSpec(),))) as ready:
        assert not is_free(ready.ntp_addresses[0])
        os.kill(ready.pid, signal.SIGKILL)
        wait_for(lambda: is_free(ready.ntp_addresses[0]), 10, "the NTP servers' end")


def test_child_ends_when_its_parent_dies() -> None:
    wanted = spec(channels=ONE)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pipeline.simulator.spec import spec_from_json\n"
            "from pipeline.simulator.station import running_simulator\n"
            "with running_simulator(spec_from_json(sys.stdin.read())) as ready:\n"
            "    print(ready.pid, flush=True)\n"
            "    time.sleep(60)\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None and parent.stdout is not None
    try:
        parent.stdin.write(spec_to_json(wanted).encode())
        parent.stdin.close()
        pid = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    # Adopted by init or a subreaper, which may leave it a zombie.
    wait_for(lambda: gone(pid), 10, "the simulator's end")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ntp_servers_are_there_when_it_is_ready_and_gone_after() -> None:
    with running_simulator(spec(channels=(), ntp_servers=(NtpServerSpec(), NtpServerSpec()))) as ready:
        for address in ready.ntp_addresses:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(address)
                client.send(b"\x23" + bytes(47))
                assert select.select([client], [], [], 5)[0]
    assert len(ready.ntp_addresses) == 2
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(ready.ntp_addresses[0])


def test_what_cannot_be_is_refused_by_the_child_with_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SimulatorError, match="before it was ready"), running_simulator(spec(interface="none0")):
        pass
    assert "interface 'none0'" in capfd.readouterr().err


def test_duration_and_stop_end_the_run() -> None:
    asked = []
    ready: list[Ready] = []
    run_simulator(spec(channels=ONE, duration_s=0.1), lambda: False, ready.append)
    run_simulator(spec(channels=ONE), lambda: bool(asked) or bool(asked.append(1)), ready.append)
    assert [facts.pid for facts in ready] == [os.getpid()] * 2


def test_interface_is_found_by_name_and_address_and_missed_by_name() -> None:
    assert find_interface("lo").address == "127.0.0.1"
    assert find_interface("127.0.0.1").name == "lo"
    assert find_interface("127.3.2.1").name == "lo"
    for missing in ("nonsense", "198.51.100.7"):
        with pytest.raises(SimulatorError, match="there are lo"):
            find_interface(missing)


def test_interface_is_found_by_any_address_of_this_machine() -> None:
    """Linux knows the address it would send from; no packet is sent by connecting a UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.7", 9))
        except OSError:
            pytest.skip("no interface but loopback")
        address = probe.getsockname()[0]
    found = find_interface(address)
    assert (found.address, find_interface(found.name)) == (address, found)


@pytest.mark.filterwarnings("ignore")
def test_ka9q_python_creates_tunes_and_polls_a_channel() -> None:
    wanted = spec(channels=())
    group = wanted.data_address[0]
    with ears(group, 5004) as sock, ears(group, 5006) as statuses, running_simulator(wanted):
        control = RadiodControl(wanted.status_address[0], interface="127.0.0.1")
        try:
            control.create_channel(
                10e6, "iq", 16_000, gain=20.0, destination=group, encoding=4, ssrc=10_000_000, lifetime=6000
            )
            wait_for(lambda: len(hear(sock, 1)[0][0]) in (12 + 1440, 12 + 1120), 10, "the new encoding")
            status = control.poll_status(10_000_000)
        finally:
            control.close()
        announced = decode_status_packet(hear(statuses, 1)[0][0])
    assert status is not None and announced is not None
    assert (status.preset, status.frequency, status.output_samprate) == ("iq", 10e6, 16_000)
    assert (status.output_encoding, status.output_channels, status.gain) == (4, 2, 20.0)
    assert announced.output_ssrc == 10_000_000


def test_counter_needs_no_truth_file_to_show_a_missing_packet() -> None:
    wanted = spec(channels=ONE, faults=FaultPlan(drops=((0.1, 1),)))
    with ears(*wanted.data_address) as sock, running_simulator(wanted):
        heard = hear(sock, 8)
    samples = np.frombuffer(b"".join(data[12:] for data, _ in heard), ">i2").astype(np.int16).reshape(-1, 2)
    steps = np.diff(counter_value(samples)) % 2**30
    assert sorted(set(steps.tolist())) == [1, 321]
    assert int(np.flatnonzero(steps == 321)[0]) == 5 * 320 - 1
