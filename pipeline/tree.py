"""Finding the minute files of a tree, channel by channel and in order of time.

A tree is a data directory (its `archives/` and `parts/` are looked at), a folder of several, or any folder with
minute files below it; ours and signal-recorder's may be mixed. Of the names, those of one channel are in memory.
"""

from __future__ import annotations

import heapq
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pipeline import durable
from pipeline.audit.findings import Issue
from pipeline.audit.onefile import Named, parse_name
from pipeline.minutefile import ARCHIVES, PARTS

SUFFIX, SUFFIX_TEMPORARY = ".npz", durable.TEMPORARY_SUFFIX
# A minute is written in seconds, on a slow disk in some more.
TEMPORARY_S = 600.0

Report = Callable[[Path, Issue], None]


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes that begin in [since_s, until_s), UTC; None = without that limit."""

    since_s: int | None = None
    until_s: int | None = None

    def __contains__(self, minute_s: int) -> bool:
        return not self.before(minute_s) and (self.until_s is None or minute_s < self.until_s)

    def before(self, minute_s: int) -> bool:
        """Whether a minute is before the window."""
        return self.since_s is not None and minute_s < self.since_s


@dataclass(frozen=True, slots=True)
class Found:
    """One minute file; `context` ones are before the window, for what follows them alone."""

    path: Path
    named: Named
    context: bool = False


@dataclass(slots=True)
class Folders:
    """The folders that hold one channel's files, that in archives/ before that in parts/."""

    name: str
    paths: list[Path] = field(default_factory=list)


def channels(tree: Path, report: Report) -> list[Folders]:
    """The channels that have files below `tree`; what cannot be looked into is reported."""
    holders = list(_holders(tree, report))
    homes = {path: _home(path) for path in holders}
    # Beside archives/ the ancestor keeps .npz files of other kinds.
    if any(inside for _, inside in homes.values()):
        holders = [path for path in holders if homes[path][1]]
    found: dict[Path, Folders] = {}
    for path in sorted(holders):
        home = homes[path][0]
        found.setdefault(home, Folders(home.name)).paths.append(path)
    names = [folders.name for folders in found.values()]
    for home, folders in found.items():
        if names.count(folders.name) > 1 and home.is_relative_to(tree.absolute()):
            folders.name = str(home.relative_to(tree.absolute()))
    return list(found.values())


def _holders(tree: Path, report: Report) -> Iterator[Path]:
    """Folders with .npz files or temporary ones, links to folders followed, each once."""
    seen: set[tuple[int, int]] = set()

    def refused(error: OSError) -> None:
        report(Path(error.filename), Issue("unreadable_folder", error.strerror or str(error)))

    for folder, below, names in os.walk(tree, onerror=refused, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            below.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        if any(name.endswith((SUFFIX, durable.TEMPORARY_SUFFIX)) for name in names):
            yield Path(folder)


def _home(path: Path) -> tuple[Path, bool]:
    """What names a channel, the same for its folders in archives/ and in parts/; and whether it is in one of these."""
    whole = path.absolute()
    for parent in whole.parents:
        if parent.name in (ARCHIVES, PARTS):
            return parent.parent / whole.relative_to(parent), True
    return (whole.parent, True) if whole.name in (ARCHIVES, PARTS) else (whole, False)


def count(folders: Folders, window: Window) -> int:
    """How many minute files of a channel are in the window."""
    return sum(named is not None and named.minute_s in window for path in folders.paths
               for named in map(parse_name, _names(path, None)))  # fmt: skip


def minutes(folders: Folders, window: Window, report: Report) -> Iterator[Found]:
    """A channel's minute files in order of time, a minute's parts after its file; what else lies there is reported."""
    streams = [_sorted(path, report) for path in folders.paths]
    last: Found | None = None
    for _, group in groupby(heapq.merge(*streams, key=lambda found: found.named.minute_s),
                            key=lambda found: found.named.minute_s):  # fmt: skip
        for found in sorted(group, key=lambda f: (f.named.part, f.path.name)):
            if window.before(found.named.minute_s):
                last = Found(found.path, found.named, True) if not found.named.part else last
                continue
            if found.named.minute_s not in window:
                return
            if last is not None:
                yield last
                last = None
            yield found


def _sorted(folder: Path, report: Report) -> Iterator[Found]:
    strays: list[str] = []
    for name in sorted(_names(folder, report)):
        named = parse_name(name)
        if named is None:
            strays.append(name)
        else:
            yield Found(folder / name, named)
    for name in strays:
        report(folder / name, Issue("stray", "its name is not a minute's"))


def _names(folder: Path, report: Report | None) -> list[str]:
    """Names of the .npz files of a folder; links that lead nowhere and old temporary files are reported."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    if entry.is_file():
                        names.append(entry.name)
                    elif report:
                        what = "a link to a file that is not there" if entry.is_symlink() else "it is not a file"
                        report(folder / entry.name, Issue("stray", what))
                elif entry.name.endswith(SUFFIX_TEMPORARY) and report:
                    _temporary(folder, entry, report)
    except OSError as error:
        if report:
            report(folder, Issue("unreadable_folder", error.strerror or str(error)))
    return names


def _temporary(folder: Path, entry: os.DirEntry[str], report: Report) -> None:
    try:
        state = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return  # it was finished meanwhile
    age_s = time.time() - state.st_mtime
    if stat.S_ISREG(state.st_mode) and age_s > TEMPORARY_S:
        report(folder / entry.name, Issue("temporary", f"a write that did not end, {state.st_size} bytes, "
                                                       f"{_ago(age_s)} old"))  # fmt: skip


def _ago(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 172800 else f"{seconds / 3600:.1f} h"
