"""What has become of an instance's troubles: since when each lasts, and a line for the log when it begins and ends.

Pure. A trouble is the same as long as its words are, figures apart. What passes within seconds is not told, nor is
what the log says anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.records import UNKNOWN_NS, NtpState
from pipeline.supervision.causes import Level, Snapshot, age_s, duration_text, process_cause
from pipeline.supervision.troubles import Trouble, troubles

SECOND_NS = 1_000_000_000
# A trouble that is over sooner is not told.
HOLD_NS = 3 * SECOND_NS
# Numbers, and durations as `duration_text` writes them.
_FIGURES = re.compile(r"\d[\d.]*(?: (?:s|min|h|d)\b)?(?: \d+ (?:min|h)\b)?")


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the log."""

    level: Level
    who: str
    text: str


@dataclass(slots=True)
class _Lasting:
    kind: str
    since_ns: int
    begun_ns: int  # of whatever was wrong before without a break
    told: bool = False


class Story:
    """Looks at one snapshot after the other."""

    def __init__(self) -> None:
        self._lasting: dict[str, _Lasting] = {}

    def since(self, who: str) -> int:
        """CLOCK_MONOTONIC since when the present trouble of `who` lasts, ns; UNKNOWN_NS while there is none."""
        found = self._lasting.get(who)
        return UNKNOWN_NS if found is None else found.since_ns

    def look(self, s: Snapshot) -> list[Line]:
        """What is to be told now."""
        found = {each.who: each for each in troubles(s)}
        lines = [line for who, each in found.items() if (line := self._note(each, s))]
        for who in self._lasting.keys() - found.keys():
            over = self._lasting.pop(who)
            if over.told:
                lasted = duration_text((s.now_ns - over.begun_ns) / SECOND_NS)
                lines.append(Line(Level.OK, who, f"well again after {lasted}"))
        return lines

    def _note(self, trouble: Trouble, s: Snapshot) -> Line | None:
        kind = _FIGURES.sub("#", trouble.text).replace("minutes", "minute")
        known, worse = self._lasting.get(trouble.who), False
        if known is None or known.kind != kind:
            # What was told and has changed is told at once.
            worse = known is not None and known.told
            known = self._lasting[trouble.who] = _Lasting(kind, s.now_ns, s.now_ns if known is None else known.begun_ns)
        young = s.now_ns - known.since_ns < HOLD_NS and not worse
        if known.told or young or _told_elsewhere(trouble, s):
            return None
        known.told = True
        return Line(trouble.level, trouble.who, trouble.text)


def _told_elsewhere(trouble: Trouble, s: Snapshot) -> bool:
    """True for what is in the log: a process's end, the monitor's verdict, what a written minute lacks."""
    if trouble.who == s.monitor.name and age_s(s.ntp.published_monotonic_ns, s.now_ns) is not None:
        return bool(s.ntp.at(s.now_ns, s.config.ntp.stale_after_s)["state"] == NtpState(s.ntp.state).name.lower())
    if trouble.text.endswith("% complete"):
        return True
    return any(child.name == trouble.who and process_cause(child, s.now_ns)[1] == trouble.text for child in s.children)
