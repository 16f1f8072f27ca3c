"""Every cause of trouble has its line: judged from values, files and a made-up radiod."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import Names, free_port
from pipeline.__main__ import run
from pipeline.config import Alerts, Channel, Config, Ntp, Radiod, Recorder, Server
from pipeline.diagnosis import clock, host, network, streams
from pipeline.diagnosis.finding import Finding, Verdict, alike, fail, ok, warn
from pipeline.listening import Heard, Stream
from pipeline.ntp.reading import KernelState
from pipeline.ntp.rows import Row, RowState
from pipeline.radiod import ChannelStatus
from pipeline.records import NtpRecord, NtpState
from pipeline.segments import create_segment
from pipeline.shm import Segment, segment_name
from pipeline.stream.journal import geometry
from pipeline.supervision import instance as instances

GROUP = "239.1.2.55"
WWV = Channel("WWV 10 MHz", 10e6, 10_000_000)
CONFIG = Config(channels=(WWV,), radiod=Radiod(status_address="239.1.2.54:5006"))
SENDER = ("127.0.0.1", 4000)
NOW_NS = 1_764_000_000 * 10**9


def status(**changes: Any) -> ChannelStatus:
    """radiod's word on WWV, as configured but for the changes."""
    plain = ChannelStatus(
        10_000_000, NOW_NS, 0, 16_000, "S16BE", 2, 2, 10e6, "iq", 0, 1, None, 0, {"agc_enable": 0}, f"{GROUP}:5004"
    )
    return replace(plain, **changes)


def heard(*streams: tuple[int, Stream], **facts: Any) -> Heard:
    """What was heard on the group."""
    return Heard(1.5, {(GROUP, ssrc): stream for ssrc, stream in streams}, **facts)


def well(**changes: Any) -> Stream:
    """WWV's stream."""
    return replace(Stream(75, {SENDER}, status(), NOW_NS), **changes)


def only(findings: Any) -> Finding:
    """The single finding that is not ok."""
    (bad,) = [f for f in findings if f.verdict is not Verdict.OK]
    assert bad.mend, "says what mends it"
    return bad  # type: ignore[no-any-return]


# radiod


def test_all_as_configured_is_one_line() -> None:
    told = list(streams.check(CONFIG, heard((10_000_000, well())), running=True))
    assert [str(f) for f in told] == [
        "ok    radiod     1 of 1 channels as configured, 50 packets/s",
        "ok    status     radiod's clock is 0.000 s behind this host's",
    ]


@pytest.mark.parametrize(
    ("changes", "verdict", "told", "mend"),
    [
        ({"sample_rate_hz": 12_000}, "warn", "sends 12000 Hz, not 16000", "sample_rate_hz = 12000"),
        ({"encoding": "F32LE"}, "warn", "sends F32LE, not S16BE", 'encoding = "F32LE"'),
        ({"encoding": "OPUS"}, "fail", "encoding OPUS cannot be recorded", "encoding = s16be"),
        ({"output_channels": 1}, "fail", "1 channel a sample, not I and Q", 'preset = "iq"'),
        ({"frequency_hz": 15e6}, "fail", "ssrc 10000000 is tuned to 15 MHz, not 10", "ssrc or frequency_hz"),
        ({"detail": {"agc_enable": 1}}, "warn", "AGC is on", "agc = no"),
    ],
)
def test_status_against_the_configuration(changes: dict[str, Any], verdict: str, told: str, mend: str) -> None:
    stream = well(status=status(**changes))
    found = only(streams.check(CONFIG, heard((10_000_000, stream)), running=True))
    assert (str(found.verdict), told in found.found, mend in found.mend) == (verdict, True, True), found


def test_nothing_heard_before_the_start_is_asked_for_then() -> None:
    found = only(streams.check(CONFIG, heard(), running=False))
    assert found.verdict is Verdict.WARN and "asked at the start" in found.found


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, radiod=Radiod())])
def test_nothing_heard_although_it_should_be(config: Config) -> None:
    found = only(streams.check(config, heard(), running=config is CONFIG))
    assert found.verdict is Verdict.FAIL
    assert f"nothing from {GROUP} ssrc 10000000" in found.found


