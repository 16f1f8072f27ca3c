"""Replay: the same packets with the same timing, and GPS_TIME as if it were now."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from ka9q.status import decode_status_packet

from helpers import new_names, wait_for
from pipeline import PipelineError, replay
from pipeline.cli.simulate import replay as replay_command
from pipeline.cli.simulate import simulate as simulate_command
from pipeline.pcap import Datagram, PcapReader, write_pcap
from pipeline.replay import ReplayPlan, is_rtp, play, shift_status
from pipeline.simulator.spec import SimulatorError
from pipeline.simulator.status import build_tlvs, gps_time_ns, integer_bytes
from pipeline.simulator.truth import Truth
from pipeline.simulator.wire import find_interface, parse_address, receiver

DATA = Path(__file__).resolve().parents[1] / "data"
RESTART = DATA / "restart-s16.pcap"
CREATE = DATA / "dynamic-create.pcap"
T0 = 1_795_321_020_000_000_000


@dataclass
class FakeTime:
    """Time that passes only when slept, and a little with every look."""

    now_ns: int = 5_000_000_000
    utc_offset_ns: int = T0 + 12_345_678_901
    cost_ns: int = 0
    slept: list[float] = field(default_factory=list)

    def monotonic_ns(self) -> int:
        self.now_ns += self.cost_ns
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns + self.utc_offset_ns

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_ns += round(seconds * 1e9)


@dataclass
class FakeSockets:
    """Notes what is sent and when."""

    time: FakeTime
    sent: list[tuple[int, Datagram]] = field(default_factory=list)

    def send(self, source: tuple[str, int], data: bytes, destination: tuple[str, int]) -> None:
        self.sent.append((self.time.now_ns, Datagram(0, source, destination, data)))

    def close(self) -> None:
        pass


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> FakeSockets:
    """Replay without a network, on a clock of its own."""
    clock = FakeTime()
    sockets = FakeSockets(clock)
    monkeypatch.setattr(replay, "time", clock)
    monkeypatch.setattr(replay, "_Sockets", lambda plan: sockets)
    return sockets


def captured(path: Path) -> list[Datagram]:
    with PcapReader(path) as reader:
        return list(reader)


def gps(packet: bytes) -> int:
    status = decode_status_packet(packet)
    assert status is not None and status.gps_time is not None
    return status.gps_time


@pytest.mark.parametrize("old", [0, 1, 127, 2**32 - 1, 2**56 - 1, 1_479_356_370_000_000_001])
@pytest.mark.parametrize("shift", [0, 1, 2**33, 52_000_000_000_000_001])
def test_gps_time_is_shifted_exactly_whatever_its_length(old: int, shift: int) -> None:
    packet = build_tlvs(0, [(18, b"\x07"), (3, integer_bytes(old)), (8, b""), (85, b"iq")])
    shifted = build_tlvs(0, [(18, b"\x07"), (3, integer_bytes(old + shift)), (8, b""), (85, b"iq")])
    assert shift_status(packet, shift) == shifted
    assert shift_status(shifted, -shift) == packet


def test_real_statuses_are_unchanged_by_a_shift_of_zero() -> None:
    for path in sorted(DATA.glob("*.pcap")):
        for datagram in captured(path):
            if datagram.payload[0] == 0:
                assert shift_status(datagram.payload, 0) == datagram.payload


@pytest.mark.parametrize("packet", [b"\0", b"\0\3\x08abc", b"\0\3", b"\0\x55\x83"])
def test_damaged_statuses_stay_as_they_are(packet: bytes) -> None:
    assert shift_status(packet, 10**9)[: len(packet)] == packet


def test_packets_leave_exactly_as_captured_and_lateness_does_not_add_up(stage: FakeSockets) -> None:
    stage.time.cost_ns = 50_000
    summary = play(ReplayPlan(RESTART))
    wanted = captured(RESTART)
    assert len(stage.sent) == len(wanted)
    begin = stage.sent[0][0]
    for (at_ns, _), datagram in zip(stage.sent, wanted, strict=True):
        assert abs(at_ns - begin - (datagram.t_ns - wanted[0].t_ns)) <= 200_000
    assert summary.max_late_ms <= 0.2


@pytest.mark.parametrize("speed", [0.5, 1.0, 7.0])
def test_first_status_looks_live_at_any_speed(stage: FakeSockets, speed: float) -> None:
    wanted = captured(RESTART)
    summary = play(ReplayPlan(RESTART, speed=speed))
    statuses = [(at, d.payload) for at, d in stage.sent if d.payload[0] == 0]
    theirs = [d for d in wanted if d.payload[0] == 0]
    at_ns, first = statuses[0]
    behind_ns = gps_time_ns(theirs[0].t_ns) - gps(theirs[0].payload)
    assert gps_time_ns(at_ns + stage.time.utc_offset_ns) - gps(first) == behind_ns
    assert {gps(ours) - gps(d.payload) for (_, ours), d in zip(statuses, theirs, strict=True)} == {summary.shift_ns}
    if speed == 1.0:
        assert summary.shift_ns == summary.start_utc_ns - wanted[0].t_ns
    total_ns = stage.sent[-1][0] - stage.sent[0][0]
    assert abs(total_ns - (wanted[-1].t_ns - wanted[0].t_ns) / speed) < 1000


def test_as_recorded_changes_no_byte(stage: FakeSockets) -> None:
    summary = play(ReplayPlan(RESTART, as_recorded=True))
    assert [d.payload for _, d in stage.sent] == [d.payload for d in captured(RESTART)]
    assert summary.shift_ns == 0


@pytest.mark.parametrize("second", [0.0, 30.25, 59.999])
def test_start_second_is_met_on_the_hosts_clock(stage: FakeSockets, second: float) -> None:
    summary = play(ReplayPlan(RESTART, start_second=second))
    assert summary.start_utc_ns % 60_000_000_000 == round(second * 1e9)
    assert stage.sent[0][0] + stage.time.utc_offset_ns == summary.start_utc_ns
    assert max(stage.time.slept) <= 0.1


def test_commands_stay_at_home_unless_asked(stage: FakeSockets) -> None:
    summary = play(ReplayPlan(CREATE))
    assert {d.payload[0] for _, d in stage.sent} == {0, 0x80}
    assert (summary.commands, summary.skipped) == (0, 1)
    stage.sent.clear()
    summary = play(ReplayPlan(CREATE, with_commands=True))
    assert (summary.commands, summary.skipped) == (1, 0)
    assert stage.sent[0][1].payload[0] == 1


def test_addresses_are_mapped_by_group_and_the_status_says_so(stage: FakeSockets) -> None:
    play(ReplayPlan(CREATE, data_address=("239.7.7.7", 6000), status_address=("239.8.8.8", 6001)))
    where = Counter((d.dst, is_rtp(d.payload)) for _, d in stage.sent)
    assert where == {(("239.7.7.7", 6000), True): 35, (("239.7.7.7", 5006), False): 2, (("239.8.8.8", 6001), False): 1}
    for _, datagram in stage.sent:
        if datagram.payload[0] == 0:
            status = decode_status_packet(datagram.payload)
            assert status is not None
            assert status.output_data_dest_socket == {"family": "IPv4", "address": "239.7.7.7", "port": 6000}


def test_unicast_and_foreign_packets_are_left_out(stage: FakeSockets, tmp_path: Path) -> None:
    rtp = captured(RESTART)[0]
    path = tmp_path / "x.pcap"
    foreign = Datagram(rtp.t_ns, rtp.src, rtp.dst, b"\x55" * 20)
    unicast = Datagram(rtp.t_ns, rtp.src, ("192.0.2.1", 5004), rtp.payload)
    empty = Datagram(rtp.t_ns, rtp.src, rtp.dst, b"")
    write_pcap(path, [foreign, unicast, empty, rtp])
    summary = play(ReplayPlan(path))
    assert [d.payload for _, d in stage.sent] == [rtp.payload]
    assert summary.skipped == 3


def test_stop_ends_it_between_packets(stage: FakeSockets) -> None:
    summary = play(ReplayPlan(RESTART), stop=lambda: len(stage.sent) == 10)
    assert (summary.stopped, len(stage.sent)) == (True, 10)


def test_progress_grows_to_one(stage: FakeSockets) -> None:
    seen: list[float] = []
    play(ReplayPlan(RESTART), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_truncated_capture_is_played_and_reported(stage: FakeSockets, tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(RESTART.read_bytes()[:-5])
    summary = play(ReplayPlan(path))
    assert len(stage.sent) == len(captured(RESTART)) - 1
    assert "cut short" in summary.notes[0]


def test_capture_without_rtp_is_refused(stage: FakeSockets, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    write_pcap(path, [d for d in captured(RESTART) if d.payload[0] == 0])
    with pytest.raises(PipelineError, match="no multicast RTP"):
        play(ReplayPlan(path))


@contextmanager
def ears(address: tuple[str, int]) -> Iterator[socket.socket]:
    sock = receiver(find_interface("lo"), *address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    try:
        yield sock
    finally:
        sock.close()


def drained(sock: socket.socket) -> list[tuple[bytes, int]]:
    found = []
    with suppress(BlockingIOError):
        while True:
            data, address = sock.recvfrom(65536)
            found.append((data, address[1]))
    return found


def test_a_restarted_radiod_is_heard_from_a_new_port_through_the_command() -> None:
    group = new_names().group
    with ears((group, 5004)) as data, ears((group, 5006)) as status:
        result = CliRunner().invoke(
            replay_command, [str(RESTART), "--data-address", group, "--speed", "50", "--json"], catch_exceptions=False
        )
        rtp, statuses = drained(data), drained(status)
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    theirs = [d for d in captured(RESTART) if is_rtp(d.payload)]
    assert [payload for payload, _ in rtp] == [d.payload for d in theirs]
    assert len({port for _, port in rtp}) == 2
    assert {port for _, port in statuses} <= {port for _, port in rtp}
    assert summary["rtp_packets"] == {"10000": 97}
    assert summary["statuses"] == len(statuses) == 5
    assert set(summary) >= {"shift_ns", "start_utc_ns", "max_late_ms"}
    assert "97 RTP packets" in result.stderr


@pytest.mark.parametrize("text", ["", "239.1.2.3:", "239.1.2.3:x", "192.0.2.1:5004", "239.1.2.3:70000", "name:5004"])
def test_unusable_addresses_are_refused(text: str) -> None:
    if text == "239.1.2.3:":
        assert parse_address(text, 5004) == ("239.1.2.3", 5004)
        return
    with pytest.raises(SimulatorError, match="address"):
        parse_address(text, 5004)


def run_command(function: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from pipeline.cli.simulate import {function} as command; command()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate_says_where_it_sends_and_a_signal_ends_it_with_0(number: signal.Signals, tmp_path: Path) -> None:
    group, control = new_names().group, new_names().group
    truth = tmp_path / "truth.jsonl"
    with ears((group, 5004)) as data:
        child = run_command(
            "simulate",
            *("--channel", "WWV 5 MHz:5000000", "--channel", "X:7e6:77", "--data-address", group, "--json"),
            *("--status-address", control, "--truth", str(truth), "--ntp-servers", "1", "--programme", "counter"),
            *("--mute", "50:1", "--restart-at", "60:1", "--packet-frames", "320,160", "--loss", "0.01"),
        )
        try:
            assert child.stdout is not None
            ready = json.loads(child.stdout.readline())
            assert select.select([data], [], [], 10)[0]
            wait_for(lambda: {p[8:12] for p, _ in drained(data)} != set(), 10, "packets")
        finally:
            child.send_signal(number)
            output, errors = child.communicate(timeout=10)
    assert (child.returncode, output) == (0, "")
    assert (ready["data_address"], ready["status_address"]) == (f"{group}:5004", f"{control}:5006")
    assert len(ready["ntp_addresses"]) == 1
    assert "X: ssrc 77, 16000 Hz S16BE" in errors
    assert re.search(r"packets left at most \d+\.\d{3} ms after they were to", errors)
    assert [t.ssrc for t in Truth.read(truth).timelines] == [5_000_000, 77]
    assert [e["reason"] for e in Truth.read(truth).events if e["kind"] == "removed"] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--channel", "nameless"], "expected NAME:HZ"),
        (["--channel", ":5"], "expected NAME:HZ"),
        (["--mute", "3"], "expected T:D"),
        (["--restart-at", "3:-1"], "expected T:D"),
        (["--packet-frames", "320;2"], "frame counts"),
        (["--loss", "2"], "0.0<=x<=1.0"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(simulate_command, arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_help_shows_an_example() -> None:
    for command in (simulate_command, replay_command):
        assert "Example: grape-pipeline" in CliRunner().invoke(command, ["--help"]).stdout
