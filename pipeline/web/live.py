"""What the page's table shows: a snapshot in the words of `status` and `top`; pure."""

from __future__ import annotations

import math
from typing import Any

from pipeline.records import UNKNOWN_NS, AnchorSource, ChildState, none_if_nan
from pipeline.supervision.causes import Row, Snapshot, age_s, channel_cause, duration_text, minute_text
from pipeline.supervision.report import fill_pct, ntp_words, process_words, up_text
from pipeline.supervision.troubles import health, ntp_cause


def live_json(s: Snapshot, utc_s: float) -> dict[str, Any]:
    """The instance at `utc_s` (the host's clock) as JSON types."""
    verdict = health(s)
    up = sum(row.child.state == ChildState.RUNNING for row in s.rows) if s.supervisor_exists else 0
    since = age_s(s.supervisor.started_monotonic_ns, s.now_ns)
    return {
        "instance": s.instance,
        "utc_s": utc_s,
        "level": verdict.level.name,
        "up": up_text(up, len(s.rows)),
        "since": duration_text(since) if since is not None and s.supervisor_exists else None,
        "ntp": {"level": ntp_cause(s)[0].name, "words": ntp_words(s)[1:]},
        "processes": process_words(s),
        "causes": list(verdict.causes),
        "channels": [_channel(row, s, utc_s) for row in s.rows],
    }


def absent_json(instance: str, why: str, pid: int | None, utc_s: float) -> dict[str, Any]:
    """The same when the instance does not run, or does (as `pid`) and cannot be looked at."""
    up = "not running" if pid is None else "not seen"
    return {
        "instance": instance, "utc_s": utc_s, "level": "CRIT", "up": up, "since": None, "ntp": None,
        "processes": [], "causes": [why], "channels": [],
    }  # fmt: skip


def _channel(row: Row, s: Snapshot, utc_s: float) -> dict[str, Any]:
    r = row.record
    level, cause = channel_cause(row, s)
    minute = minute_text(r.last_minute_utc_s)
    known = r.anchor_uncertainty_ns != UNKNOWN_NS
    return {
        "id": row.child.name,
        "name": r.name or row.child.name,
        "level": level.name,
        "cause": cause,
        "dbfs": None if math.isnan(r.level_dbfs) else round(r.level_dbfs, 1),
        "received_pct": none_if_nan(fill_pct(r, s.now_ns, utc_s)),
        "over_pct": round(utc_s % 60 / 0.6, 1),
        "lost": r.packets_lost,
        "anchor": AnchorSource(r.anchor_source).name.lower(),
        "uncertainty_ms": r.anchor_uncertainty_ns / 1e6 if known else None,
        "last_minute": minute and f"{minute[11:16]}Z",
        "complete_pct": none_if_nan(r.completeness_pct),
        "restarts": row.child.restarts,
        "stamp": r.last_minute_utc_s,
    }
