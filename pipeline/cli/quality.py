"""The command `quality`: how well an instance receives, as sigmond asks for it (client contract 0.8)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pipeline import DISTRIBUTION
from pipeline.cli.common import config_option, print_json
from pipeline.cli.service import find_instance, instance_option
from pipeline.config import ConfigError
from pipeline.records import ChannelState, none_if_nan
from pipeline.shm import Board, SharedMemoryError
from pipeline.supervision.causes import Row, Snapshot, age_s
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import health

MISSING = {"error": "snapshot_missing"}


@click.command()
@config_option
@instance_option
@click.option("--json", "as_json", is_flag=True, default=True, help="JSON, which is the only form.")
def quality(config_path: Path | None, instance: str | None, as_json: bool) -> None:
    """Tell sigmond how well an instance receives. Always exit 0.

    Example: grape-pipeline quality --json
    """
    try:
        print_json(snapshot(find_instance(config_path, instance)))
    except ConfigError:
        print_json(MISSING)


def snapshot(instance: str) -> dict[str, Any]:
    """The answer to `quality --json`, made from shared memory and not from a file."""
    try:
        s = take(Board.open(instance), brief=True)
    except SharedMemoryError:
        return MISSING
    written = age_s(s.supervisor.heartbeat_monotonic_ns, s.now_ns)
    return {
        "schema_version": 1,
        "captured_at": datetime.fromtimestamp(time.time() - (written or 0.0), UTC).isoformat(timespec="seconds"),
        "stale_seconds": written,
        "instance": instance,
        "client": DISTRIBUTION,
        "recorders": [_recorder(row, s) for row in s.rows],
        "summary": {"channels": len(s.rows), "state": health(s).level.name, "causes": list(health(s).causes)},
    }


def _recorder(row: Row, s: Snapshot) -> dict[str, Any]:
    r = row.record
    return {
        "description": r.name or row.child.name,
        "frequency_hz": none_if_nan(r.frequency_hz),
        "ssrc": r.ssrc or None,
        "stream_state": ChannelState(r.state).name.lower(),
        "uptime_seconds": age_s(row.child.started_monotonic_ns, s.now_ns),
        "packets_received_total": r.packets_received,
        "packets_lost_total": r.packets_lost,
        "packets_late_total": r.packets_late,
        "packets_duplicate_total": r.packets_duplicate,
        "packets_resequenced_total": r.packets_reordered,
        "gap_events_total": r.gap_events,
        "completeness_pct": none_if_nan(r.completeness_pct),
    }
