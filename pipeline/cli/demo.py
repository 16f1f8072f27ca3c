"""`demo`: the whole pipeline on embedded sources, and how what it recorded checks out."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import EXIT_FAILURE

if TYPE_CHECKING:
    from pipeline.demo import Checked, Progress


@click.command()
@click.option("--minutes", type=click.IntRange(1, 60), default=2, show_default=True, help="Complete minutes to record.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: a new one below /tmp."
)
def demo(minutes: int, data_dir: Path | None) -> None:
    """Record the nine WWV and CHU channels from an embedded radiod and NTP servers.

    Nothing leaves this machine and no radio is needed. What was written is then held
    against what was sent: every sample, and every label against its stated bound.

    \b
    Example: grape-pipeline demo --minutes 2 --data-dir /tmp/grape
    """
    from pipeline.demo import record

    folder = data_dir if data_dir is not None else Path(tempfile.mkdtemp(prefix="grape-demo-"))
    click.echo(
        f"Recording {minutes} complete minute{'s' if minutes > 1 else ''} of nine channels into {folder}", err=True
    )
    show = _Display()
    try:
        rows, work = record(minutes, folder, show)
    finally:
        show.close()
    click.echo(table(rows))
    sound = [row for row in rows if row.sound]
    click.echo(f"{len(sound)} of {len(rows)} files are complete, bit-exact and labelled within their bound.")
    click.echo(f"Files: {folder}/archives   log, configuration and truth: {work}")
    click.echo(f"Look at one: grape-pipeline inspect {rows[0].path if rows else folder}")
    if len(sound) != len(rows) or not rows:
        sys.exit(EXIT_FAILURE)


class _Display:
    """Progress: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True)
            )
            self._task = self._bar.add_task("starting", total=100.0)
            self._bar.start()

    def __call__(self, progress: Progress) -> None:
        text = (
            f"{progress.files} of {progress.wanted} files, running minute {progress.running_pct:3.0f} % received, "
            f"NTP {progress.ntp}"
        )
        if self._bar is not None:
            done = progress.files + progress.running_pct / 100 * 9
            self._bar.update(self._task, description=text, completed=min(100.0, 100.0 * done / progress.wanted))
        elif progress.elapsed_s >= self._next_s:
            self._next_s = progress.elapsed_s + 10.0
            click.echo(f"{progress.elapsed_s:5.0f} s  {text}", err=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def table(rows: list[Checked]) -> str:
    """A line per channel: what was recorded and how it checks out."""
    lines = [
        f"{'channel':<15}{'files':>6}{'complete':>10}{'gaps':>6}{'lost':>6}{'wrong':>7}"
        f"{'label error':>13}{'stated bound':>14}  NTP"
    ]
    for name in dict.fromkeys(row.channel for row in rows):
        mine = [row for row in rows if row.channel == name]
        complete = min(row.completeness_pct for row in mine)
        states = ", ".join(dict.fromkeys(row.ntp_state for row in mine))
        lines.append(
            f"{name:<15}{len(mine):>6}{complete:>9.2f}%{sum(r.gaps for r in mine):>6}{sum(r.lost for r in mine):>6}"
            f"{sum(r.wrong_samples for r in mine):>7}"
            f"{max(r.label_error_ns for r in mine) / 1e6:>10.3f} ms"
            f"{max(r.uncertainty_ns for r in mine) / 1e6:>11.3f} ms"
            f"  {states} {mine[-1].ntp_offset_ms:+.3f} ms"
        )
    return "\n".join(lines)
