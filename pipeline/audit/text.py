"""An audit's findings as lines for people: each kind of fault with what it means and what to do, then where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from pipeline.audit.codes import CODES
from pipeline.audit.findings import Finding, Findings

SHOWN = 10
WIDTH = 116
INDENT = " " * 9


def lines(findings: Findings, everything: bool = False) -> Iterator[str]:
    """The findings by kind, the worst first; of each kind the first ten, or all that were kept."""
    for name, found in findings.by_code():
        code = CODES[name]
        many = findings.files_with[name]
        yield f"{code.severity.value:<9}{name}, {many} file{'s' * (many != 1)}"
        yield from _wrapped(code.means, INDENT)
        if code.todo:
            yield from _wrapped(f"To do: {code.todo}", INDENT)
        shown = found if everything else found[:SHOWN]
        for finding in shown:
            yield from _finding(finding)
        if len(found) > len(shown):
            yield f"{INDENT}... {len(found) - len(shown)} more such places; --all shows them"
        yield ""


def _finding(finding: Finding) -> Iterator[str]:
    until = f" to {PurePath(finding.until).name}, {finding.count} files" if finding.count > 1 else ""
    yield f"{INDENT}- {finding.file}{until}"
    where = f" ({finding.issue.where})" if finding.issue.where else ""
    yield from _wrapped(f"{finding.issue.what}{where}", INDENT + "  ")


def _wrapped(text: str, indent: str) -> Iterator[str]:
    line = indent
    for word in text.split():
        if len(line) + len(word) > WIDTH and line != indent:
            yield line.rstrip()
            line = indent
        line += word + " "
    yield line.rstrip()
