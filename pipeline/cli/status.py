"""The command `status`: one look at a running instance."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import EXIT_NOT_RUNNING
from pipeline.cli.common import config_option, json_option, load, print_json
from pipeline.cli.service import find_instance, instance_option
from pipeline.config import Config, ConfigError
from pipeline.shm import Board, SharedMemoryError
from pipeline.supervision.causes import Level
from pipeline.supervision.instance import why_absent
from pipeline.supervision.report import lines
from pipeline.supervision.report_json import status_json, stopped_json, unseen_json
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import health


@click.command()
@config_option
@instance_option
@json_option
def status(config_path: Path | None, instance: str | None, as_json: bool) -> int:
    """Show what a running instance does, and one line for each thing that is wrong.

    Reads shared memory only, so it costs the recording nothing. Exit status: 0 all is
    well, 1 something has to be known, 2 data is being lost, 3 not running.

    Example: grape-pipeline status --json
    """
    name = find_instance(config_path, instance)
    try:
        board = Board.open(name)
    except SharedMemoryError as error:
        why, pid = why_absent(name, error)
        if as_json:
            print_json(stopped_json(name) if pid is None else unseen_json(name, pid, why))
        else:
            click.echo(f"{name}: {why}" if pid is not None else f"{name}: not running ({why})")
        return EXIT_NOT_RUNNING if pid is None else int(Level.CRIT)
    snapshot = take(board, _config(config_path, name))
    if as_json:
        print_json(status_json(snapshot))
    else:
        click.echo("\n".join(lines(snapshot)))
    return int(health(snapshot).level)


def _config(config_path: Path | None, instance: str) -> Config | None:
    """What the board does not hold; status works without."""
    try:
        return load(config_path, instance=instance, need_channels=False)
    except ConfigError:
        return None
