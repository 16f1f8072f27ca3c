"""The command `inspect`: what minute files say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline import DISTRIBUTION, EXIT_FAILURE, EXIT_OK, PipelineError
from pipeline.cli.common import json_option, print_json


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--all-gaps", is_flag=True, help="Show every gap of a long list.")
@json_option
def inspect(files: tuple[Path, ...], all_gaps: bool, as_json: bool) -> int:
    """Show header and gaps of minute files, also of signal-recorder's.

    With --json: an object for one file, an array for more; unknown is null. Exit status
    1 when a file cannot be read; the others are shown all the same.

    \b
    Examples: grape-pipeline inspect archives/WWV_10_MHz/20261122T191600Z_10000000_iq.npz
              grape-pipeline inspect --json FILE | jq .gaps_count
    """
    from pipeline import inspection  # numpy is for this command's body, not for its --help

    told: list[dict[str, Any]] = []
    status = EXIT_OK
    for number, path in enumerate(files):
        try:
            values = _load(path)
        except PipelineError as error:
            status = EXIT_FAILURE
            told.append({"file": path, "error": str(error)})
            click.echo(f"{DISTRIBUTION}: {error}", err=True)
            continue
        if as_json:
            told.append({"file": path, **inspection.facts(values)})
        else:
            click.echo("\n".join([*([""] if number else []), str(path), *inspection.lines(values, all_gaps)]))
    if as_json:
        print_json(told[0] if len(told) == 1 else told)
    return status


def _load(path: Path) -> dict[str, Any]:
    from pipeline import inspection, npz

    values = npz.read(path)
    try:
        inspection.check(values)
    except inspection.NotAMinute as error:
        raise inspection.NotAMinute(f"{path}: {error}") from None
    return values
