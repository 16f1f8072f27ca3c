"""GET /metrics: what Prometheus' own parser makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from pipeline.records import ChannelState, ChildState, NtpRecord
from pipeline.supervision.causes import Snapshot
from pipeline.supervision.metrics import text
from snapshots import NOW, S, row, snapshot


def samples(s: Snapshot) -> dict[tuple[str, ...], float]:
    """(name, label values ...) to value."""
    return {
        (each.name.removeprefix("grape_pipeline_"), *each.labels.values()): each.value
        for family in text_string_to_metric_families(text(s))
        for each in family.samples
    }


def test_values_have_base_units() -> None:
    found = samples(snapshot(row(1, packets_lost=12, last_packet_monotonic_ns=NOW - 2 * S)))
    assert found["ntp_offset_seconds",] == -0.000412
    assert found["channel_packets_lost_total", "WWV_1_MHz"] == 12
    assert found["channel_last_packet_age_seconds", "WWV_1_MHz"] == 2.0
    assert found["channel_completeness_ratio", "WWV_1_MHz"] == 1.0
    assert found["channel_write_seconds", "WWV_1_MHz"] == 0.045
    assert found["channel_anchor_uncertainty_seconds", "WWV_1_MHz"] == 0.00031
    assert found["channel_anchor", "WWV_1_MHz", "radiod"] == 1
    assert found["process_up", "WWV_1_MHz"] == 1
    assert found["process_restarts_total", "WWV_1_MHz"] == 2
    assert found["process_cpu_seconds_total", "ntp"] == 5.0
    assert found["process_resident_bytes", "supervisor"] == 38.2e6
    assert found["health",] == 0


def test_every_family_has_help_and_a_type() -> None:
    for family in text_string_to_metric_families(text(snapshot(row(1)))):
        assert family.documentation and family.type != "unknown", family.name


def test_unknown_is_absent_and_nothing_is_zero_for_want_of_a_value() -> None:
    s = replace(snapshot(row(1, level_dbfs=math.nan, last_minute_utc_s=0)), ntp=NtpRecord(), processes={})
    names = {key[0] for key in samples(s)}
    assert not names & {
        "ntp_offset_seconds", "ntp_age_seconds", "channel_level_dbfs", "channel_last_minute_timestamp_seconds",
        "process_cpu_seconds_total", "process_resident_bytes",
    }  # fmt: skip
    assert {"ntp_valid", "channel_completeness_ratio"} <= names


def test_health_of_a_channel_and_of_all() -> None:
    bad = row(1, state=ChannelState.BLOCKED, reason="disk full")
    found = samples(snapshot(row(0), bad))
    assert found["channel_health", "WWV_0_MHz"] == 0
    assert found["channel_health", "WWV_1_MHz"] == 2
    assert found["health",] == 2


def test_a_dead_process_is_down() -> None:
    healthy = row(1)
    dead = replace(healthy, child=healthy.child.replace(state=ChildState.BACKOFF, pid=0))
    assert samples(snapshot(dead))["process_up", "WWV_1_MHz"] == 0
