"""GET /metrics: a snapshot in Prometheus' text format, written by prometheus-client.

Base units (seconds, bytes, ratios) as Prometheus asks for; what is unknown has no sample.
Counters of channels run since the instance started and survive their workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline import __version__
from pipeline.records import UNKNOWN_NS, AnchorSource, ChildState
from pipeline.supervision.causes import Row, Snapshot, age_s, channel_cause
from pipeline.supervision.troubles import health

PREFIX = "grape_pipeline"
Value = float | None


def text(s: Snapshot) -> str:
    """The whole exposition of one snapshot."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(s))
    return generate_latest(registry).decode()


class _Once(Collector):
    """Gives one snapshot, in the way that the library asks for metrics."""

    def __init__(self, s: Snapshot) -> None:
        self._snapshot = s

    def collect(self) -> Iterable[Metric]:
        s = self._snapshot
        yield InfoMetricFamily(PREFIX, "Version and instance.", {"version": __version__, "name": s.instance})
        yield _gauge("health", "0 = all is well, 1 = something has to be known, 2 = data is lost.", health(s).level)
        yield from _ntp(s)
        yield from _channels(s)
        yield from _processes(s)


def _gauge(name: str, meaning: str, value: Value) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def _ntp(s: Snapshot) -> Iterator[Metric]:
    view = s.ntp.at(s.now_ns, s.config.ntp.stale_after_s)
    for key, meaning in (
        ("offset", "Host clock minus UTC, seconds; positive = ahead."),
        ("uncertainty", "Bound on the error of the offset, seconds."),
        ("jitter", "Expected error of the offset, seconds."),
    ):
        value = view[f"{key}_ms"]
        yield _gauge(f"ntp_{key}_seconds", meaning, None if value is None else value / 1e3)
    yield _gauge("ntp_valid", "1 = the offset can be trusted.", float(view["valid"]))
    yield _gauge("ntp_synced", "1 = valid and within tolerance.", float(view["synced"]))
    yield _gauge("ntp_age_seconds", "Time since the measurement.", view["age_s"])
    yield _gauge("ntp_stratum", "Stratum of the source.", view["stratum"])
    yield _gauge("ntp_truechimers", "Servers that agree.", view["truechimers"])
    yield _gauge("ntp_falsetickers", "Servers that answered and disagree.", view["falsetickers"])
    yield CounterMetricFamily(f"{PREFIX}_clock_steps", "Steps of the host clock.", view["step_count"])


_COUNTERS: tuple[tuple[str, str, Callable[[Row], int]], ...] = (
    ("packets_received", "RTP packets taken.", lambda row: row.record.packets_received),
    ("packets_lost", "Sequence numbers that never came.", lambda row: row.record.packets_lost),
    ("packets_late", "Packets after their minute was cut.", lambda row: row.record.packets_late),
    ("packets_duplicate", "Packets that came again.", lambda row: row.record.packets_duplicate),
    ("packets_reordered", "Packets after later ones, in time.", lambda row: row.record.packets_reordered),
    ("packets_bad", "Malformed or foreign datagrams.", lambda row: row.record.packets_bad),
    ("gaps", "Gaps listed in the files.", lambda row: row.record.gap_events),
    ("written_bytes", "Size of the files.", lambda row: row.record.bytes_written),
    ("minutes_written", "Minute files.", lambda row: row.record.minutes_written),
    ("minutes_dropped", "Minutes given up.", lambda row: row.record.minutes_dropped),
    ("epochs", "RTP timelines.", lambda row: row.record.epoch_id),
)


def _age(field: str) -> Callable[[Row, Snapshot], Value]:
    return lambda row, s: age_s(getattr(row.record, field), s.now_ns)


def _seconds(ns: int) -> Value:
    return None if ns == UNKNOWN_NS else ns / 1e9


_GAUGES: tuple[tuple[str, str, Callable[[Row, Snapshot], Value]], ...] = (
    ("health", "0 = well, 1 = something has to be known, 2 = data is lost.", lambda r, s: channel_cause(r, s)[0]),
    ("last_packet_age_seconds", "Time since a packet came.", _age("last_packet_monotonic_ns")),
    ("last_status_age_seconds", "Time since radiod's status.", _age("last_status_monotonic_ns")),
    ("last_write_age_seconds", "Time since a file was made.", _age("last_write_monotonic_ns")),
    ("last_minute_timestamp_seconds", "Unix time of the newest file.", lambda r, s: r.record.last_minute_utc_s or None),
    ("completeness_ratio", "Samples received of the newest file.", lambda r, s: r.record.completeness_pct / 100),
    ("running_minute_ratio", "Received so far of the running minute.", lambda r, s: r.record.minute_fill_pct / 100),
    ("level_dbfs", "Mean power relative to full scale, dB.", lambda r, s: r.record.level_dbfs),
    ("anchor_uncertainty_seconds", "Error bound of labels.", lambda r, s: _seconds(r.record.anchor_uncertainty_ns)),
    ("write_seconds", "Duration of the newest write.", lambda r, s: r.record.write_ms / 1e3),
    ("backlog_minutes", "Minutes that are over and not on disk.", lambda r, s: r.record.backlog),
    ("sample_rate_hertz", "Sample rate in force.", lambda r, s: r.record.sample_rate_hz or None),
    ("frequency_hertz", "Carrier frequency.", lambda r, s: r.record.frequency_hz),
    ("socket_buffer_bytes", "Receive buffer granted.", lambda r, s: r.record.socket_buffer_bytes or None),
)


def _channels(s: Snapshot) -> Iterator[Metric]:
    for name, meaning, count in _COUNTERS:
        counter = CounterMetricFamily(f"{PREFIX}_channel_{name}", meaning, labels=["channel"])
        for row in s.rows:
            counter.add_metric([row.child.name], count(row))
        yield counter
    for name, meaning, read in _GAUGES:
        gauge = GaugeMetricFamily(f"{PREFIX}_channel_{name}", meaning, labels=["channel"])
        for row in s.rows:
            value = read(row, s)
            if value is not None and not math.isnan(value):
                gauge.add_metric([row.child.name], value)
        yield gauge
    anchor = GaugeMetricFamily(f"{PREFIX}_channel_anchor", "1 for the source of labels.", labels=["channel", "source"])
    for row in s.rows:
        anchor.add_metric([row.child.name, AnchorSource(row.record.anchor_source).name.lower()], 1)
    yield anchor


def _processes(s: Snapshot) -> Iterator[Metric]:
    up = GaugeMetricFamily(f"{PREFIX}_process_up", "1 = it runs.", labels=["process"])
    restarts = CounterMetricFamily(f"{PREFIX}_process_restarts", "Times started again.", labels=["process"])
    cpu = CounterMetricFamily(f"{PREFIX}_process_cpu_seconds", "CPU time since its start.", labels=["process"])
    memory = GaugeMetricFamily(f"{PREFIX}_process_resident_bytes", "Memory, shared pages too.", labels=["process"])
    for child in s.children:
        up.add_metric([child.name], float(child.state == ChildState.RUNNING))
        restarts.add_metric([child.name], child.restarts)
        found = s.processes.get(child.pid)
        if found is not None:
            memory.add_metric([child.name], found.rss_mb * 1e6)
            if not math.isnan(found.cpu_s):
                cpu.add_metric([child.name], found.cpu_s)
    yield from (up, restarts, cpu, memory)
