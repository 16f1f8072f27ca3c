"""One line of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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


def ok(topic: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.OK, topic, found)


def warn(topic: str, found: str, mend: str) -> Finding:
    """To be known, or to be mended some time."""
    return Finding(Verdict.WARN, topic, found, mend)


def fail(topic: str, found: str, mend: str) -> Finding:
    """To be mended now."""
    return Finding(Verdict.FAIL, topic, found, mend)
