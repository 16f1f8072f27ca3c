"""The JSON of `status --json` and GET /status: HamSCI sigmond's shape and our own keys.

Pure. Ages instead of times, null for what is unknown; nothing is invented to fill a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline import DISTRIBUTION, __version__
from pipeline.config import Channel
from pipeline.ntp.report import parse_diagnostics
from pipeline.records import (
    UNKNOWN_NS,
    AnchorSource,
    ChannelState,
    ChildRecord,
    ChildState,
    none_if_nan,
)
from pipeline.supervision.causes import Level, Row, Snapshot, age_s, channel_cause, health, minute_text

CONTRACT_VERSION = "0.8"


# Two looks this far apart say something about a rate, s.
LEAST_S = 1.0


def status_json(s: Snapshot, before: Snapshot | None = None) -> dict[str, Any]:
    """The instance as JSON types; rates (per second, or per minute in `*_1m`) against a look `before`, else null."""
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
        "ntp": s.ntp.at(s.now_ns, s.config.ntp.stale_after_s),
        "ntp_counters": parse_diagnostics(s.ntp_diagnostics).get("counters"),
        "radiod": _radiod(s),
        "multicast": _multicast(s, before),
        "channels": [_channel(row, s) for row in s.rows],
        "processes": [_process(child, s) for child in (s.supervisor, s.monitor, *(row.child for row in s.rows))],
        "spool": _spool(s),
        "pipeline": _pipeline(s),
        "resources": _resources(s, before),
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


def _per_s(count: Callable[[Snapshot], float], s: Snapshot, before: Snapshot | None) -> float | None:
    """How fast a count grows; None without an earlier look, or when workers began anew in between."""
    if before is None or (seconds := (s.now_ns - before.now_ns) / 1e9) < LEAST_S:
        return None
    grown = count(s) - count(before)
    return grown / seconds if grown >= 0 else None


def _rounded(value: float | None, factor: float = 1.0) -> float | None:
    return None if value is None else round(factor * value, 2)


def _multicast(s: Snapshot, before: Snapshot | None) -> dict[str, Any]:
    rows = {row.child.name: row for row in s.rows}
    groups: dict[str, list[Channel]] = {}
    for channel in s.config.enabled_channels:
        groups.setdefault(channel.data_address, []).append(channel)
    joined = []
    for address, channels in groups.items():
        ages = [age_s(rows[c.id].record.last_packet_monotonic_ns, s.now_ns) for c in channels if c.id in rows]
        host, _, port = address.rpartition(":")
        joined.append(
            {
                "group": host or address,
                "port": int(port) if port.isdigit() else None,
                "iface": s.config.radiod.interface,
                "last_pkt_age_s": _newest(ages),
                "pps": _rounded(_per_s(_counter("packets_received", {c.id for c in channels}), s, before)),
                "last_igmp_report_age_s": None,
            }
        )
    lost, reordered = (_per_s(_counter(name), s, before) for name in ("packets_lost", "packets_reordered"))
    return {"groups_joined": joined, "drops_1m": _rounded(lost, 60), "out_of_order_1m": _rounded(reordered, 60)}


def _counter(name: str, channels: set[str] | None = None) -> Callable[[Snapshot], float]:
    """The sum of a counter over these channels, or all."""
    return lambda s: sum(getattr(r.record, name) for r in s.rows if channels is None or r.child.name in channels)


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
        "cpu_pct": found and round(found.cpu_pct, 2),
        "rss_mb": found and round(found.rss_mb, 1),
    }


def _spool(s: Snapshot) -> dict[str, Any]:
    blocked = any(row.record.state == ChannelState.BLOCKED for row in s.rows)
    return {
        "dir": str(s.config.recorder.data_dir),
        "fs": s.filesystem,
        "depth_files": sum(row.record.backlog for row in s.rows),
        "oldest_age_s": None,
        "bytes_written_1m": None,
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


def _resources(s: Snapshot, before: Snapshot | None) -> dict[str, Any]:
    """Sums over all processes; pages that processes share are counted in each."""
    found = list(s.processes.values())
    both = s.processes.keys() & before.processes.keys() if before is not None else set()
    load = _per_s(lambda look: sum(look.processes[pid].cpu_s for pid in both), s, before)
    fds = [p.open_fds for p in found if p.open_fds is not None]
    return {
        "cpu_pct_1m": _rounded(load, 100),
        "cpu_pct": round(sum(p.cpu_pct for p in found), 2) if found else None,
        "rss_mb": round(sum(p.rss_mb for p in found), 1) if found else None,
        "open_fds": sum(fds) if fds else None,
    }