def test_silence_of_all_channels_is_one_line() -> None:
    twin = replace(WWV, name="CHU", ssrc=5)
    found = only(streams.check(replace(CONFIG, channels=(WWV, twin)), heard(), running=True))
    assert found.found == f"nothing of 2 channels from {GROUP} for 1.5 s"


def test_status_without_samples_is_the_front_end() -> None:
    found = only(streams.check(CONFIG, heard((10_000_000, well(packets=0, senders=set()))), running=True))
    assert "though radiod reports the channel" in found.found


def test_radiods_own_numbering_is_recognised() -> None:
    stream = well(status=status(ssrc=10_000))
    found = only(streams.check(CONFIG, heard((10_000, stream)), running=True))
    assert found.verdict is Verdict.FAIL
    assert "as ssrc 10000 on 239.1.2.55" in found.found
    assert "ssrc = 10000" in found.mend


def test_one_ssrc_from_two_senders() -> None:
    stream = well(senders={SENDER, ("127.0.0.2", 4001)})
    found = only(streams.check(CONFIG, heard((10_000_000, stream)), running=True))
    assert found.verdict is Verdict.FAIL
    assert "is sent by 127.0.0.1:4000 and 127.0.0.2:4001 at once" in found.found


def test_samples_without_status() -> None:
    found = only(streams.check(CONFIG, heard((10_000_000, well(status=None))), running=True))
    assert "packets, but no status for 1.5 s" in found.found


def test_radiods_clock_is_compared() -> None:
    stream = well(status_utc_ns=NOW_NS + 5 * 10**9)
    found = only(streams.check(CONFIG, heard((10_000_000, stream)), running=True))
    assert (found.topic, found.found) == ("status", "radiod's clock is 5.000 s behind this host's")


def test_strangers_on_the_group() -> None:
    found = list(streams.check(CONFIG, heard((10_000_000, well()), (7, Stream(9, {SENDER})), foreign=3), running=True))
    assert any(f.found == "1 further streams on these groups: ssrc 7" for f in found)
    assert "3 datagrams" in only(found).found


