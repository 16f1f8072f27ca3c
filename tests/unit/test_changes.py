"""The smallest change from one configuration to another."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import Channel, Config, Logging, Ntp, Radiod, Recorder, Station, Supervision
from pipeline.supervision.changes import Change, Plan, plan

A, B, C = (Channel(name, 1e6 * i, i) for i, name in enumerate("ABC", start=1))
OLD = Config(channels=(A, B))


def test_equal_configurations_touch_nothing() -> None:
    assert plan(OLD, Config(channels=(B, A))) == Plan()
    assert str(Plan()) == "no process is touched"


def test_log_level_and_limits_touch_nothing() -> None:
    new = replace(OLD, logging=Logging("DEBUG"), supervisor=Supervision(backoff_max_s=5))
    assert plan(OLD, new) == Plan()


def test_added_dropped_and_disabled_channels() -> None:
    assert plan(OLD, replace(OLD, channels=(A, C))) == Plan(drop=("B",), add=(C,))
    assert plan(OLD, replace(OLD, channels=(A, replace(B, enabled=False)))) == Plan(drop=("B",))


def test_renamed_channel_is_another_channel() -> None:
    new = replace(A, name="A2")
    assert plan(OLD, replace(OLD, channels=(new, B))) == Plan(drop=("A",), add=(new,))


def test_altered_channel_keeps_what_still_fits() -> None:
    for changes, new_sockets, new_journal in (
        ({"stations": ("WWV",)}, False, False),
        ({"ssrc": 9}, True, True),
        ({"data_address": "239.9.9.9:5004"}, True, False),
        ({"sample_rate_hz": 8000}, False, True),
    ):
        new = replace(B, **changes)  # type: ignore[arg-type]
        assert plan(OLD, replace(OLD, channels=(A, new))) == Plan(change=(Change(new, new_sockets, new_journal),))


def test_what_every_worker_was_told_changes_them_all() -> None:
    for new, new_sockets, new_journal in (
        (replace(OLD, station=Station(callsign="AC0G")), False, False),
        (replace(OLD, recorder=Recorder(compression_level=6)), False, False),
        (replace(OLD, recorder=Recorder(buffer_minutes=20)), False, True),
        (replace(OLD, radiod=Radiod(interface="eth0")), True, False),
    ):
        expected = tuple(Change(c, new_sockets, new_journal) for c in (A, B))
        assert plan(OLD, new) == Plan(change=expected)


def test_ntp_restarts_the_monitor_alone() -> None:
    assert plan(OLD, replace(OLD, ntp=Ntp(timeout_s=2.0))) == Plan(monitor=True)


def test_steps_in_words() -> None:
    steps = Plan(drop=("B",), add=(C,), change=(Change(A, False, False),), monitor=True)
    assert str(steps) == "drop B, add C, restart A, restart ntp"
