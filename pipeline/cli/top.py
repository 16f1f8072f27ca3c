"""The command `top`: a running instance, again every second."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import EXIT_NOT_RUNNING, EXIT_OK
from pipeline.cli.common import config_option, load
from pipeline.cli.service import find_instance, instance_option
from pipeline.config import Config, ConfigError


@click.command()
@config_option
@instance_option
@click.option("--once", is_flag=True, help="Print one picture; exit status as that of status.")
def top(config_path: Path | None, instance: str | None, once: bool) -> int:
    """Show a running instance, again every second, and what is wrong with it in words.

    Reads shared memory and /proc only, so it costs the recording nothing. The bar is the
    running minute: # received, - over and not received, . still to come. Keys: arrows or
    j k select a channel, r restarts it without losing a packet, q leaves.

    Example: grape-pipeline top -c station.toml
    """
    from pipeline import terminal  # rich is for this command's body, not for its --help

    name = find_instance(config_path, instance)
    config = _config(config_path, name)
    if not once:
        terminal.run(name, config)
        return EXIT_OK
    from pipeline.supervision.troubles import health

    seen = terminal.once(name, config)
    return EXIT_NOT_RUNNING if seen is None else int(health(seen).level)


def _config(config_path: Path | None, instance: str) -> Config | None:
    """What the board does not hold; the view works without."""
    try:
        return load(config_path, instance=instance, need_channels=False)
    except ConfigError:
        return None