# Network

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t000000EF\t00000000\t0001\t0\t0\t5\t000000FF\t0\t0\t0
lo\t000000EF\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
eth2\t0002C0EF\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     2      V3
\t\t\t\t370201EF     2 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth0      :     1      V2
\t\t\t\t010000E0     1 0:00000000\t\t0
"""
little_endian = pytest.mark.skipif(os.sys.byteorder != "little", reason="the sample is a little-endian kernel's")  # type: ignore[attr-defined]


@little_endian
def test_routes_longest_prefix_then_metric() -> None:
    assert network.lookup("239.1.2.55", ROUTES) == "lo"
    assert network.lookup("239.192.2.1", ROUTES) == "lo", "a route that is down does not count"
    assert network.lookup("224.0.0.1", ROUTES) == "eth0"
    assert network.lookup("239.1.2.55", ROUTES.splitlines()[0]) is None


@little_endian
def test_route_elsewhere_matters_only_while_nothing_comes(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(ROUTES)
    assert network.route("lo", GROUP, False, table).verdict is Verdict.OK
    assert network.route("eth0", GROUP, True, table).verdict is Verdict.OK
    found = network.route("eth0", GROUP, False, table)
    assert (found.verdict, found.mend) == (Verdict.WARN, "sudo ip route replace 239.0.0.0/8 dev eth0")


@little_endian
def test_membership_that_went_with_its_interface(tmp_path: Path) -> None:
    table = tmp_path / "igmp"
    table.write_text(IGMP)
    assert network.memberships(IGMP)["lo"] == {GROUP: 2, "224.0.0.1": 1}
    assert network.membership("lo", [GROUP], True, table).verdict is Verdict.OK
    assert network.membership("eth0", [GROUP], False, table).verdict is Verdict.OK
    found = network.membership("eth0", [GROUP], True, table)
    assert found.verdict is Verdict.FAIL and "eth0 is no member of 239.1.2.55" in found.found


def test_snooping_bridge_without_a_querier(tmp_path: Path) -> None:
    bridge = tmp_path / "br0"
    (bridge / "bridge").mkdir(parents=True)
    (bridge / "brif" / "eth0").mkdir(parents=True)
    (bridge / "bridge" / "multicast_snooping").write_text("1\n")
    (bridge / "bridge" / "multicast_querier").write_text("0\n")
    for name in ("eth0", "br0"):
        found = network.querier(name, True, tmp_path)
        assert found.mend == "sudo ip link set dev br0 type bridge mcast_querier 1"
    (bridge / "bridge" / "multicast_querier").write_text("1\n")
    assert network.querier("eth0", True, tmp_path).verdict is Verdict.OK
    assert network.querier("eth1", False, tmp_path).verdict is Verdict.WARN
    assert network.querier("lo", False, tmp_path).verdict is Verdict.OK


# Host


def test_libraries_that_are_missing_or_old() -> None:
    wanted = ["click>=99", "click>=1", "no-such-library>=1.0", 'pytest>=999; extra == "test"']
    assert [text.split(" ", 1)[0] for _, text in host.outdated(wanted)] == ["click", "no-such-library"]


@pytest.mark.parametrize(("limit", "verdict"), [(212_992, "warn"), (16 << 20, "ok")])
def test_a_small_receive_buffer(limit: int, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "rmem_max"
    path.write_text(f"{limit}\n")
    found = host.buffers(CONFIG, limit, path)
    assert str(found.verdict) == verdict
    assert f"rmem_max is {limit}" in found.found
    if verdict == "warn":
        assert "208 KiB granted hold 2.1 s of WWV 10 MHz, 10 s are wanted" in found.found
        assert found.mend.startswith("sudo sysctl -w net.core.rmem_max=16777216")


@pytest.mark.parametrize(
    ("before", "after", "verdict"), [(0, 0, "ok"), (5, 5, "ok"), (0, 3, "fail"), (90_000, 90_000, "warn")]
)
def test_datagrams_lost_for_want_of_buffer(before: int, after: int, verdict: str) -> None:
    counters = [{"InDatagrams": 1_000_000, "RcvbufErrors": n} for n in (before, after)]
    assert str(host.udp_losses(counters[0], counters[1], 1.5).verdict) == verdict


def test_the_kernels_counters_are_read() -> None:
    assert {"InDatagrams", "RcvbufErrors"} <= host.udp_counters().keys()


def room_in_shm(free: int, monkeypatch: pytest.MonkeyPatch) -> Finding:
    """What is found when so many bytes are free."""
    values = list(os.statvfs("/"))
    values[1], values[4] = 1, free  # f_frsize, f_bavail
    with monkeypatch.context() as patch:
        patch.setattr(host.os, "statvfs", lambda _path: os.statvfs_result(values))
        return next(host.shared_memory(CONFIG))


def test_too_little_shared_memory_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, verdict in ((10 << 20, "fail"), (40 << 20, "warn"), (400 << 20, "ok")):
        found = room_in_shm(free, monkeypatch)
        assert str(found.verdict) == verdict, found
        assert verdict == "ok" or "remount,size=" in found.mend


def test_all_of_a_channels_segment_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = create_segment(f"doctor-{os.getpid()}", WWV, CONFIG.recorder)
    segment.unlink()
    size = segment.size
    segment.close()
    assert f"take at most {size / 1e6:.0f} MB" in room_in_shm(size, monkeypatch).found
    short = room_in_shm(size - 1, monkeypatch)
    assert short.verdict is Verdict.WARN
    assert f"may take {size / 1e6:.0f} MB" in short.found
    assert f"size={(size >> 20) + 64}M" in short.mend
    # What comes down needs its place however few the minutes are.
    samples = geometry(WWV.sample_rate_hz, CONFIG.recorder.buffer_minutes).size * 2 // CONFIG.recorder.buffer_minutes
    assert room_in_shm(samples + (200 << 10), monkeypatch).verdict is Verdict.FAIL


def test_shared_memory_that_is_not_there(tmp_path: Path) -> None:
    assert next(host.shared_memory(CONFIG, tmp_path / "none")).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("uid", "files", "verdict"),
    [
        (1000, {}, "warn"),
        (1000, {"etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, "warn"),
        (1000, {"etc/systemd/logind.conf": "[Login]\nRemoveIPC=no\n"}, "ok"),
        (
            1000,
            {"etc/systemd/logind.conf": "RemoveIPC=no", "etc/systemd/logind.conf.d/a.conf": "RemoveIPC=yes"},
            "warn",
        ),
        (1000, {"var/lib/systemd/linger/tester": ""}, "ok"),
        (999, {}, "ok"),
    ],
)
def test_remove_ipc(
    uid: int, files: dict[str, str], verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_user", lambda _uid: "tester")
    assert host.remove_ipc(1000, tmp_path).verdict is Verdict.OK, "no systemd"
    for name, content in {"run/systemd/system/x": "", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = host.remove_ipc(uid, tmp_path)
    assert str(found.verdict) == verdict
    assert verdict == "ok" or found.mend.startswith("sudo loginctl enable-linger tester")


def recorder(folder: Path, **changes: Any) -> Config:
    """The configuration with this data_dir."""
    return replace(CONFIG, recorder=Recorder(data_dir=folder, **changes))


def test_disk_rate_is_that_of_the_newest_files(tmp_path: Path) -> None:
    folder = tmp_path / "archives" / "WWV_10_MHz"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"20261122T00{n:02d}00Z_10000000_iq.npz").write_bytes(b"\0" * 1_000_000)
    assert host.present_mb_per_day(tmp_path, time.time()) == 1440
    assert host.present_mb_per_day(tmp_path, time.time() + 2 * 86_400) is None
    assert any("as of the newest files" in f.found for f in host.disk(recorder(tmp_path), 1.0))


def test_days_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gb, verdict in ((0.5, "fail"), (1.5, "fail"), (5.0, "warn"), (50.0, "ok")):
        usage = host.shutil._ntuple_diskusage(10**12, 0, free_gb * 1e9)  # type: ignore[attr-defined]
        monkeypatch.setattr(host.shutil, "disk_usage", lambda _path, usage=usage: usage)
        last = list(host.disk(recorder(tmp_path / "not" / "yet", min_free_gb=1.0), 1000.0))[-1]
        assert (str(last.verdict), "(estimate)" in last.found) == (verdict, True), last


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = next(host.disk(recorder(tmp_path / "file"), 1.0))
    assert found.verdict is Verdict.FAIL and found.mend.startswith("sudo install -d")


def test_what_a_dead_instance_left(names: Names, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    config = recorder(tmp_path, instance=names.instance)
    assert [f.verdict for f in host.left_behind(config)] == [Verdict.OK]
    segment = Segment.create(segment_name(names.instance, "WWV_10_MHz"), 4096)
    try:
        found = only(host.left_behind(config))
        assert f"grape-pipeline-{names.instance}-WWV_10_MHz" in found.found
        assert "salvages" in found.mend
        lock = instances.Lock.acquire(names.instance, 0)
        try:
            stray = only(host.left_behind(replace(config, channels=())))
            assert "are still there" in stray.found or stray.mend.startswith("rm /dev/shm/")
        finally:
            lock.release()
    finally:
        segment.unlink()


# Clock


def test_servers_that_do_not_count_are_named() -> None:
    def line(name: str, state: RowState, reason: str) -> Row:
        return Row(name, None, state, reason, None, None, None, None, 0)

    rows = (line("a", RowState.SYSTEM_PEER, ""), line("b", RowState.FALSETICKER, "falseticker"),
            *(line(f"c{n}", RowState.UNUSABLE, "timeout") for n in range(4)))  # fmt: skip
    found = only(clock.servers(rows))
    assert "5 of 6 servers do not count: b (falseticker), c0 (timeout), c1 (timeout) and 2 more" in found.found
    assert list(clock.servers(rows[:1])) == []


def test_nobody_keeps_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SOURCES", {"chronyd": lambda _ntp: None, "ntpd": lambda _ntp: None})
    found = clock.daemon(Ntp(), KernelState(False, 16.0, 0.0, 0))
    assert found.verdict is Verdict.WARN and "apt install chrony" in found.mend
    assert clock.daemon(Ntp(), KernelState(True, 0.01, 0.0, 0)).verdict is Verdict.OK
    assert clock.daemon(Ntp(), None).verdict is Verdict.WARN


def test_a_clock_that_cannot_be_judged_fails() -> None:
    silent = Server("127.0.0.1", free_port())
    ntp = Ntp(
        servers=(silent,),
        sources=("servers",),
        timeout_s=0.05,
        chronyd_address="127.0.0.1:9",
        ntpd_address="127.0.0.1:9",
    )
    found = list(clock.check(ntp, None))
    assert (found[0].topic, found[0].verdict) == ("clock", Verdict.FAIL)
    assert "1 of 1 servers do not count: 127.0.0.1" in found[1].found


def test_a_running_instance_is_believed_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "measure_once", lambda _ntp: pytest.fail("asked"))
    ntp = Ntp(chronyd_address="127.0.0.1:9", ntpd_address="127.0.0.1:9")
    now = time.monotonic_ns()
    good = NtpRecord(now, now, 0, 0.1, 0.2, 0.1, valid=1, synced=1, state=1, truechimers=4, source="servers:a")
    assert next(clock.check(ntp, good)).verdict is Verdict.OK
    assert next(clock.check(ntp, good.replace(synced=0))).verdict is Verdict.FAIL
    stale = good.replace(published_monotonic_ns=now - 60 * 10**9)
    assert next(clock.check(ntp, stale)).verdict is Verdict.FAIL
    assert next(clock.check(ntp, stale)).found.endswith("nothing was published for 30 s and more")
    unsynced = good.replace(synced=0, valid=0, state=NtpState.UNSYNCED)
    found = next(clock.check(ntp, unsynced, b'{"why": "no server answers (10 timeout)"}'))
    assert found.found.endswith("unsynced: offset unknown; no server answers (10 timeout)")


# The command


def doctor(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings of `doctor --json`."""
    status = run(["doctor", "--json", "-c", str(path)])
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] == (status == 0)
    return status, found["findings"]


