"""The JSON of `status --json` and GET /status: HamSCI sigmond's shape and our own keys.

Pure. Ages instead of times, null for what is unknown; nothing is invented to fill a key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pipeline import DISTRIBUTION, __version__
from pipeline.ntp.report import parse_diagnostics
from pipeline.records import (
    UNKNOWN_NS,
    AnchorSource,
    ChannelState,
    ChildRecord,
    ChildState,
    none_if_nan,
)
from pipeline.supervision.causes import Level, Row, Snapshot, age_s, channel_cause, minute_text
from pipeline.supervision.troubles import health

CONTRACT_VERSION = "0.8"


def status_json(s: Snapshot) -> dict[str, Any]:
    """The instance as JSON types.

    Keys in `_1m` are of the last minute, of as much as there is in a run's first, null in its first 5 s.
    """
    verdict = health(s)
    return {
        "service": DISTRIBUTION,
        "instance": s.instance,
        "version": __version__,
        "contract": CONTRACT_VERSION,
        "state": _state(s, verdict.level),
        "level": verdict.level.name,
        "causes": list(verdict.causes),
        "uptime_s": age_s(s.supervisor.started_monotonic_ns, s.now_ns) if s.supervisor_exists else None,
        "pid": s.supervisor.pid or None,
        "paused_s": none_if_nan(s.supervisor.paused_s),
        "last_pause_age_s": age_s(s.supervisor.paused_monotonic_ns, s.now_ns),
        "ntp": s.ntp.at(s.now_ns, s.config.ntp.stale_after_s),
        "ntp_counters": parse_diagnostics(s.ntp_diagnostics).get("counters"),
        "radiod": _radiod(s),
        "multicast": _multicast(s),
        "channels": [_channel(row, s) for row in s.rows],
        "processes": [_process(child, s) for child in s.children],
        "spool": _spool(s),
        "pipeline": _pipeline(s),
        "resources": _resources(s),
        "alerts": _alerts(s),
    }


def stopped_json(instance: str) -> dict[str, Any]:
    """The same for an instance that does not run."""
    return {
        "service": DISTRIBUTION,
        "instance": instance,
        "version": __version__,
        "contract": CONTRACT_VERSION,
        "state": "stopped",
        "level": None,
        "causes": ["not running"],
        "uptime_s": None,
        "pid": None,
        "channels": [],
        "processes": [],
    }


def unseen_json(instance: str, pid: int, why: str) -> dict[str, Any]:
    """The same for one that runs and cannot be looked at."""
    return stopped_json(instance) | {"state": "degraded", "level": Level.CRIT.name, "causes": [why], "pid": pid}


def _state(s: Snapshot, level: Level) -> str:
    if not s.supervisor_exists:
        return "stopped"
    starting = all(row.child.state == ChildState.STARTING for row in s.rows)
    if s.rows and starting:
        return "starting"
    return "running" if level is Level.OK else "degraded"


def _newest(ages: list[float | None]) -> float | None:
    return min((age for age in ages if age is not None), default=None)


def _radiod(s: Snapshot) -> dict[str, Any]:
    address = s.config.radiod.status_address
    rates = {row.record.sample_rate_hz for row in s.rows if row.record.sample_rate_hz}
    return {
        "id": address.rpartition(":")[0] or address if address else None,
        "status_addr": address,
        "samprate": rates.pop() if len(rates) == 1 else None,
        "last_status_rx_age_s": _newest([age_s(row.record.last_status_monotonic_ns, s.now_ns) for row in s.rows]),
    }


def _in_last_minute(name: str, rows: Iterable[Row]) -> tuple[float, float] | None:
    """(growth of a counter over these channels within the last minute, mean window in s); None before it is known."""
    children = [row.child for row in rows if not math.isnan(row.child.window_s)]
    if not children:
        return None
    windows = sum(child.window_s for child in children) / len(children)
    return sum(getattr(child, f"{name}_1m") for child in children), windows


def _count_1m(name: str, rows: Iterable[Row]) -> float | None:
    found = _in_last_minute(name, rows)
    return None if found is None else found[0]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _multicast(s: Snapshot) -> dict[str, Any]:
    groups: dict[str, list[str]] = {}
    for channel in s.config.enabled_channels:
        groups.setdefault(channel.data_address, []).append(channel.id)
    joined = []
    for address, ids in groups.items():
        rows = [row for row in s.rows if row.child.name in ids]
        received = _in_last_minute("packets_received", rows)
        host, _, port = address.rpartition(":")
        joined.append(
            {
                "group": host or address,
                "port": int(port) if port.isdigit() else None,
                "iface": s.config.radiod.interface,
                "last_pkt_age_s": _newest([age_s(row.record.last_packet_monotonic_ns, s.now_ns) for row in rows]),
                "pps": _rounded(received and received[0] / received[1]),
                # The kernel tells nobody when it last answered a querier (net/ipv4/igmp.c).
                "last_igmp_report_age_s": None,
            }
        )
    return {
        "groups_joined": joined,
        "drops_1m": _count_1m("packets_lost", s.rows),
        "out_of_order_1m": _count_1m("packets_reordered", s.rows),
    }


def _channel(row: Row, s: Snapshot) -> dict[str, Any]:
    r = row.record
    level, cause = channel_cause(row, s)
    process = ChildState(row.child.state)
    # What a worker said last is only true while it lives.
    lives = s.supervisor_exists and process is ChildState.RUNNING
    state = ChannelState(r.state).name if lives else process.name if s.supervisor_exists else "stopped"
    known = r.anchor_uncertainty_ns != UNKNOWN_NS
    return {
        "id": row.child.name,
        "name": r.name or row.child.name,
        "enabled": True,
        "ssrc": r.ssrc or None,
        "frequency_hz": none_if_nan(r.frequency_hz),
        "sample_rate_hz": r.sample_rate_hz or None,
        "state": state.lower(),
        "level": level.name,
        "reason": cause or r.reason,
        "last_minute": minute_text(r.last_minute_utc_s),
        "minutes_written": r.minutes_written,
        "minutes_dropped": r.minutes_dropped,
        "packets_received": r.packets_received,
        "packets_lost": r.packets_lost,
        "packets_late": r.packets_late,
        "packets_duplicate": r.packets_duplicate,
        "packets_reordered": r.packets_reordered,
        "packets_bad": r.packets_bad,
        "socket_dropped": r.socket_dropped,
        "last_packet_age_s": age_s(r.last_packet_monotonic_ns, s.now_ns),
        "gap_events": r.gap_events,
        "bytes_written": r.bytes_written,
        "completeness_pct": none_if_nan(r.completeness_pct),
        "minute_fill_pct": none_if_nan(r.minute_fill_pct),
        "level_dbfs": none_if_nan(r.level_dbfs),
        "anchor_source": AnchorSource(r.anchor_source).name.lower(),
        "anchor_uncertainty_ms": r.anchor_uncertainty_ns / 1e6 if known else None,
        "radiod_offset_ms": none_if_nan(r.radiod_offset_ms),
        "epoch_id": r.epoch_id,
        "write_ms": none_if_nan(r.write_ms),
        "last_write_age_s": age_s(r.last_write_monotonic_ns, s.now_ns),
        "backlog": r.backlog,
    }


def _process(child: ChildRecord, s: Snapshot) -> dict[str, Any]:
    found = s.processes.get(child.pid)
    return {
        "name": child.name,
        "pid": child.pid or None,
        "state": ChildState(child.state).name.lower(),
        "reason": child.reason,
        "restarts": child.restarts,
        "uptime_s": age_s(child.started_monotonic_ns, s.now_ns) if child.pid else None,
        "trouble_age_s": age_s(child.trouble_monotonic_ns, s.now_ns),
        "cpu_pct_1m": _rounded(none_if_nan(child.cpu_pct_1m)),
        "cpu_pct": found and round(found.cpu_pct, 2),
        "rss_mb": found and round(found.rss_mb, 1),
    }


def _spool(s: Snapshot) -> dict[str, Any]:
    """Minutes that are over and not on disk; `oldest_age_s` is 0 when there is none."""
    records = [row.record for row in s.rows]
    blocked = any(r.state == ChannelState.BLOCKED for r in records)
    # A worker that is away at present has said it a while ago.
    waits = [
        r.oldest_wait_s + (age_s(r.heartbeat_monotonic_ns, s.now_ns) or 0.0)
        for r in records
        if not math.isnan(r.oldest_wait_s)
    ]
    newest = max(records, key=lambda r: r.last_write_monotonic_ns, default=None)
    free = newest.disk_free_bytes if newest is not None and newest.disk_free_bytes != UNKNOWN_NS else None
    return {
        "dir": str(s.config.recorder.data_dir),
        "fs": s.filesystem,
        "depth_files": sum(row.record.backlog for row in s.rows),
        "oldest_age_s": max(waits, default=0.0),
        "bytes_written_1m": _count_1m("bytes_written", s.rows),
        "free_bytes": free,
        "writable": not blocked,
    }


def _pipeline(s: Snapshot) -> dict[str, Any]:
    blocked = [row for row in s.rows if row.record.state == ChannelState.BLOCKED]
    backlog = sum(row.record.backlog for row in s.rows)
    return {
        "lag_s": _newest([age_s(row.record.last_packet_monotonic_ns, s.now_ns) for row in s.rows]),
        "queue_depth": backlog,
        "last_success_age_s": _newest([age_s(row.record.last_write_monotonic_ns, s.now_ns) for row in s.rows]),
        "last_error": blocked[0].record.reason if blocked else None,
        "backpressure": bool(blocked),
    }


def _resources(s: Snapshot) -> dict[str, Any]:
    """Sums over all processes; pages that processes share are counted in each."""
    found = list(s.processes.values())
    loads = [child.cpu_pct_1m for child in s.children if not math.isnan(child.cpu_pct_1m)]
    fds = [p.open_fds for p in found if p.open_fds is not None]
    return {
        "cpu_pct_1m": round(sum(loads), 2) if loads else None,
        "cpu_pct": round(sum(p.cpu_pct for p in found), 2) if found else None,
        "rss_mb": round(sum(p.rss_mb for p in found), 1) if found else None,
        "open_fds": sum(fds) if fds else None,
    }


def _alerts(s: Snapshot) -> dict[str, Any] | None:
    """How telling goes; null where no alerts are configured."""
    report = s.alerts_report
    if not s.alerts.name:
        return None
    counts = {name: getattr(report, name) for name in ("open", "sent", "waiting", "given_up")}
    return {**counts, "last_error": report.reason or None}
