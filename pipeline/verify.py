"""The audit of a tree: reads its files, several at once, and follows each channel through time.

Memory does not grow with the tree: names of one channel, a few files, and what was found (bounded) are held.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline import PipelineError, npz, tree
from pipeline.audit.ancestor_series import AncestorSeries
from pipeline.audit.codes import Severity
from pipeline.audit.days import Days
from pipeline.audit.examine import Examined, examine
from pipeline.audit.findings import Findings, Issue
from pipeline.audit.series import Series
from pipeline.inspection import SAMPLE_KEYS
from pipeline.tree import Folders, Found, Window

# Files done and in all, bytes read, the channel in hand.
Progress = Callable[[int, int, int, str], None]
# Fewer files are done before other processes have started.
FEW_FILES = 32
CHUNK = 8
NICENESS = 10
ALWAYS = Window()


class NotATree(PipelineError):
    """The folder to verify is not there."""


class VerifyError(PipelineError):
    """The audit cannot go on."""


@dataclass(slots=True)
class Channel:
    """One channel's folders, and what was seen in them so far."""

    folders: Folders
    files: int = 0
    first_s: int | None = None
    last_s: int | None = None
    series: Series = field(default_factory=Series)
    ancestors: AncestorSeries = field(default_factory=AncestorSeries)

    @property
    def name(self) -> str:
        """The folder's; with what leads to it where two are called the same."""
        return self.folders.name

    def to_json(self) -> dict[str, Any]:
        """As README documents it."""
        return {
            "channel": printable(self.name),
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
    samples: bool = True
    files: int = 0
    file_bytes: int = 0
    findings: Findings = field(default_factory=Findings)
    days: Days = field(default_factory=Days)
    channels: list[Channel] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As README documents it."""
        return {
            "tree": printable(str(self.tree)),
            "sound": self.findings.sound,
            "samples_checked": self.samples,
            "files": self.files,
            "bytes": self.file_bytes,
            "errors": self.findings.counts[Severity.ERROR],
            "warnings": self.findings.counts[Severity.WARNING],
            "files_with": dict(self.findings.files_with),
            "findings": [finding.to_json() for _, group in self.findings.by_code() for finding in group],
            "channels": [channel.to_json() for channel in self.channels],
            "days": [day.to_json() for day in self.days.rows.values()],
        }

    def report(self, channel: str, path: Path, issue: Issue) -> None:
        """Add a finding of one file."""
        inside = path.is_relative_to(self.tree)
        self.findings.add(printable(channel), printable(str(path.relative_to(self.tree) if inside else path)), issue)


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere; names are bytes that need not be UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def verify_tree(
    top: Path, window: Window = ALWAYS, *, samples: bool = True, jobs: int = 1, progress: Progress | None = None
) -> Audit:
    """Check the minute files below `top` that are in the window, `jobs` at a time.

    Without `samples` what takes the samples themselves is left out: zeros against gap lists, tones in files that do
    not state them. Raises NotATree when there is no such folder, VerifyError when a process that reads was killed.
    """
    if not top.is_dir():
        raise NotATree(f"{printable(str(top))} is not a folder; name the data directory or a channel's folder")
    audit = Audit(top, samples)
    for folders in tree.channels(top, lambda path, issue: audit.report("", path, issue)):
        audit.channels.append(Channel(folders))
    total = sum(tree.count(channel.folders, window) for channel in audit.channels)
    pool = _pool(jobs) if total > FEW_FILES else contextlib.nullcontext()
    with pool as workers:
        for channel, found, examined in _examined(audit, window, workers, 3 * jobs):
            _take(audit, channel, found, examined)
            if progress:
                progress(audit.files, total, audit.file_bytes, channel.name)
    if not audit.files:
        what = "no minute file is below it" + (" in the time that was asked for" if window != ALWAYS else "")
        audit.findings.add("", printable(str(top)), Issue("no_minutes", what))
    return audit


def _take(audit: Audit, channel: Channel, found: Found, examined: Examined) -> None:
    """Add what one file shows, alone and after those before it."""
    name, named, facts = printable(channel.name), found.named, examined.facts
    issues = list(examined.issues)
    if facts is not None:
        facts = replace(facts, file=printable(facts.file))
        issues += channel.series.feed(facts)
    if examined.ancestor is not None:
        issues += channel.ancestors.feed(examined.ancestor)
    if found.context:
        return
    audit.files += 1
    audit.file_bytes += examined.file_bytes
    channel.files += 1
    channel.first_s = named.minute_s if channel.first_s is None else channel.first_s
    channel.last_s = named.minute_s
    if facts is not None:
        audit.days.add(name, facts)
    audit.findings.next_file()
    for issue in issues:
        audit.report(name, found.path, issue)


# -- reading --


def examine_path(found: Found, samples: bool) -> Examined:
    """Read one file and look at it."""
    path = found.path
    try:
        contents = npz.read_partly(path, () if samples else SAMPLE_KEYS)
    except npz.UnreadableFile as error:
        reason = str(error).removeprefix(f"{path}: ")
        try:
            code = "unreadable" if path.stat().st_size else "empty_file"
        except FileNotFoundError:
            code = "gone"
        except OSError:
            code = "unreadable"
        return Examined((Issue(code, reason),))
    result = examine(contents.values, contents.faults, path.name, found.named, path.parent.name, samples)
    return replace(result, file_bytes=contents.file_bytes)


def _examine_chunk(chunk: list[Found], samples: bool) -> list[Examined]:
    return [examine_path(found, samples) for found in chunk]


def _examined(
    audit: Audit, window: Window, workers: ProcessPoolExecutor | None, ahead: int
) -> Iterator[tuple[Channel, Found, Examined]]:
    """All files in order, each with what it shows; with `workers` some chunks ahead are being read."""
    waiting: deque[tuple[Channel, list[Found], Future[list[Examined]]]] = deque()
    for channel, chunk in _chunks(audit, window):
        if workers is None:
            for found in chunk:
                yield channel, found, examine_path(found, audit.samples)
            continue
        waiting.append((channel, chunk, workers.submit(_examine_chunk, chunk, audit.samples)))
        if len(waiting) > ahead:
            yield from _done(*waiting.popleft())
    while waiting:
        yield from _done(*waiting.popleft())


def _done(
    channel: Channel, chunk: list[Found], future: Future[list[Examined]]
) -> Iterator[tuple[Channel, Found, Examined]]:
    try:
        results = future.result()
    except BrokenProcessPool:
        raise VerifyError(
            f"a process that reads files was killed at or after {printable(str(chunk[0].path))}, for want of memory "
            "perhaps; try --jobs 1"
        ) from None
    for found, examined in zip(chunk, results, strict=True):
        yield channel, found, examined


def _chunks(audit: Audit, window: Window) -> Iterator[tuple[Channel, list[Found]]]:
    for channel in audit.channels:

        def report(path: Path, issue: Issue, name: str = channel.name) -> None:
            audit.report(name, path, issue)

        files = tree.minutes(channel.folders, window, report)
        while chunk := list(islice(files, CHUNK)):
            yield channel, chunk


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Processes that stand back for a recorder on the same machine, and leave Ctrl-C to us."""
    # Not forked: a progress display has threads.
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_stand_back)


def _stand_back() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
