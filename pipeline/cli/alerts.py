"""The command `alerts`: what there is to tell, and whether telling works."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pipeline import EXIT_FAILURE, EXIT_OK, PipelineError
from pipeline.cli.common import config_option, load
from pipeline.config import Config


@click.command()
@config_option
@click.option("--test", is_flag=True, help="Send a test message to the command and the URL, and wait for the outcome.")
def alerts(config_path: Path | None, test: bool) -> int:
    """Show what is wrong now that an alert could be about; with --test, send a message.

    A running instance sends alerts itself when [alerts] names a command or a URL. The test has
    that instance's user and rights, if root or that user asks for it.

    Example: grape-pipeline alerts --test
    """
    config = load(config_path)
    ways = [name for name in ("command", "url") if getattr(config.alerts, name)]
    if test:
        if not ways:
            raise PipelineError("[alerts] has neither command nor url; nobody would be told")
        _become(config.recorder.instance)
        return _send(config)
    click.echo(f"alerts go to: {', '.join(ways) or 'nobody ([alerts] has neither command nor url)'}")
    for (kind, channel), text in _wrong(config).items():
        click.echo(f"{kind}: {f'{channel}: ' if channel else ''}{text}")
    return EXIT_OK


def _wrong(config: Config) -> dict[tuple[str, str], str]:
    from pipeline.alerts.conditions import conditions
    from pipeline.alerts.watcher import free_gb
    from pipeline.shm import Board
    from pipeline.supervision.snapshot import take

    snapshot = take(Board.open(config.recorder.instance), config, brief=True)
    return conditions(snapshot, free_gb(config.recorder.data_dir), False)


def _become(instance: str) -> None:
    """Have the rights that the instance has, if one runs."""
    from pipeline.supervision.instance import running_pid
    from pipeline.supervision.standing import assume, standing_of

    pid = running_pid(instance)
    if pid is None:
        return
    try:
        standing = standing_of(pid)
        assume(standing)
    except PipelineError as error:
        click.echo(f"not tried as instance {instance} does: {error}", err=True)
        return
    rights = " without new privileges: no set-user-ID mailer" if standing.no_new_privileges else ""
    click.echo(f"as {standing.user}, like instance {instance}{rights}")


def _send(config: Config) -> int:
    from pipeline.alerts.delivery import routes
    from pipeline.alerts.incidents import Event
    from pipeline.alerts.watcher import made_now

    event = Event(True, "test", {"": "nothing is wrong; this was sent by: grape-pipeline alerts --test"}, 0.0)
    ways = routes(config.alerts, retry_delays_s=())
    for route in ways:
        route.add(made_now(event, config))
    while busy := [route for route in ways if route.busy]:
        for route in busy:
            route.step(time.monotonic())
        time.sleep(0.05)
    for route in ways:
        click.echo(f"{route.name}: {'sent' if route.sent else 'not sent, see above'}")
    return EXIT_OK if all(route.sent for route in ways) else EXIT_FAILURE
