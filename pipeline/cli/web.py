"""The command `web`: a page to look at."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import config_option, load
from pipeline.cli.service import find_instance, instance_option


@click.command()
@config_option
@instance_option
@click.option("--listen", default="127.0.0.1:8073", show_default=True, metavar="HOST:PORT", help="Where it is served.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="A name under which the page is asked for, e.g. of a proxy."
)
def web(config_path: Path | None, instance: str | None, listen: str, allow_host: tuple[str, ...]) -> int:
    """Serve a page with the live table, the last minutes' spectrograms and the day's Doppler shifts.

    A process of its own that reads shared memory and files. There is no password, so it is
    served on this machine only unless --listen says otherwise; from elsewhere, through ssh:
    ssh -L 8073:localhost:8073 STATION. Needs the extra `web`.

    Example: grape-pipeline web -c station.toml
    """
    from pipeline.web.server import serve

    config = load(config_path, instance=instance)
    return serve(config, find_instance(config_path, instance), listen, allow_host)