def test_without_a_configuration_the_host_is_looked_at_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = doctor(tmp_path / "none.toml", capsys)
    assert status == 1
    (missing,) = [f for f in found if f["verdict"] == "fail" and f["topic"] == "config"]
    assert missing["mend"] == f"grape-pipeline init {tmp_path / 'none.toml'}"
    assert {"software", "buffer", "shm"} <= {f["topic"] for f in found}


def test_every_fault_of_the_configuration_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[ntp]\nx = 1\n[radiod]\ny = 2\n[[channels]]\nname = 'A'\nfrequency_hz = 1e6\n")
    status, found = doctor(path, capsys)
    assert status == 1
    assert [f["found"].split(": ", 1)[1].split(" ")[0] for f in found if f["topic"] == "config"] == [
        "radiod.y",
        "ntp.x",
    ]


def test_a_line_holds_verdict_finding_and_command() -> None:
    found = Finding(Verdict.WARN, "buffer", "is small", "sudo sysctl")
    assert str(found) == "warn  buffer     is small; mend: sudo sysctl"


def test_alerts_need_a_program_that_is_there() -> None:
    def found(**keys: Any) -> list[tuple[str, str]]:
        return [(f.verdict, f.topic) for f in host.alerts(Config(alerts=Alerts(**keys)))]

    assert found() == []
    assert found(command=("/nowhere/mail", "x")) == [("fail", "alerts")]
    assert found(command=("true",)) == found(url="http://127.0.0.1/") == [("ok", "alerts")]


def test_what_all_channels_have_in_common_is_one_line() -> None:
    names = ("WWV 2.5 MHz", "CHU 3.33 MHz", "WWV 10 MHz")
    sent = [warn("radiod", f"{n}: radiod sends 12000 Hz, not 16000", f"in [[channels]] of {n}: rate") for n in names]
    twice = [fail("radiod", f"{n}: SSRC {i} is sent by 127.0.0.1:{i}", "stop one") for i, n in enumerate(names[:2])]
    other = ok("radiod", "3 further streams: ssrc 1, 2, 3")
    assert [(f.found, f.mend) for f in alike([*sent, other, *twice])] == [
        ("WWV 2.5 MHz and 2 more: radiod sends 12000 Hz, not 16000", "in [[channels]] of each: rate"),
        ("3 further streams: ssrc 1, 2, 3", ""),
        ("WWV 2.5 MHz and 1 more: SSRC 0 is sent by 127.0.0.1:0", "stop one"),
    ]
    assert alike([]) == []
