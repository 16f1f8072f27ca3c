"""The audit of a tree: finds its files, reads them one at a time, and hands what they say to `pipeline.audit`.

A tree is a data directory (its `archives/` and `parts/` are looked at), a folder of several, or any folder with
minute files below it; ours and signal-recorder's may be mixed. One file is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import PipelineError, npz
from pipeline.audit import ancestor, onefile
from pipeline.audit.days import Days
from pipeline.audit.findings import Findings, Issue, Severity
from pipeline.audit.series import Series, facts_of
from pipeline.inspection import ADDED, NotAMinute, check
from pipeline.minutefile import ARCHIVES, PARTS

Progress = Callable[[int, int, str], None]
# Keys that the first files of format 1 do not have.
LATER_KEYS = frozenset(name for name in ADDED if name.startswith(("tone_", "tick_")))


class NotATree(PipelineError):
    """The folder to verify is not there."""


@dataclass(slots=True)
class Channel:
    """The folders that hold one channel's files, and what was seen in them so far."""

    name: str
    folders: list[Path]
    files: int = 0
    first_s: int | None = None
    last_s: int | None = None
    series: Series = field(default_factory=Series)
    ancestors: ancestor.AncestorSeries = field(default_factory=ancestor.AncestorSeries)

    def to_json(self) -> dict[str, Any]:
        """As README documents it."""
        return {
            "channel": self.name,
            "files": self.files,
            "first_utc_s": self.first_s,
            "last_utc_s": self.last_s,
            "absent": [
                {"from_utc_s": a.first_s, "to_utc_s": a.end_s, "minutes": a.minutes, "why": a.why}
                for a in self.series.absent
            ],
        }


@dataclass(slots=True)
class Audit:
    """What was found in a tree."""

    tree: Path
    files: int = 0
    findings: Findings = field(default_factory=Findings)
    days: Days = field(default_factory=Days)
    channels: list[Channel] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As README documents it."""
        return {
            "tree": str(self.tree),
            "sound": self.findings.sound,
            "files": self.files,
            "errors": self.findings.counts[Severity.ERROR],
            "warnings": self.findings.counts[Severity.WARNING],
            "findings": [finding.to_json() for finding in self.findings.by_severity()],
            "channels": [channel.to_json() for channel in self.channels],
            "days": [day.to_json() for day in self.days.rows.values()],
        }


def verify_tree(tree: Path, progress: Progress | None = None) -> Audit:
    """Check every minute file below `tree`; `progress` hears files done, files in all, and the channel.

    Raises NotATree when there is no such folder.
    """
    if not tree.is_dir():
        raise NotATree(f"{tree} is not a folder; name the data directory or a channel's folder")
    audit = Audit(tree)
    total = 0
    for channel, count in _channels(tree):
        audit.channels.append(channel)
        total += count
    if not total:
        audit.findings.add("", str(tree), Issue("no_minutes", "no .npz file is below it"))
    for channel in audit.channels:
        for path, named in _in_order(channel, audit):
            if progress:
                progress(audit.files, total, channel.name)
            audit.files += 1
            audit.findings.next_file()
            for issue in _file(channel, path, named, audit.days):
                audit.findings.add(channel.name, str(path.relative_to(tree)), issue)
    return audit


# -- finding files --


def _channels(tree: Path) -> list[tuple[Channel, int]]:
    """The channels below `tree` with the number of their .npz files, a channel's archive before its parts."""
    holders: dict[Path, int] = {}
    for folder, _, names in os.walk(tree):
        files = sum(name.endswith((".npz", npz.TEMPORARY_SUFFIX)) for name in names)
        if files:
            holders[Path(folder)] = sum(name.endswith(".npz") for name in names)
    # Beside archives/ the ancestor keeps .npz files of other kinds.
    minutes = {path: n for path, n in holders.items() if path.absolute().parent.name in (ARCHIVES, PARTS)} or holders
    found: dict[Path, tuple[Channel, int]] = {}
    for path in sorted(minutes):
        whole = path.absolute()
        home = whole.parent.parent / whole.name if whole.parent.name in (ARCHIVES, PARTS) else whole
        channel, count = found.setdefault(home, (Channel(whole.name, []), 0))
        channel.folders.append(path)
        found[home] = (channel, count + minutes[path])
    names = [channel.name for channel, _ in found.values()]
    for home, (channel, _) in found.items():
        if names.count(channel.name) > 1 and home.is_relative_to(tree.absolute()):
            channel.name = str(home.relative_to(tree.absolute()))
    return list(found.values())


def _in_order(channel: Channel, audit: Audit) -> Iterator[tuple[Path, onefile.Named]]:
    """A channel's minute files in order of time, a minute's parts after its file; others become findings."""
    minutes = []
    for folder in channel.folders:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        for name in names:
            shown = str((folder / name).relative_to(audit.tree))
            if name.endswith(npz.TEMPORARY_SUFFIX):
                audit.findings.add(channel.name, shown, Issue("temporary", "left behind by a write that did not end"))
            elif name.endswith(".npz"):
                named = onefile.parse_name(name)
                if named is None:
                    audit.findings.add(channel.name, shown, Issue("stray", "its name is not a minute's"))
                else:
                    minutes.append((named.minute_s, named.part, name, folder, named))
    for _, _, name, folder, named in sorted(minutes, key=lambda row: row[:3]):
        yield folder / name, named


# -- one file --


def _file(channel: Channel, path: Path, named: onefile.Named, days: Days) -> Iterator[Issue]:
    channel.files += 1
    channel.first_s = named.minute_s if channel.first_s is None else channel.first_s
    channel.last_s = named.minute_s
    try:
        values, faults = npz.read_partly(path)
    except npz.UnreadableFile as error:
        yield Issue("unreadable", str(error).removeprefix(f"{path}: "))
        return
    for name, reason in faults.items():
        yield Issue("object_array" if "pickle" in reason else "unreadable", reason, name)
    try:
        check(values)
    except NotAMinute as error:
        yield Issue("keys", str(error))
        return
    yield from onefile.basics(values, named, path.parent.name)
    facts = facts_of(values, path.name, named.minute_s, named.part) if _complete(values) else None
    if facts is None:
        lacking = [name for name in ADDED if name not in values and name not in LATER_KEYS]
        yield Issue("keys", f"it has no {', '.join(lacking)}")
        return
    days.add(channel.name, facts)
    yield from channel.series.feed(facts)
    if "format_version" in values:
        yield from onefile.ours(values)
    else:
        issues, shift = ancestor.one_file(values)
        yield from issues
        yield from channel.ancestors.feed(values, named.minute_s, shift)


def _complete(values: Mapping[str, Any]) -> bool:
    """Whether a file of ours has all that its format promises; signal-recorder's need not."""
    return "format_version" not in values or not (ADDED.keys() - LATER_KEYS - values.keys())
