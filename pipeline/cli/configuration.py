"""The commands `config ...`: what sigmond and its wizards call to write and change a configuration."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from pipeline import DISTRIBUTION, EXIT_USAGE, PipelineError
from pipeline.cli.common import config_option, print_json
from pipeline.cli.init import answer_options, write_new
from pipeline.config import Config, ConfigError, parse_config
from pipeline.configedit import edited
from pipeline.configfile import ConfigMissing, load, locate
from pipeline.manual import manual
from pipeline.schema import Fault


class Refused(PipelineError):
    """What was to be applied is not a configuration."""

    exit_code = EXIT_USAGE


@click.group(invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> None:
    """Write, edit, show or change the configuration (sigmond's `config` verbs).

    Example: grape-pipeline config show --json --defaults
    """
    if context.invoked_subcommand is None:
        raise click.UsageError("name one of: init, edit, show, apply", context)


@config.command()
@config_option
@answer_options
@click.option(
    "--reconfig", is_flag=True, help="Put an existing file aside, under a name with the time, and begin anew."
)
def init(config_path: Path | None, discover: bool, ask: bool | None, reconfig: bool, **answers: Any) -> None:
    """Write a commented configuration, with what sigmond's environment says as defaults.

    Example: grape-pipeline config init --non-interactive
    """
    path = locate(config_path)
    aside = None
    if reconfig and path.exists():
        aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        _move(path, aside)
    try:
        write_new(path, discover, ask, answers)
    except BaseException:
        if aside is not None and not path.exists():
            _move(aside, path)
        raise
    if aside is not None:
        click.echo(f"the one before is {aside}")


@config.command()
@config_option
@click.option("--non-interactive", is_flag=True, help="Show what is configured and change nothing.")
def edit(config_path: Path | None, non_interactive: bool) -> None:
    """Open the configuration in $VISUAL or $EDITOR; only a sound one takes the old one's place.

    Example: grape-pipeline config edit
    """
    path = locate(config_path)
    if not path.exists():
        load(path)  # says what is missing and how to get it
    if non_interactive:
        print_json(_own_keys(path))
        return
    draft = Path(tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".toml")[1])
    shutil.copyfile(path, draft)
    while True:
        _open_editor(draft)
        text = draft.read_text(encoding="utf-8")
        try:
            parse_config(text, path)
            break
        except ConfigError as error:
            click.echo(str(error), err=True)
        if not click.confirm("Edit again?", default=True):
            raise PipelineError(f"{path} is left as it is; what you wrote is in {draft}")
    draft.unlink()
    if text == path.read_text(encoding="utf-8"):
        click.echo("no changes")
        return
    _replace(path, text)
    click.echo(f"wrote {path}; a running instance takes it up with: {DISTRIBUTION} reload -c {path}")


def _open_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(path)], check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise PipelineError(f"editor {editor}: {error}") from None


@config.command()
@config_option
@click.option("--json", "as_json", is_flag=True, default=True, help="JSON, which is the only form.")
@click.option("--defaults", is_flag=True, help="Every key, with the default where the file does not set it.")
def show(config_path: Path | None, defaults: bool, **_: Any) -> None:
    """Print the configuration's keys as JSON; {} when there is no file.

    Example: grape-pipeline config show --defaults
    """
    path = locate(config_path)
    if not defaults:
        print_json(_own_keys(path))
        return
    try:
        found = load(path, need_channels=False)
    except ConfigMissing:
        found = parse_config(manual())
    print_json(_as_table(found))


@config.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The only form.")
@click.argument("source", type=click.File(encoding="utf-8"), default="-", metavar="[FILE]")
def apply(config_path: Path | None, source: TextIO, **_: Any) -> None:
    """Set the keys of a JSON object, from FILE or standard input, and keep the file's comments.

    {"station": {"callsign": "AC0G"}} sets one key; null takes a key back to its default;
    a list of channels takes the place of all that there are. What the program would refuse
    changes nothing (exit status 2). Without a file the manual is the beginning.

    Example: echo '{"recorder": {"retention_days": 30}}' | grape-pipeline config apply --json -
    """
    path = locate(config_path)
    try:
        changes = json.load(source)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}") from None
    if not isinstance(changes, dict):
        raise Refused("the JSON must be an object of tables")
    _check_shape(changes)
    before = path.read_text(encoding="utf-8") if path.exists() else manual()
    text = edited(before, changes)
    try:
        parse_config(text, path)
    except ConfigError as error:
        raise Refused(str(error)) from None
    _replace(path, text)
    click.echo(f"wrote {path}")


def _check_shape(changes: Mapping[str, Any]) -> None:
    """Everything at the top is a table, but for the list of channels. Raises Refused."""
    for name, value in changes.items():
        if name == "channels":
            good = isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
            allowed = "must be a list of tables"
        else:
            good, allowed = isinstance(value, dict), "must be a table"
        if not good:
            raise Refused(str(Fault(name, value, allowed)))


def _own_keys(path: Path) -> dict[str, Any]:
    """The keys that the file sets. Raises ConfigError when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(path, [Fault("", None, f"not TOML: {error}")]) from None
    except OSError as error:
        raise ConfigError(path, [Fault("", None, f"cannot be read: {error.strerror}")]) from None


def _as_table(found: Config) -> dict[str, Any]:
    table = asdict(found)
    del table["path"], table["file_instance"]
    return table


def _move(path: Path, to: Path) -> None:
    try:
        path.rename(to)
    except OSError as error:
        raise PipelineError(f"cannot move {path} to {to}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    """Write the whole file or leave the old one; owner and mode stay."""
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        if path.exists():
            found = path.stat()
            draft.chmod(found.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.chown(draft, found.st_uid, found.st_gid)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise PipelineError(f"cannot write {path}: {error.strerror}") from None
