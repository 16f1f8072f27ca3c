"""The command `verify`: is a tree of minute files what it says it is."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import EXIT_FAILURE, EXIT_OK
from pipeline.cli.common import json_option, print_json

if TYPE_CHECKING:
    from pipeline.tree import Window
    from pipeline.verify import Audit

DAY = timedelta(days=1)


def _instant(text: str) -> datetime:
    """A UTC date, with a time perhaps; ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class _Since(click.ParamType[datetime]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """`2026-11-22`, `2026-11-22T04:16` or, back from now, `36h` or `2d`."""
        if ago := re.fullmatch(r"(\d{1,5})([hd])", value):
            return datetime.now(UTC) - int(ago[1]) * (timedelta(hours=1) if ago[2] == "h" else DAY)
        try:
            return _instant(value)
        except ValueError:
            self.fail(f"{value!r} is no UTC time such as 2026-11-22, 2026-11-22T04:16, 36h or 2d", param, ctx)


class _Day(click.ParamType[datetime]):
    name = "DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """`2026-11-22`, `today` or `yesterday`, UTC."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if value in ("today", "yesterday"):
            return today if value == "today" else today - DAY
        try:
            moment = _instant(value)
        except ValueError:
            moment = today + timedelta(seconds=1)
        if moment.timestamp() % DAY.total_seconds():
            self.fail(f"{value!r} is no UTC date such as 2026-11-22, today or yesterday", param, ctx)
        return moment


@click.command()
@click.argument("tree", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--day", type=_Day(), help="Only this UTC day: 2026-11-22, today, yesterday.")
@click.option("--since", type=_Since(), help="Only minutes from this UTC time on, or from so long ago: 36h, 2d.")
@click.option("--quick", is_flag=True, help="Do not read the samples: keys, labels and continuity only.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), metavar="N", help="Processes that read. Default: one a CPU.")
@click.option("--all", "everything", is_flag=True, help="Show every place of a fault, not the first ten.")
@click.option("--no-days", is_flag=True, help="Leave out the table of channels and days.")
@json_option
def verify(
    tree: Path, day: datetime | None, since: datetime | None, quick: bool, jobs: int | None, everything: bool,
    no_days: bool, as_json: bool,
) -> int:  # fmt: skip
    """Check a tree of minute files, ours or signal-recorder's, against what they say.

    Each file: readable, complete, labels and gap list consistent with one another and with
    the samples. Files of a channel: each begins where the one before ended, labels step no
    further than their bounds, no minute twice. A fault is named with the file, what it means
    and what to do. Exit status: 0 sound, 1 findings.

    \b
    Examples: grape-pipeline verify /var/lib/grape-pipeline
              grape-pipeline verify --day yesterday /var/lib/grape-pipeline
              grape-pipeline verify --quick --json archives/WWV_10_MHz | jq '.findings[].code'
    """
    if day and since:
        raise click.UsageError("--day and --since exclude each other.")
    begin = time.monotonic()
    audit = _audit(tree, _window(day, since), not quick, jobs or len(os.sched_getaffinity(0)))
    elapsed_s = time.monotonic() - begin
    if as_json:
        print_json({**audit.to_json(), "elapsed_s": round(elapsed_s, 3)})
    else:
        click.echo("\n".join(_text(audit, elapsed_s, not no_days, everything)))
    return EXIT_OK if audit.findings.sound else EXIT_FAILURE


def _window(day: datetime | None, since: datetime | None) -> Window:
    from pipeline.tree import Window

    if day:
        return Window(round(day.timestamp()), round((day + DAY).timestamp()))
    return Window(int(since.timestamp())) if since else Window()


def _audit(tree: Path, window: Window, samples: bool, jobs: int) -> Audit:
    from pipeline.verify import verify_tree

    if not sys.stderr.isatty():
        return verify_tree(tree, window, samples=samples, jobs=jobs)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("listing", total=None, rate="")
        begin = time.monotonic()

        def tell(done: int, total: int, file_bytes: int, channel: str) -> None:
            took_s = max(0.1, time.monotonic() - begin)
            rate = f"{done / took_s:.0f} files/s, {file_bytes / took_s / 1e6:.0f} MB/s"
            shown.update(task, completed=done, total=total, description=_safe(channel), rate=rate)

        return verify_tree(tree, window, samples=samples, jobs=jobs, progress=tell)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _text(audit: Audit, elapsed_s: float, with_days: bool, everything: bool) -> list[str]:
    from pipeline.audit import text
    from pipeline.audit.codes import Severity
    from pipeline.audit.days import table

    lines = [*table(audit.days.rows.values()), ""] if with_days and audit.days.rows else []
    lines += text.lines(audit.findings, everything)
    errors, warnings = (audit.findings.counts[kind] for kind in (Severity.ERROR, Severity.WARNING))
    counted = f"{_number(audit.files, 'file')} of {_number(len(audit.channels), 'channel')}"
    counted += "" if audit.samples else ", samples not looked at"
    speed = f"{audit.file_bytes / 1e6:.0f} MB in {elapsed_s:.1f} s"
    verdict = "sound" if audit.findings.sound else f"{_number(errors, 'error')}, {_number(warnings, 'warning')}"
    lines.append(f"{verdict}: {counted}; {speed}")
    return [_safe(line) for line in lines]


def _safe(line: str) -> str:
    """Names come from wherever the files come from; a terminal must not obey them."""
    return "".join(c if c.isprintable() else "?" for c in line)
