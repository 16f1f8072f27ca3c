"""One line of `doctor`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

_FIGURES = re.compile(r"\d[\d.:]*")


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"  # it records; something has to be known or will go wrong one day
    FAIL = "fail"  # it does not record, or not what it should


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and the command that mends it ("" when there is nothing to mend)."""

    verdict: Verdict
    topic: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.topic:9}  {self.found}" + (f"; mend: {self.mend}" if self.mend else "")

    def as_dict(self) -> dict[str, Any]:
        """The keys of `doctor --json`."""
        return {"verdict": str(self.verdict), "topic": self.topic, "found": self.found, "mend": self.mend or None}


def alike(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that differ in the channel and in figures alone as one, with the first one's figures.

    `WWV 10 MHz: radiod sends ...` of nine channels is `WWV 10 MHz and 8 more: radiod sends ...`.
    """
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        name, _, text = finding.found.partition(": ")
        mend = finding.mend.replace(name, "") if text else finding.mend
        words = (_FIGURES.sub("#", part) for part in (text or finding.found, mend))
        groups.setdefault((finding.verdict, finding.topic, *words), []).append(finding)
    return [_as_one(group) for group in groups.values()]


def _as_one(group: Sequence[Finding]) -> Finding:
    first, *more = group
    name, colon, text = first.found.partition(": ")
    if not more or not colon:
        return first
    told = f"{name} and {len(more)} more: {text}"
    return replace(first, found=told, mend=first.mend.replace(f" of {name}", " of each"))


def ok(topic: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.OK, topic, found)


def warn(topic: str, found: str, mend: str) -> Finding:
    """To be known, or to be mended some time."""
    return Finding(Verdict.WARN, topic, found, mend)


def fail(topic: str, found: str, mend: str) -> Finding:
    """To be mended now."""
    return Finding(Verdict.FAIL, topic, found, mend)
