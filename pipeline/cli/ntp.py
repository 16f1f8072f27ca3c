"""`grape-pipeline ntp`: what the configured time sources say about this host's clock."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from textwrap import wrap
from typing import Any

import click

from pipeline import EXIT_FAILURE, EXIT_OK
from pipeline.cli.common import config_option, json_option, load, print_json
from pipeline.config import Ntp
from pipeline.ntp import measure_once
from pipeline.ntp.report import Report, counters_text, sentence
from pipeline.ntp.rows import Row
from pipeline.ntp.words import meaning

HEADINGS = ("", "Name", "Address", "St", "Reach", "Offset ms", "Delay ms", "Disp ms", "Reason")
NUMERIC = ("St", "Reach", "Offset ms", "Delay ms", "Disp ms")
# What a narrow terminal does without, in this order.
DISPENSABLE = ("Address", "Disp ms", "Delay ms", "Reach")
WIDE = 24  # of a longer cell so much must be seen
LEGEND = "* best  + combined  - agrees, not combined  x falseticker  ? unusable; offset = this host - server"


@click.command()
@config_option
@json_option
@click.option("--once", is_flag=True, help="One round, the default.")
@click.option("--watch", is_flag=True, help="Go on measuring, politely, and show every result until interrupted.")
def ntp(config_path: Path | None, as_json: bool, once: bool, watch: bool) -> None:
    """Measure this host's clock against the configured sources; the clock is not touched.

    A row a server, refusals named, the verdict last. Exit 0 when synchronised, 1 when not.
    With --watch --json a line of JSON for every result.

    Example: grape-pipeline ntp --json
    """
    if once and watch:
        raise click.UsageError("--once and --watch exclude each other")
    config = load(config_path, need_channels=False).ntp
    raise SystemExit(_watch(config, as_json) if watch else _once(config, as_json))


def _once(config: Ntp, as_json: bool) -> int:
    show_progress = sys.stderr.isatty() and not as_json
    measurement = measure_once(config, _progress if show_progress else None)
    if show_progress:
        click.echo("\r\033[K", nl=False, err=True)
    _show(measurement.report, config, as_json)
    return EXIT_OK if measurement.record.synced else EXIT_FAILURE


def _progress(done: int, servers: int) -> None:
    click.echo(f"\r{done} of {servers} servers", nl=False, err=True)


def _watch(config: Ntp, as_json: bool) -> int:
    from pipeline.ntp.loop import Loop

    synced = False

    def show(report: Report) -> None:
        nonlocal synced
        synced = bool(report.record.synced)
        if as_json:
            click.echo(json.dumps(_document(report, config)))
            return
        told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()) + ", until interrupted"
        click.clear()
        click.echo("\n".join(_screen(report, told)))

    loop = Loop(config, show, tell=lambda note: None)
    try:
        loop.run(lambda: False)
    except KeyboardInterrupt:
        pass
    finally:
        loop.close()
    return EXIT_OK if synced else EXIT_FAILURE


def _document(report: Report, config: Ntp) -> dict[str, Any]:
    verdict = report.record.at(time.monotonic_ns(), config.stale_after_s)
    return {"servers": [row.as_dict() for row in report.rows], "verdict": verdict}


def _screen(report: Report, told: str) -> list[str]:
    """The result cut to the terminal: explanations go first, then servers, never the verdict."""
    width, height = shutil.get_terminal_size()
    rows, meanings = _table(report.rows, width), _meanings(report)
    tail = [line for text in (*_tail(report), counters_text(report.counters), told) for line in wrap(text, width)]
    if len(rows) + len(meanings) + len(tail) >= height:
        meanings = []
    room = max(height - len(tail) - 1, 1)
    if len(rows) > room:
        rows = [*rows[: room - 1], f"({len(rows) - room} lines more in a higher window)"]
    return [line[:width] for line in (*rows, *meanings, *tail)]


def _show(report: Report, config: Ntp, as_json: bool) -> None:
    if as_json:
        print_json(_document(report, config))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    for line in (*_table(report.rows, width), *_meanings(report), *_tail(report)):
        click.echo(line)


def _tail(report: Report) -> list[str]:
    """The local sources and the verdict."""
    sources = [f"{source}: {text}" for source, text in report.local.items()]
    return [*sources, sentence(report.record, len(report.rows), report.why)]


def _table(rows: tuple[Row, ...], width: int) -> list[str]:
    """Heading, a line per row, legend; columns that say nothing or do not fit are left out."""
    columns = [_column(*cells) for cells in zip(HEADINGS, *(_cells(row) for row in rows), strict=True)]
    if not any(row.address not in (None, row.name) for row in rows):
        columns = [c for c in columns if c[0].strip() != "Address"]
    for name in DISPENSABLE:
        if sum(min(len(c[0]), WIDE) + 1 for c in columns) - 1 > width:
            columns = [c for c in columns if c[0].strip() != name]
    lines = [" ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return [*lines, LEGEND] if rows else []


def _column(*cells: str) -> list[str]:
    """Cells of one width, numbers to the right."""
    widest = max(map(len, cells))
    return [c.rjust(widest) if cells[0] in NUMERIC else c.ljust(widest) for c in cells]


def _meanings(report: Report) -> list[str]:
    """What the reasons shown mean, a line for each that occurs."""
    reasons = dict.fromkeys([*(row.reason for row in report.rows), *report.local.values()])
    return [f"{reason}: {told}" for reason in reasons if (told := meaning(reason))]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.state.symbol,
        row.name,
        "" if row.address in (None, row.name) else str(row.address),
        _number(row.stratum, "d"),
        f"{row.reach:o}",
        _number(row.offset_ms, "+.3f"),
        _number(row.delay_ms, ".3f"),
        _number(row.dispersion_ms, ".3f"),
        row.reason,
    )


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
