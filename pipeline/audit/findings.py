"""What an audit has found: the same fault in one file after another is one finding, and memory is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.audit.codes import CODES, Severity


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault of one file: a name of CODES, what was found, and where in the file."""

    code: str
    what: str
    where: str = ""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code].severity


@dataclass(frozen=True, slots=True)
class Finding:
    """An issue of `count` files of a channel, `file` the first and `until` the last; the text is the first one's."""

    issue: Issue
    channel: str
    file: str
    until: str
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """As documented for `verify --json`."""
        code = CODES[self.issue.code]
        return {
            "severity": code.severity.value,
            "code": self.issue.code,
            "channel": self.channel,
            "file": self.file,
            "until": self.until,
            "count": self.count,
            "what": self.issue.what,
            "where": self.issue.where,
            "means": code.means,
            "todo": code.todo,
        }


# Of one kind; beyond this a fault in every second file of years would fill the memory. The counts go on.
MOST_KEPT = 1_000
# What files say of themselves is in the texts; theirs may be of any length.
LONGEST_TEXT = 400


@dataclass(slots=True)
class Findings:
    """Collects findings; `files_with` counts the files that have a fault, by its name."""

    kept: list[Finding] = field(default_factory=list)
    counts: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))
    files_with: Counter[str] = field(default_factory=Counter)
    _kept_of: Counter[str] = field(default_factory=Counter)
    _open: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _files: int = 0

    def next_file(self) -> None:
        """What is added from now on is of another file."""
        self._files += 1

    def add(self, channel: str, file: str, issue: Issue) -> None:
        """Add one issue."""
        self.counts[issue.severity] += 1
        key = channel, issue.code
        place, seen = self._open.get(key, (-1, -1))
        self.files_with[issue.code] += seen != self._files
        if place >= 0 and self._files - seen <= 1:
            before = self.kept[place]
            self.kept[place] = replace(before, until=file, count=before.count + (self._files != seen))
        elif self._kept_of[issue.code] < MOST_KEPT:
            place = len(self.kept)
            self._kept_of[issue.code] += 1
            self.kept.append(Finding(replace(issue, what=issue.what[:LONGEST_TEXT]), channel, file, file))
        else:
            place = -1
        self._open[key] = (place, self._files)

    @property
    def sound(self) -> bool:
        """True when nothing is wrong; information alone is not a fault."""
        return not (self.counts[Severity.ERROR] or self.counts[Severity.WARNING])

    def by_code(self) -> Iterator[tuple[str, list[Finding]]]:
        """The findings of each kind, the worst kinds first, otherwise as they came."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.kept:
            groups.setdefault(finding.issue.code, []).append(finding)
        for severity in Severity:
            yield from ((code, found) for code, found in groups.items() if CODES[code].severity is severity)
