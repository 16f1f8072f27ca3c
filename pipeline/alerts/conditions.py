"""What an alert may be about, as seen in one snapshot; pure."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.records import ChildState
from pipeline.supervision.causes import Level, Row, Snapshot, channel_cause, silence_cause
from pipeline.supervision.troubles import disk_text, ntp_cause, supervisor_cause

# (kind, channel or "" for the instance)
Key = tuple[str, str]


def conditions(s: Snapshot, free_gb: float | None, disk_was_low: bool) -> dict[Key, str]:
    """Everything that is wrong now, in the words of `status`; kinds that are not configured are left out.

    `free_gb` is the room on the disk, None where it cannot be asked.
    """
    found = dict(_all(s, free_gb, disk_was_low))
    return {key: text for key, text in found.items() if key[0] in s.config.alerts.on}


def _all(s: Snapshot, free_gb: float | None, disk_was_low: bool) -> Iterator[tuple[Key, str]]:
    level, text = supervisor_cause(s)
    if level is Level.CRIT:
        yield ("not_recording", ""), text
        return
    if s.supervisor.state == ChildState.STOPPING:
        return
    level, text = ntp_cause(s)
    if level is not Level.OK:
        yield ("clock", ""), text
    for row in s.rows:
        yield from _channel(row, s)
    if free_gb is not None and (text := disk_text(s, free_gb, disk_was_low)):
        yield ("disk", ""), text


def _channel(row: Row, s: Snapshot) -> Iterator[tuple[Key, str]]:
    level, text = channel_cause(row, s)
    silence, silence_text = silence_cause(row, s.now_ns)
    if row.child.state == ChildState.RUNNING and silence is not Level.OK and text == silence_text:
        yield ("silent", row.child.name), silence_text
    elif level is Level.CRIT:
        yield ("not_recording", row.child.name), text
