"""Alerts: what counts as wrong, that an incident is one message, and what the message says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alerts.conditions import conditions
from pipeline.alerts.incidents import Event, Incidents
from pipeline.alerts.message import MAX_TEXT, message
from pipeline.config import Alerts, Channel, Config, ConfigError, Recorder, Station, parse_config
from pipeline.records import UNKNOWN_NS, ChannelState, ChildState
from pipeline.supervision.causes import Row, Snapshot
from snapshots import NOW, S, row, snapshot

CONFIG = Config(channels=(Channel("A", 1e6, 1),))  # 6.9 GB a day at most
SILENT = {("silent", "A"): "silent for 9 s"}


def with_child(found: Row, **changes: object) -> Row:
    return replace(found, child=found.child.replace(**changes))


def kinds(s: Snapshot, free_gb: float | None = 1000.0, was_low: bool = False) -> set[tuple[str, str]]:
    return set(conditions(replace(s, config=CONFIG), free_gb, was_low))


def test_a_sound_instance_is_no_condition() -> None:
    assert kinds(snapshot(row(1), row(2))) == set()


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (row(1, last_packet_monotonic_ns=NOW - 9 * S), "silent"),
        (row(1, last_packet_monotonic_ns=UNKNOWN_NS), "silent"),
        (row(1, state=ChannelState.BLOCKED, reason="disk full", backlog=2), "not_recording"),
        (row(1, heartbeat_monotonic_ns=NOW - 30 * S), "not_recording"),
        (with_child(row(1), state=ChildState.FATAL, reason="configuration"), "not_recording"),
        (with_child(row(1), state=ChildState.BACKOFF, reason="killed by SIGKILL"), "not_recording"),
        (with_child(row(1), state=ChildState.STARTING), None),
        (row(1, completeness_pct=50.0), None),
    ],
)
def test_conditions_of_a_channel(found: Row, kind: str | None) -> None:
    assert kinds(snapshot(found, row(2))) == ({(kind, "WWV_1_MHz")} if kind else set())


def test_conditions_of_the_instance() -> None:
    s = snapshot(row(1))
    assert kinds(replace(s, ntp=s.ntp.replace(synced=0))) == {("clock", "")}
    dead = replace(snapshot(row(1, last_packet_monotonic_ns=NOW - 99 * S)), supervisor_exists=False)
    assert kinds(dead) == {("not_recording", "")}, "the rest follows from it"
    stopping = replace(dead, supervisor_exists=True, supervisor=s.supervisor.replace(state=ChildState.STOPPING))
    assert kinds(stopping) == set(), "a stop is no incident"


def test_the_disk_is_low_until_there_is_a_quarter_more() -> None:
    s = snapshot(row(1))
    low = 1 + 2 * 6.912  # min_free_gb and two days
    assert kinds(s, low - 0.1) == {("disk", "")}
    assert kinds(s, low + 0.1) == set()
    assert kinds(s, low + 0.1, was_low=True) == {("disk", "")}
    assert kinds(s, 1 + 2.6 * 6.912, was_low=True) == set()
    assert kinds(s, None) == set()
    kept = replace(s, config=replace(CONFIG, recorder=Recorder(retention_days=30)))
    assert set(conditions(kept, 1 + 0.6 * 6.912, False)) == set(), "as full as it is meant to be"
    assert set(conditions(kept, 1 + 0.4 * 6.912, False)) == {("disk", "")}


def test_only_what_was_asked_for() -> None:
    s = replace(snapshot(row(1, last_packet_monotonic_ns=NOW - 9 * S)), supervisor_exists=True)
    only = replace(CONFIG, alerts=Alerts(on=("clock", "disk")))
    assert conditions(replace(s, config=only), 0.0, False).keys() == {("disk", "")}


# Incidents


def test_short_is_nothing_and_long_is_one_message_and_its_end() -> None:
    incidents = Incidents(after_s=60, clear_after_s=300)
    assert incidents.update(0, SILENT) == []
    assert incidents.update(20, {}) == []
    assert incidents.update(50, {}) == [], "half of after_s without it: forgotten"
    assert incidents.update(51, SILENT) == []
    told = [(t, incidents.update(t, SILENT)) for t in range(52, 400)]
    assert [(t, e) for t, e in told if e] == [(111, [Event(True, "silent", {"A": "silent for 9 s"}, 60.0)])]
    assert incidents.update(400, {}) == []
    assert incidents.update(500, SILENT) == [], "back before it was over: the same incident"
    assert incidents.update(510, {}) == []
    assert incidents.update(809, {}) == []
    assert incidents.update(810, {}) == [Event(False, "silent", {"A": "silent for 9 s"}, 759.0)]
    assert incidents.update(2000, {}) == []


def test_what_blinks_is_told_once() -> None:
    incidents = Incidents(60, 300)
    events = [e for t in range(3600) for e in incidents.update(t, SILENT if t % 25 < 5 else {})]
    assert [e.begins for e in events] == [True]


def test_channels_that_fall_silent_together_are_one_message() -> None:
    incidents = Incidents(60, 300)
    events = []
    for t in range(2000):
        wrong = {("silent", f"C{i}"): "silent" for i in range(9) if 2 * i < t < 600 + 2 * i}
        wrong |= {("silent", "later"): "silent"} if 300 < t < 1000 else {}
        wrong |= {("clock", ""): "not synchronised"} if t < 1000 else {}
        events += [(t, e) for e in incidents.update(t, wrong)]
    begun = [(t, e.kind, len(e.texts)) for t, e in events if e.begins]
    assert begun == [(60, "clock", 1), (61, "silent", 9), (361, "silent", 1)]
    over = [(e.kind, len(e.texts)) for _, e in events if not e.begins]
    assert over == [("silent", 9), ("clock", 1), ("silent", 1)]


def test_a_restart_tells_nothing_twice() -> None:
    first = Incidents(60, 300)
    first.update(0, SILENT)
    assert first.update(60, SILENT)
    second = Incidents(60, 300)
    second.restore(first.told(100.0), now_s=5.0)
    assert [e for t in range(5, 500) for e in second.update(t, SILENT)] == []
    (over,) = [e for t in range(500, 900) for e in second.update(t, {})]
    assert not over.begins
    assert over.lasted_s == pytest.approx(100 + 795)


@given(st.lists(st.tuples(st.integers(1, 120), st.sets(st.sampled_from("AB"))), max_size=60))
def test_begins_and_ends_take_turns(history: list[tuple[int, set[str]]]) -> None:
    incidents, now = Incidents(60, 300), 0
    is_open: set[str] = set()
    for step, wrong in history:
        now += step
        for event in incidents.update(now, {("silent", name): "x" for name in wrong}):
            names = set(event.texts)
            assert names.isdisjoint(is_open) if event.begins else names <= is_open
            is_open = is_open | names if event.begins else is_open - names
    assert set(incidents.told(now)) == {("silent", name) for name in is_open}


# Messages


def test_a_message_says_who_what_and_since_when() -> None:
    event = Event(True, "silent", {"WWV_10_MHz": "no packets for 90 s"}, 62.0)
    made = message(event, "default", "pi", Station(callsign="AC0G"), "2026-11-27T02:00:00+00:00")
    assert made.subject == "grape-pipeline default on pi: WWV_10_MHz silent"
    assert made.text == f"{made.subject}\n\nWWV_10_MHz: no packets for 90 s"
    fields = json.loads(made.json)
    assert (fields["event"], fields["kind"], fields["channels"]) == ("begins", "silent", ["WWV_10_MHz"])
    assert fields["station"] == "AC0G"
    over = message(replace(event, begins=False), "default", "pi", Station(), "now")
    assert over.subject == "grape-pipeline default on pi: WWV_10_MHz heard again"
    assert "over after 62 s; it was:\nWWV_10_MHz: no packets" in over.text


def test_many_channels_are_counted_and_a_long_text_is_cut() -> None:
    event = Event(True, "silent", {f"C{i}": "x" * 100 for i in range(64)}, 0.0)
    made = message(event, "default", "pi", Station(), "now")
    assert made.subject.endswith("64 channels silent")
    assert len(made.text) == MAX_TEXT
    assert len(made.fields["causes"]) == 64


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http:///x", "file:///etc/passwd", "ntfy.sh/x", "http://a b/", "http://é/"]
)
def test_only_http_can_be_posted_to(url: str) -> None:
    with pytest.raises(ConfigError, match="alerts.url"):
        parse_config({"alerts": {"url": url}}, need_channels=False)
