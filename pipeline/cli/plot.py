"""The command `plot`: pictures of minute files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import DISTRIBUTION, EXIT_FAILURE, EXIT_OK, PipelineError

if TYPE_CHECKING:
    from pipeline.audit.findings import Issue
    from pipeline.plotting.days import Days

Told = Callable[[int, int], None]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="PNG", help="Default: named after the file, here."
)
@click.option("--force", is_flag=True, help="Replace a picture that is there already.")
def plot(files: tuple[Path, ...], output: Path | None, force: bool) -> int:
    """Draw minute files as a PNG, ours or signal-recorder's.

    One file: spectrogram, the carrier's Doppler shift, level, gaps by cause, the minute
    tone. Several files or a folder: Doppler shift, completeness and level over time, a
    row a channel. Exit status 1 when a file cannot be read; the others are drawn all the same.

    \b
    Examples: grape-pipeline plot archives/WWV_10_MHz/20261122T191600Z_10000000_iq.npz
              grape-pipeline plot archives/WWV_10_MHz -o day.png
              grape-pipeline plot archives/*/20261122T*_iq.npz -o all.png
    """
    from pipeline import plot as drawing

    drawing.require_matplotlib()
    paths = _paths(files)
    target = output or Path(f"{_stem(files, paths)}.png")
    if target.exists() and not force:
        raise drawing.PlotError(f"{target} exists already; give another name with -o, or --force")
    if not target.parent.is_dir():
        raise drawing.PlotError(f"{target.parent} is not a folder")
    status = EXIT_OK
    if len(paths) == 1 and not files[0].is_dir():
        from pipeline.plotting.minuteview import minute

        figure = minute(drawing.load(paths[0]))
    else:
        channels, status = _with_progress(paths) if sys.stderr.isatty() else _gather(paths, lambda done, total: None)
        from pipeline.plotting.daysview import days

        figure = days(channels)
    drawing.save(figure, target)
    click.echo(target)
    return status


def _paths(files: tuple[Path, ...]) -> list[Path]:
    """The files named, and the minutes below the folders named, a channel's in order of time; no second parts."""
    from pipeline import tree
    from pipeline.plot import PlotError

    def report(path: Path, issue: Issue) -> None:
        if issue.code == "unreadable_folder":
            raise PlotError(f"{path}: {issue.what}")

    found: list[Path] = []
    for path in files:
        if not path.is_dir():
            found.append(path)
            continue
        for folders in tree.channels(path, report):
            minutes = tree.minutes(folders, tree.Window(), report)
            found += [minute.path for minute in minutes if not minute.named.part]
    if not found:
        raise PlotError(f"no minute file in {', '.join(map(str, files))}")
    return found


def _stem(files: tuple[Path, ...], paths: list[Path]) -> str:
    if len(paths) == 1:
        return paths[0].stem
    folders = {path.parent.name for path in paths}
    name = folders.pop() if len(folders) == 1 else files[0].resolve().name if files[0].is_dir() else "channels"
    return f"{name}_{min(path.name for path in paths)[:16]}"


def _with_progress(paths: list[Path]) -> tuple[list[Days], int]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("plot", total=len(paths))
        return _gather(paths, lambda done, total: shown.update(task, completed=done, total=total))


def _gather(paths: list[Path], tell: Told) -> tuple[list[Days], int]:
    """All files as views of their channels; one file in memory at a time. Raises PlotError when none can be read."""
    from pipeline.audit.onefile import parse_name
    from pipeline.plot import PlotError, load
    from pipeline.plotting.days import Days

    minutes = [named.minute_s for path in paths if (named := parse_name(path.name)) is not None]
    if len(minutes) < len(paths):
        odd = next(path for path in paths if parse_name(path.name) is None)
        raise PlotError(f"{odd}: its name is not a minute's; draw it alone")
    first, end = min(minutes), max(minutes) + 60
    channels: dict[str, Days] = {}
    status = EXIT_OK
    for number, (path, minute_s) in enumerate(zip(paths, minutes, strict=True)):
        tell(number, len(paths))
        try:
            values = load(path)
        except PipelineError as error:
            status = EXIT_FAILURE
            click.echo(f"{DISTRIBUTION}: {error}", err=True)
            continue
        name = values["channel_name"]
        if name not in channels:
            channels[name] = Days(name, values["frequency_hz"], first, end)
        channels[name].add(values, minute_s)
    if not channels:
        raise PlotError("none of the files can be read")
    return sorted(channels.values(), key=lambda channel: channel.frequency_hz), status
