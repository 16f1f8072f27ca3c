"""Trees of minute files made by the recorder's own pure code, for what looks at trees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minutes import CHANNEL, context
from pipeline import npz
from pipeline.config import Channel
from pipeline.minutefile import build, minute_path, part_path
from pipeline.stream.timeline import SECOND
from streams import Recording


@dataclass
class TreeRecording(Recording):
    """A recorder that also writes its minutes below `tree`, as the writer would."""

    tree: Path = Path()
    channel: Channel = CHANNEL
    session: str = "20261122T000000Z-abc"
    facts: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def _take(self, due: int, tail: str) -> None:
        cut = self.cutter.cut(due, self.host, tail)
        for minute in cut.minutes:
            created_s = minute.utc_ns / SECOND + 63.0
            known = context(minute, self.channel, session_id=self.session, created_s=created_s, **self.facts)
            path, number = minute_path(self.tree, self.channel, minute.utc_ns), 0
            while path.exists():
                number += 1
                path = part_path(self.tree, self.channel, minute.utc_ns, minute.rate_hz, number)
            # Files of another rate say so.
            known = replace(known, channel=replace(self.channel, sample_rate_hz=minute.rate_hz))
            npz.write(path, build(minute, known), 0)
            self.files.append(path)
        self.cutter.done(cut)
        self.save()
        self.cutter.release()


def later(arrays: dict[str, Any], minutes: int) -> dict[str, Any]:
    """The same minute so many minutes later on the same timeline: what a recorder without a fault writes next."""
    rate = int(arrays["sample_rate"])
    moved = dict(arrays)
    for name in ("rtp_timestamp", "time_snap_rtp", "anchor_rtp", "host_rtp", "segment_rtp_timestamps",
                 "gap_rtp_timestamps"):  # fmt: skip
        before = np.asarray(arrays[name])
        moved[name] = ((before.astype(np.int64) + minutes * 60 * rate) % 2**32).astype(before.dtype)
    for name in ("sample0_utc_ns", "anchor_utc_ns", "host_utc_ns", "host_monotonic_ns", "segment_utc_ns"):
        moved[name] = np.asarray(arrays[name]) + minutes * 60 * SECOND
    for name in ("unix_timestamp", "time_snap_utc", "created_timestamp", "ntp_wall_clock_time"):
        moved[name] = np.asarray(arrays[name]) + 60.0 * minutes
    return moved


def write_minute(tree: Path, arrays: dict[str, Any], channel: Channel = CHANNEL, level: int = 1) -> Path:
    """A file under the name that belongs to it."""
    path = minute_path(tree, channel, round(float(arrays["unix_timestamp"])) * SECOND)
    npz.write(path, {name: np.asarray(value) for name, value in arrays.items()}, level)
    return path
