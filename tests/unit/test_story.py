"""The log of an instance's troubles, and what is known of its last minute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.records import UNKNOWN_NS, ChannelState
from pipeline.supervision.causes import Snapshot
from pipeline.supervision.lastminute import LastMinute
from pipeline.supervision.story import Story
from snapshots import NOW, S, row, snapshot


def silent(seconds: int, at_s: int) -> Snapshot:
    """One channel that has been silent for so long, looked at `at_s` after the beginning."""
    now = NOW + at_s * S
    s = snapshot(row(1, last_packet_monotonic_ns=now - seconds * S), now_ns=now)
    return refreshed(s, now)


def refreshed(s: Snapshot, now: int) -> Snapshot:
    """As it is when everything but its troubles is of now."""
    made = tuple(replace(r, record=r.record.replace(heartbeat_monotonic_ns=now)) for r in s.rows)
    ntp = s.ntp.replace(published_monotonic_ns=now, monotonic_ns=now)
    return replace(s, rows=made, ntp=ntp, supervisor=s.supervisor.replace(heartbeat_monotonic_ns=now))


def told(story: Story, s: Snapshot) -> list[str]:
    return [f"{line.level.name} {line.who}: {line.text}" for line in story.look(s)]


def test_a_trouble_is_told_when_it_has_lasted_when_it_gets_worse_and_when_it_is_over() -> None:
    story = Story()
    assert told(story, silent(0, 0)) == []
    assert told(story, silent(6, 6)) == []
    assert story.since("WWV_1_MHz") == NOW + 6 * S
    assert told(story, silent(9, 9)) == ["WARN WWV_1_MHz: silent for 9 s"]
    assert told(story, silent(20, 20)) == [], "told once"
    assert told(story, silent(61, 61)) == ["CRIT WWV_1_MHz: no packets for 61 s"]
    assert told(story, silent(8000, 8000)) == [], "the same in hours"
    assert told(story, silent(0, 8000)) == ["OK WWV_1_MHz: well again after 2 h 13 min"]
    assert story.since("WWV_1_MHz") == UNKNOWN_NS


def test_what_passes_within_seconds_is_not_told() -> None:
    story = Story()
    assert told(story, silent(6, 6)) == []
    assert told(story, silent(0, 8)) == []


def test_what_the_supervisor_has_logged_is_not_told_again() -> None:
    story = Story()
    for at_s in (0, 5, 10):
        now = NOW + at_s * S
        s = refreshed(snapshot(row(1, last_packet_monotonic_ns=now), now_ns=now), now)
        child = s.rows[0].child.replace(reason="killed by SIGKILL")
        assert told(story, replace(s, rows=(replace(s.rows[0], child=child),))) == []
    assert story.since("WWV_1_MHz") == NOW


def test_troubles_of_different_kinds_follow_each_other() -> None:
    story = Story()
    blocked = {"state": ChannelState.BLOCKED, "backlog": 1, "reason": "minutes wait in memory: disk full"}
    for at_s, minutes, expected in (
        (0, 1, []),
        (4, 1, ["CRIT WWV_1_MHz: 1 minute cannot be written: minutes wait in memory: disk full"]),
        (64, 2, []),
    ):
        now = NOW + at_s * S
        blocked["backlog"] = minutes
        s = refreshed(snapshot(row(1, last_packet_monotonic_ns=now, **blocked), now_ns=now), now)
        assert told(story, s) == expected


def test_the_last_minute_of_a_counter_that_begins_anew() -> None:
    minute = LastMinute()
    assert minute.grown() is None
    minute.add(0, (100.0, 7.0))
    assert minute.grown() is None
    minute.add(5 * S, (103.0, 9.0))
    assert minute.grown() == (5.0, (3.0, 2.0))
    minute.add(10 * S, (1.0, 10.0))  # a new process, say
    assert minute.grown() == (10.0, (4.0, 3.0))


@pytest.mark.parametrize("count", [20, 100])
def test_the_last_minute_is_a_minute(count: int) -> None:
    minute = LastMinute()
    for number in range(count):
        assert minute.due(number * 5 * S)
        minute.add(number * 5 * S, (number * 10.0,))
        assert not minute.due(number * 5 * S + 4 * S)
    assert minute.grown() == (60.0, (120.0,))
