"""The command `init`: a commented configuration, from options, questions or what radiod sends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import DISTRIBUTION, PipelineError
from pipeline.cli.common import log_level_option
from pipeline.config import Radiod, parse_config
from pipeline.configfile import DEFAULT_PATH
from pipeline.manual import filled_in

# Three of radiod's status intervals.
LISTEN_S = 1.5
SECTIONS = {
    "callsign": "station",
    "grid": "station",
    "latitude": "station",
    "longitude": "station",
    "status_address": "radiod",
    "data_address": "radiod",
    "interface": "radiod",
    "data_dir": "recorder",
    "instance": "recorder",
}
QUESTIONS = {
    "callsign": "Callsign",
    "grid": "Maidenhead locator",
    "status_address": "radiod's status group (address or name, see status = in its configuration)",
    "interface": "Interface on which radiod is heard (lo: it runs on this machine)",
    "data_dir": "Folder for the recordings",
}
DEFAULTS = {"interface": "lo", "data_dir": "/var/lib/grape-pipeline"}
Answers = dict[str, str | float]
F = TypeVar("F", bound=Callable[..., Any])


_OPTIONS = (
    click.option("--callsign", envvar="STATION_CALL", help="Station callsign."),
    click.option("--grid", envvar="STATION_GRID", help="Maidenhead locator."),
    click.option("--latitude", type=float, envvar="STATION_LAT", help="Degrees, north positive."),
    click.option("--longitude", type=float, envvar="STATION_LON", help="Degrees, east positive."),
    click.option("--status-address", envvar="SIGMOND_RADIOD_STATUS", help="radiod's status group, host[:port]."),
    click.option("--data-address", help="radiod's data group, host[:port]."),
    click.option("--interface", help="Interface on which radiod is heard; lo for radiod on this machine."),
    click.option("--data-dir", help="Folder for the recordings."),
    click.option("--instance", envvar="SIGMOND_INSTANCE", help="Name of the instance."),
    click.option(
        "--discover", is_flag=True, help="Listen to radiod for a moment and write the channels that it sends."
    ),
    click.option("--ask/--non-interactive", default=None, help="Ask for what is missing. Default: on a terminal."),
)


def answer_options(command: F) -> F:
    """Add the options that `write_new` takes as answers, `--discover` and `--ask`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=DEFAULT_PATH)
@answer_options
@log_level_option
def init(path: Path, discover: bool, ask: bool | None, **answers: str | float | None) -> None:
    """Write a commented configuration to PATH; never over an existing file.

    What neither an option, sigmond's environment nor an answer gives keeps its default.
    PATH defaults to /etc/grape-pipeline/grape-pipeline.toml.

    Example: grape-pipeline init --callsign AC0G --status-address bee1-status.local --discover ./station.toml
    """
    write_new(path, discover, ask, answers)


def write_new(path: Path, discover: bool, ask: bool | None, answers: Mapping[str, str | float | None]) -> None:
    """Write the configuration that the answers describe. Raises PipelineError when PATH exists or refuses."""
    if path.exists():
        raise PipelineError(f"{path} exists and is left as it is; name another file or move it away")
    given: Answers = {name: value for name, value in answers.items() if value not in (None, "")}
    if ask or (ask is None and sys.stdin.isatty() and sys.stdout.isatty()):
        _ask(given)
        discover = discover or click.confirm("Listen to radiod for its channels now?", default=True)
    keys = {f"{SECTIONS[name]}.{name}": value for name, value in given.items()}
    text = filled_in(keys, path)
    if discover:
        text = filled_in(keys, path, _channels(text, path))
    _write(path, text)
    click.echo(f"wrote {path}; look through it, then: {DISTRIBUTION} check -c {path}")


def _ask(given: Answers) -> None:
    """Ask for what is not given; an empty answer keeps the default."""
    for name, question in QUESTIONS.items():
        if name not in given:
            answer = click.prompt(question, default=DEFAULTS.get(name, ""), show_default=name in DEFAULTS)
            if answer and answer != DEFAULTS.get(name):
                given[name] = answer


def _channels(text: str, path: Path) -> str:
    """The channels that radiod sends now, as TOML; "" when none was heard. What was found is told."""
    from pipeline.discovery import discover
    from pipeline.listening import listen

    radiod: Radiod = parse_config(text, path, need_channels=False).radiod
    heard = listen(radiod, [radiod.data_address], LISTEN_S, poll=True)
    elsewhere = {s.status.data_address for s in heard.streams.values() if s.status and s.status.data_address}
    if elsewhere - {radiod.data_address}:  # the poll tells of channels on groups that were not listened to
        heard = listen(replace(radiod, status_address=None), elsewhere | {radiod.data_address}, LISTEN_S)
    for fault in heard.faults:
        click.echo(fault, err=True)
    found = discover(heard, radiod.data_address)
    for reason in found.left_out:
        click.echo(f"left out: {reason}", err=True)
    if found.count:
        click.echo(f"radiod sends {found.count} channels that can be recorded", err=True)
    else:
        click.echo("no channel was heard; the nine of WWV and CHU are written, which radiod is asked for", err=True)
    return found.tables


def _write(path: Path, text: str) -> None:
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PipelineError(f"cannot write {path}: {error.strerror}") from None
