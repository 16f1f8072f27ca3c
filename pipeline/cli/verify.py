"""The command `verify`: is a tree of minute files what it says it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import EXIT_FAILURE, EXIT_OK
from pipeline.cli.common import json_option, print_json

if TYPE_CHECKING:
    from pipeline.verify import Audit


@click.command()
@click.argument("tree", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--no-days", is_flag=True, help="Leave out the table of channels and days.")
@json_option
def verify(tree: Path, no_days: bool, as_json: bool) -> int:
    """Check a tree of minute files, ours or signal-recorder's, against what they say.

    Each file: readable, complete, labels and gap list consistent with one another and with
    the samples. Files of a channel: each begins where the one before ended, labels step no
    further than their bounds, no minute twice. Exit status: 0 sound, 1 findings.

    \b
    Examples: grape-pipeline verify /var/lib/grape-pipeline
              grape-pipeline verify --json archives/WWV_10_MHz | jq '.findings[].code'
    """
    from pipeline.verify import verify_tree

    begin = time.monotonic()
    audit = _with_progress(tree) if sys.stderr.isatty() else verify_tree(tree)
    if as_json:
        print_json({**audit.to_json(), "elapsed_s": round(time.monotonic() - begin, 3)})
    else:
        click.echo("\n".join(_text(audit, not no_days)))
    return EXIT_OK if audit.findings.sound else EXIT_FAILURE


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _with_progress(tree: Path) -> Audit:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.verify import verify_tree

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("verify", total=None)

        def tell(done: int, total: int, channel: str) -> None:
            shown.update(task, completed=done, total=total, description=f"verify {channel}")

        return verify_tree(tree, tell)


def _text(audit: Audit, with_days: bool) -> list[str]:
    from pipeline.audit.days import table
    from pipeline.audit.findings import CODES, Severity

    lines = [*table(audit.days.rows.values()), ""] if with_days and audit.days.rows else []
    told: set[str] = set()
    for finding in audit.findings.by_severity():
        issue = finding.issue
        more = f" to {Path(finding.until).name} ({finding.count} files)" if finding.count > 1 else ""
        where = f" ({issue.where})" if issue.where else ""
        lines.append(f"{issue.severity.value:<8}{issue.code:<22}{finding.file}{more}")
        lines.append(f"{'':<8}{issue.what}{where}")
        if issue.code not in told:
            told.add(issue.code)
            lines.append(f"{'':<8}= {CODES[issue.code][1]}")
    if audit.findings.kept:
        lines.append("")
    errors, warnings = (audit.findings.counts[kind] for kind in (Severity.ERROR, Severity.WARNING))
    counted = f"{_number(audit.files, 'file')} of {_number(len(audit.channels), 'channel')}"
    lines.append(
        f"sound: {counted}"
        if audit.findings.sound
        else f"{_number(errors, 'error')}, {_number(warnings, 'warning')} in {counted}"
    )
    # Names come from wherever the files come from; a terminal must not obey them.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
