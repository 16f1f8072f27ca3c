"""What an operator is told: every state of the records has its words and its level."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import Channel, Config, Radiod
from pipeline.records import (
    UNKNOWN_NS,
    AlertsRecord,
    AnchorSource,
    ChannelRecord,
    ChannelState,
    ChildRecord,
    ChildState,
    NtpRecord,
    NtpState,
)
from pipeline.supervision.causes import Level, Process, Row, Snapshot, channel_cause, duration_text
from pipeline.supervision.report import lines, supervisor_title
from pipeline.supervision.report_json import status_json, stopped_json
from pipeline.supervision.troubles import Health, health, ntp_cause

S = 1_000_000_000
NOW = 1_000 * S
GOOD = ChannelRecord(
    heartbeat_monotonic_ns=NOW - S // 2,
    started_monotonic_ns=NOW - 600 * S,
    last_packet_monotonic_ns=NOW - S // 50,
    last_status_monotonic_ns=NOW - S // 2,
    last_minute_utc_s=1_764_000_180,
    last_write_monotonic_ns=NOW - 20 * S,
    minutes_written=9,
    packets_received=30_000,
    anchor_uncertainty_ns=300_000,
    frequency_hz=25e6,
    write_ms=45.0,
    completeness_pct=100.0,
    pid=101,
    ssrc=25_000_000,
    sample_rate_hz=16_000,
    state=ChannelState.RECORDING,
    anchor_source=AnchorSource.RADIOD,
    name="WWV 25 MHz",
)
WORKER = ChildRecord(
    started_monotonic_ns=NOW - 600 * S,
    changed_monotonic_ns=NOW - 600 * S,
    heartbeat_monotonic_ns=NOW,
    pid=101,
    state=ChildState.RUNNING,
    name="WWV_25_MHz",
)
NTP = NtpRecord(
    published_monotonic_ns=NOW - 2 * S,
    monotonic_ns=NOW - 3 * S,
    utc_ns=1_764_000_200 * S,
    offset_ms=-0.412,
    uncertainty_ms=1.2,
    jitter_ms=0.1,
    truechimers=7,
    falsetickers=3,
    valid=1,
    synced=1,
    state=NtpState.SYNCED,
    source="time.example",
)
CONFIG = Config(radiod=Radiod(status_address="239.1.2.3:5006"), channels=(Channel("WWV 25 MHz", 25e6, 25_000_000),))


def snapshot(
    child: ChildRecord = WORKER, record: ChannelRecord = GOOD, ntp: NtpRecord = NTP, **values: Any
) -> Snapshot:
    made = Snapshot(
        instance="default",
        now_ns=NOW,
        supervisor_exists=True,
        supervisor=WORKER.replace(pid=99, name="supervisor"),
        monitor=WORKER.replace(pid=100, name="ntp"),
        ntp=ntp,
        rows=(Row(0, child, record),),
        processes={99: Process(0.1, 40.0, 12), 100: Process(0.2, 30.0, 9), 101: Process(0.7, 35.0, 8)},
        config=CONFIG,
        filesystem="ext4",
    )
    return replace(made, **values)


def test_how_the_ntp_queries_go_is_a_line_of_its_own() -> None:
    counters = {"requests": 200, "missed": 3, "query_ms_mean": 31.25, "rejection_rate": 0.05, "fallback_rate": 0.01}
    s = snapshot(ntp_diagnostics=json.dumps({"counters": counters}).encode())
    assert lines(s)[2] == (
        "ntp queries  31.2 ms, unanswered 1.5 %, rejection 5.0 %, fallback 1.0 %, retry 0.0 %, starvation 0.0 %"
    )
    assert status_json(s)["ntp_counters"] == counters
    for nothing in (None, b"", b"{", b"[]", b"{}"):
        assert len(lines(snapshot(ntp_diagnostics=nothing))) == 4
        assert status_json(snapshot(ntp_diagnostics=nothing))["ntp_counters"] is None


def test_all_is_well() -> None:
    assert health(snapshot()).level is Level.OK
    assert health(snapshot()).causes == ()
    assert lines(snapshot()) == [
        "default: OK, 1/1 up, running for 10 min (pid 99)",
        "ntp  -0.412 ms  ± 1.200 ms  synced  7/10 agree  from time.example  measured 3 s ago",
        "processes  supervisor pid 99  ntp pid 100",
        "WWV_25_MHz  OK    16:03Z  100.0 %  lost 0  time radiod ± 0.30 ms",
    ]


CHANNEL_CAUSES: list[tuple[dict[str, Any], Level, str]] = [
    ({"state": ChannelState.UNANCHORED}, Level.WARN, "packets arrive, waiting for the clock"),
    ({"last_packet_monotonic_ns": NOW - 7 * S}, Level.WARN, "silent for 7 s"),
    ({"last_packet_monotonic_ns": NOW - 75 * S}, Level.CRIT, "no packets for 75 s"),
    ({"last_packet_monotonic_ns": UNKNOWN_NS}, Level.CRIT, "no packet in 10 min since the start"),
    ({"heartbeat_monotonic_ns": NOW - 11 * S}, Level.CRIT, "worker gave no sign of life for 11 s"),
    (
        {"state": ChannelState.BLOCKED, "backlog": 3, "reason": "No space left on device"},
        Level.CRIT,
        "3 minutes cannot be written: No space left on device",
    ),
    ({"backlog": 2}, Level.WARN, "2 minutes wait to be written"),
    ({"completeness_pct": 97.312}, Level.WARN, "16:03Z is 97.31 % complete"),
    ({"completeness_pct": 40.0, "minutes_written": 1}, Level.OK, ""),  # it began in the middle
    ({"completeness_pct": 40.0, "last_write_monotonic_ns": NOW - 999 * S}, Level.OK, ""),  # no news
    ({"minutes_dropped": 1}, Level.WARN, "1 minute had to be given up since the start"),
    ({"anchor_source": AnchorSource.NTP}, Level.WARN, "time comes from the host (ntp), not from radiod's status"),
    ({"anchor_source": AnchorSource.WWV}, Level.OK, ""),
]


@pytest.mark.parametrize(("changes", "level", "text"), CHANNEL_CAUSES)
def test_channel_cause(changes: dict[str, Any], level: Level, text: str) -> None:
    s = snapshot(record=GOOD.replace(**changes))
    assert channel_cause(s.rows[0], s) == (level, text)
    assert health(s).causes == ((f"WWV_25_MHz: {text}",) if text else ())


PROCESS_CAUSES: list[tuple[dict[str, Any], Level, str]] = [
    ({"state": ChildState.FATAL, "reason": "interface eth9 does not exist"}, Level.CRIT,
     "given up: interface eth9 does not exist"),
    ({"state": ChildState.BACKOFF, "reason": "exit 70"}, Level.CRIT, "not running: exit 70"),
    ({"state": ChildState.STOPPED}, Level.CRIT, "not running: stopped"),
    ({"state": ChildState.STARTING}, Level.WARN, "starting"),
    ({"state": ChildState.STOPPING, "reason": "asked to stop"}, Level.WARN, "stopping"),
    ({"state": ChildState.STOPPING, "reason": "no sign of life for 11 s"}, Level.CRIT,
     "hangs: no sign of life for 11 s"),
    ({"started_monotonic_ns": NOW - 12 * S, "reason": "killed by SIGKILL"}, Level.WARN,
     "restarted 12 s ago: killed by SIGKILL"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "level", "text"), PROCESS_CAUSES)
def test_cause_from_the_process(changes: dict[str, Any], level: Level, text: str) -> None:
    s = snapshot(child=WORKER.replace(**changes))
    assert channel_cause(s.rows[0], s) == (level, text)


@pytest.mark.parametrize(
    ("lost", "level", "text"),
    [(30, Level.OK, ""), (31, Level.WARN, "31 packets did not come within a minute, 2970 did")],
)
def test_loss_is_told_before_a_file_lacks_it(lost: int, level: Level, text: str) -> None:
    s = snapshot(child=WORKER.replace(packets_lost_1m=lost, packets_received_1m=2970))
    assert channel_cause(s.rows[0], s) == (level, text)


def test_waiting_for_the_first_packet_is_no_alarm_yet() -> None:
    s = snapshot(
        child=WORKER.replace(started_monotonic_ns=NOW - 20 * S),
        record=GOOD.replace(last_packet_monotonic_ns=UNKNOWN_NS, state=ChannelState.STARTING),
    )
    assert channel_cause(s.rows[0], s) == (Level.WARN, "waiting for the first packet")


def test_host_time_is_no_doubt_when_there_is_no_status_to_take_it_from() -> None:
    s = snapshot(record=GOOD.replace(anchor_source=AnchorSource.NTP), config=Config())
    assert channel_cause(s.rows[0], s) == (Level.OK, "")


NTP_CAUSES: list[tuple[dict[str, Any], str]] = [
    ({"published_monotonic_ns": UNKNOWN_NS}, "no verdict yet"),
    ({"published_monotonic_ns": NOW - 45 * S}, "nothing published for 45 s"),
    ({"synced": 0, "valid": 0, "state": NtpState.UNSYNCED}, "not synchronised: no trustworthy server"),
    ({"synced": 0, "valid": 0, "state": NtpState.STARTING}, "no verdict yet"),
    ({"synced": 0, "offset_ms": 250.0, "state": NtpState.UNSYNCED}, "host clock is +250.0 ms off"),
    (
        {"synced": 0, "uncertainty_ms": 150.0, "state": NtpState.UNSYNCED},
        "host clock is known to within 150.0 ms only",
    ),
    ({"synced": 0, "flags": 1, "state": NtpState.UNSYNCED}, "the local daemon contradicts the servers"),
    ({"state": NtpState.HOLDOVER}, "holdover: nothing answers"),
]


@pytest.mark.parametrize(("changes", "text"), NTP_CAUSES)
def test_ntp_is_never_worse_than_a_warning(changes: dict[str, Any], text: str) -> None:
    s = snapshot(ntp=NTP.replace(**changes))
    assert ntp_cause(s) == (Level.WARN, text)
    assert health(s).level is Level.WARN


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"synced": 0, "valid": 0, "state": NtpState.UNSYNCED}, "not synchronised: no server answers (4 timeout)"),
        ({"state": NtpState.HOLDOVER}, "holdover: no server answers (4 timeout)"),
        ({"synced": 0, "flags": 1, "state": NtpState.UNSYNCED}, "no server answers (4 timeout)"),
    ],
)
def test_the_monitors_own_words_say_why(changes: dict[str, Any], text: str) -> None:
    told = json.dumps({"why": "no server answers (4 timeout)"}).encode()
    s = snapshot(ntp=NTP.replace(**changes), ntp_diagnostics=told)
    assert ntp_cause(s) == (Level.WARN, text)
    assert lines(s)[-1] == f"ntp: {text}"
    assert ntp_cause(replace(s, ntp_diagnostics=b"{"))[0] is Level.WARN


def test_dead_monitor_is_a_warning() -> None:
    s = snapshot(monitor=WORKER.replace(name="ntp", state=ChildState.BACKOFF, reason="exit 70"))
    assert health(s).causes == ("ntp: not running: exit 70",)
    assert health(s).level is Level.WARN


def test_dead_supervisor_is_the_only_cause() -> None:
    s = snapshot(supervisor_exists=False, record=GOOD.replace(last_packet_monotonic_ns=NOW - 99 * S))
    assert health(s).level is Level.CRIT
    assert health(s).causes == ("supervisor (pid 99) is dead; start the instance again",)
    assert status_json(s)["state"] == status_json(s)["channels"][0]["state"] == "stopped"
    assert lines(s)[0] == "default: CRIT, 0/1 up"
    assert lines(s)[3].startswith("WWV_25_MHz  CRIT")


def test_silent_supervisor_is_critical() -> None:
    s = snapshot(supervisor=WORKER.replace(pid=99, name="supervisor", heartbeat_monotonic_ns=NOW - 30 * S))
    assert health(s).causes == ("supervisor (pid 99) gave no sign of life for 30 s",)


def test_the_worst_cause_comes_first() -> None:
    bad = Row(1, WORKER.replace(name="B", state=ChildState.FATAL, reason="x"), GOOD)
    s = snapshot(record=GOOD.replace(state=ChannelState.UNANCHORED))
    s = replace(s, rows=(*s.rows, bad))
    assert [cause.split(":")[0] for cause in health(s).causes] == ["B", "WWV_25_MHz"]


SIGMOND_KEYS = {
    "service", "instance", "version", "contract", "state", "uptime_s", "pid", "radiod", "multicast", "channels",
    "spool", "pipeline", "resources", "ntp", "processes",
}  # fmt: skip
CHANNEL_KEYS = {
    "id", "name", "ssrc", "frequency_hz", "sample_rate_hz", "state", "reason", "last_minute", "minutes_written",
    "packets_received", "packets_lost", "packets_late", "packets_duplicate", "packets_bad", "last_packet_age_s",
    "completeness_pct", "anchor_source", "anchor_uncertainty_ms", "write_ms", "backlog",
}  # fmt: skip


def test_json_has_the_keys_of_the_contract_and_no_nan() -> None:
    empty = Row(1, ChildRecord(name="B", state=ChildState.STARTING), ChannelRecord())
    s = replace(snapshot(), rows=(*snapshot().rows, empty), ntp=NtpRecord())
    shown = json.loads(json.dumps(status_json(s), allow_nan=False))
    assert set(shown) >= SIGMOND_KEYS
    for channel in shown["channels"]:
        assert set(channel) >= CHANNEL_KEYS
    good, unknown = shown["channels"]
    assert (good["id"], good["name"], good["state"]) == ("WWV_25_MHz", "WWV 25 MHz", "recording")
    assert (good["last_minute"], good["anchor_uncertainty_ms"]) == ("2025-11-24T16:03:00Z", 0.3)
    assert (unknown["state"], unknown["last_minute"], unknown["completeness_pct"]) == ("starting", None, None)
    assert shown["processes"][2] == {
        "name": "WWV_25_MHz", "pid": 101, "state": "running", "reason": "", "restarts": 0, "uptime_s": 600.0,
        "trouble_age_s": None, "cpu_pct_1m": None, "cpu_pct": 0.7, "rss_mb": 35.0,
    }  # fmt: skip
    assert set(shown["processes"][3]) == set(shown["processes"][2])
    assert shown["radiod"] == {
        "id": "239.1.2.3", "status_addr": "239.1.2.3:5006", "samprate": 16000, "last_status_rx_age_s": 0.5,
    }  # fmt: skip
    assert shown["multicast"]["groups_joined"][0]["group"] == "239.1.2.55"


def test_json_state_words() -> None:
    assert status_json(snapshot())["state"] == "running"
    assert status_json(snapshot(record=GOOD.replace(backlog=5)))["state"] == "degraded"
    assert status_json(snapshot(child=WORKER.replace(state=ChildState.STARTING)))["state"] == "starting"
    assert stopped_json("x")["state"] == "stopped"
    blocked = status_json(snapshot(record=GOOD.replace(state=ChannelState.BLOCKED, backlog=2, reason="full")))
    assert (blocked["spool"]["writable"], blocked["spool"]["depth_files"]) == (False, 2)
    assert blocked["pipeline"]["backpressure"] and blocked["pipeline"]["last_error"] == "full"


def test_dead_workers_last_word_is_not_its_state() -> None:
    s = snapshot(child=WORKER.replace(state=ChildState.BACKOFF, pid=0, reason="exit 70"))
    channel = status_json(s)["channels"][0]
    assert (channel["state"], channel["reason"]) == ("backoff", "not running: exit 70")


def test_nothing_known_yet_prints() -> None:
    s = snapshot(child=ChildRecord(name="B"), record=ChannelRecord(), ntp=NtpRecord(), processes={})
    assert math.isnan(s.rows[0].record.completeness_pct)
    assert lines(s)[1] == "ntp  starting"
    assert lines(s)[3].startswith("B  CRIT")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h 00 min"), (172_800, "2 d 00 h"), (300_000, "3 d 11 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_titles() -> None:
    assert supervisor_title("default", 9, 9, stopping=False) == "supervisor default 9/9 up"
    assert supervisor_title("default", 3, 9, stopping=True) == "supervisor default stopping"


def test_a_restart_is_told_before_what_the_file_lacks() -> None:
    """The restart is news for half a minute, the file for three."""
    for reason, words in (("killed by SIGKILL", "restarted 10 min ago: killed by SIGKILL"), ("", "98.00 % complete")):
        s = snapshot(WORKER.replace(reason=reason), GOOD.replace(completeness_pct=98.0))
        level, text = channel_cause(s.rows[0], s)
        assert level is Level.WARN
        assert words in text


def test_what_is_of_the_last_minute_is_the_supervisors_word() -> None:
    assert status_json(snapshot())["multicast"]["drops_1m"] is None, "not yet known"
    grown = WORKER.replace(
        window_s=60.0, cpu_pct_1m=0.5, packets_received_1m=3_000, packets_lost_1m=12, packets_reordered_1m=1,
        bytes_written_1m=4_000_000,
    )  # fmt: skip
    s = snapshot(child=grown)
    found = status_json(replace(s, supervisor=s.supervisor.replace(cpu_pct_1m=0.25)))
    assert found["multicast"]["groups_joined"][0]["pps"] == 50.0
    assert (found["multicast"]["drops_1m"], found["multicast"]["out_of_order_1m"]) == (12, 1)
    assert found["spool"]["bytes_written_1m"] == 4_000_000
    assert found["resources"]["cpu_pct_1m"] == 0.75


def test_the_spool_says_how_long_its_oldest_minute_waits() -> None:
    assert status_json(snapshot())["spool"]["oldest_age_s"] == 0.0
    waiting = GOOD.replace(oldest_wait_s=42.0, heartbeat_monotonic_ns=NOW - 3 * S)
    assert status_json(snapshot(record=waiting))["spool"]["oldest_age_s"] == 45.0


def test_alerts_are_a_process_like_the_others() -> None:
    alerts = WORKER.replace(pid=102, name="alerts", restarts=2)
    s = replace(snapshot(alerts=alerts), alerts_report=AlertsRecord(NOW, sent=3, open=1))
    assert lines(s)[2].endswith("alerts pid 102 restarted 2x, 3 sent, 0 waiting, 1 open")
    assert [p["name"] for p in status_json(s)["processes"]] == ["supervisor", "ntp", "alerts", "WWV_25_MHz"]
    assert status_json(s)["alerts"] == {"open": 1, "sent": 3, "waiting": 0, "given_up": 0, "last_error": None}
    assert health(s).level is Level.OK
    failing = replace(s, alerts_report=AlertsRecord(NOW, waiting=1, reason="command: exit status 1"))
    assert health(failing) == Health(Level.WARN, ("alerts: not sent (command: exit status 1), 1 waiting",))
    dead = replace(s, alerts=alerts.replace(pid=0, state=ChildState.BACKOFF, reason="killed by SIGKILL"))
    assert health(dead).causes == ("alerts: not running: killed by SIGKILL",)
    assert "alerts not running restarted 2x" in lines(dead)[2]
    assert status_json(snapshot())["alerts"] is None


def test_since_when_is_added_where_the_words_do_not_say_it() -> None:
    since = {"trouble_monotonic_ns": NOW - 200 * S}
    blocked = GOOD.replace(state=ChannelState.BLOCKED, backlog=2, reason="disk full")
    told = health(snapshot(child=WORKER.replace(**since), record=blocked)).causes
    assert told == ("WWV_25_MHz: 2 minutes cannot be written: disk full (for 3 min)",)
    silent = GOOD.replace(last_packet_monotonic_ns=NOW - 75 * S)
    told = health(snapshot(child=WORKER.replace(**since), record=silent)).causes
    assert told == ("WWV_25_MHz: no packets for 75 s",)


def test_a_pause_is_news_for_an_hour() -> None:
    s = snapshot()
    paused = replace(s, supervisor=s.supervisor.replace(paused_monotonic_ns=NOW - 40 * S, paused_s=3.1))
    assert lines(paused)[0].endswith("; the supervisor could not run for 3.1 s, 40 s ago")
    assert health(paused).level is Level.OK
    long_ago = replace(s, supervisor=s.supervisor.replace(paused_monotonic_ns=NOW - 3601 * S, paused_s=3.1))
    assert "could not" not in lines(long_ago)[0]
