"""An instance as `top`, `status` and /metrics see it, made of values."""

from __future__ import annotations

from pipeline.records import AnchorSource, ChannelRecord, ChannelState, ChildRecord, ChildState, NtpRecord, NtpState
from pipeline.supervision.causes import Process, Row, Snapshot

S = 1_000_000_000
NOW = 1_000 * S


def row(index: int, **changes: object) -> Row:
    """A healthy channel, with changes to what its worker says."""
    record = ChannelRecord(
        heartbeat_monotonic_ns=NOW, started_monotonic_ns=NOW - 600 * S, last_packet_monotonic_ns=NOW,
        last_minute_utc_s=1_763_999_940, last_write_monotonic_ns=NOW - 20 * S, minutes_written=9,
        anchor_uncertainty_ns=310_000, frequency_hz=25e6, write_ms=45.0, level_dbfs=-21.34, completeness_pct=100.0,
        minute_fill_pct=50.0, pid=100 + index, ssrc=1 + index, sample_rate_hz=16_000, state=ChannelState.RECORDING,
        anchor_source=AnchorSource.RADIOD, name=f"WWV {index} MHz",
    ).replace(**changes)  # fmt: skip
    child = ChildRecord(NOW - 600 * S, NOW - 600 * S, NOW, 2, 100 + index, 0, ChildState.RUNNING, f"WWV_{index}_MHz")
    return Row(index, child, record)


def snapshot(*rows: Row, now_ns: int = NOW, cpu_s: float = 5.0) -> Snapshot:
    """An instance that runs with these channels."""
    ntp = NtpRecord(
        NOW - S, NOW - 3 * S, 1_764_000_000 * S, -0.412, 1.2, 0.1, truechimers=7, falsetickers=3, valid=1, synced=1,
        state=NtpState.SYNCED, source="servers:time.example",
    )  # fmt: skip
    pids = [10, 11, *(r.child.pid for r in rows)]
    return Snapshot(
        "default", now_ns, True,
        ChildRecord(NOW - 600 * S, NOW - 600 * S, NOW, pid=10, state=ChildState.RUNNING, name="supervisor"),
        ChildRecord(NOW - 600 * S, NOW - 600 * S, NOW, pid=11, state=ChildState.RUNNING, name="ntp"),
        ntp, rows, {pid: Process(1.5, 38.2, None, cpu_s) for pid in pids},
    )  # fmt: skip
