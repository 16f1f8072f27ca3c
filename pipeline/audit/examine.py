"""One file of any kind, from what could be read of it to what is wrong with it and what it says of its neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.audit import onefile
from pipeline.audit.ancestor import AncestorFacts, one_file
from pipeline.audit.findings import Issue
from pipeline.audit.onefile import Named
from pipeline.audit.series import Facts, facts_of
from pipeline.inspection import ADDED, ANCESTOR_OPTIONAL, NotAMinute, check

Values = Mapping[str, Any]

# Keys that the first files of format 1 do not have; what was recorded by an older program is no worse for it.
LATER_KEYS = frozenset(name for name in ADDED if name.startswith(("tone_", "tick_"))) | {
    "ntp_quality", "host_clock_set_by_ns", "rtp_rate_sigma_ppm", "chain_delay_ns",
}  # fmt: skip
# What reckoning with impossible values leads to.
_IMPOSSIBLE = (ArithmeticError, ValueError, TypeError, LookupError, MemoryError)


@dataclass(frozen=True, slots=True)
class Examined:
    """What one file shows; `facts` is None when it could not be made sense of, `ancestor` in files of ours."""

    issues: tuple[Issue, ...]
    facts: Facts | None = None
    ancestor: AncestorFacts | None = None
    file_bytes: int = 0


def examine(values: Values, faults: Mapping[str, str], name: str, named: Named, folder: str, samples: bool) -> Examined:
    """Everything that a file can be held to on its own. Never raises, whatever the values are.

    `faults` are keys that could not be read, with the reason. Without `samples`, `iq` has a length only.
    """
    issues = [Issue("object_array" if "pickle" in reason else "unreadable", reason, key[:80])
              for key, reason in faults.items()]  # fmt: skip
    try:
        check(values)
        if lacking := _lacking(values):
            raise NotAMinute(f"it has no {', '.join(lacking)}")
    except NotAMinute as error:
        issues += [Issue("keys", str(error))] if not faults or "it has no" not in str(error) else []
        return Examined(tuple(issues or [Issue("keys", "it is not a minute file")]))
    facts, ancestor = None, None
    try:
        issues += _impossible(values)
        facts = facts_of(values, name, named.minute_s, named.part)
        issues += onefile.basics(values, named, folder)
        if samples:
            issues += onefile.numbers(values)
        if "format_version" in values:
            issues += onefile.ours(values, samples)
        else:
            found, ancestor = one_file(values, named.minute_s, samples)
            issues += found
    except _IMPOSSIBLE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        issues.append(Issue("nonsense", f"its values cannot be reckoned with: {text}"))
        facts = ancestor = None
    return Examined(tuple(issues), facts, ancestor)


def _lacking(values: Values) -> list[str]:
    """What a file of ours has not, although its format promises it; signal-recorder's need not have any of it."""
    promised = [name for name in (*ANCESTOR_OPTIONAL, *ADDED) if name not in LATER_KEYS]
    return [name for name in promised if name not in values] if "format_version" in values else []


def _impossible(values: Values) -> Iterator[Issue]:
    for name in ("frequency_hz", "created_timestamp"):
        if not math.isfinite(values[name]):
            raise ValueError(f"{name} is {values[name]}")
    if not len(values["iq"]):
        yield Issue("length", "it has no samples")
