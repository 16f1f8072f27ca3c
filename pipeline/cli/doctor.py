"""The command `doctor`: what is wrong here, and what mends it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import click

from pipeline import EXIT_FAILURE, EXIT_OK
from pipeline.cli.common import config_option, json_option, print_json


@click.command()
@config_option
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=1.5, show_default=True, help="How long to listen to radiod."
)
@json_option
def doctor(config_path: Path | None, seconds: float, as_json: bool) -> int:
    """Check the configuration and this host, and say what mends it.

    A line a check: ok, warn or fail, what was found, and the command that mends it. radiod
    is listened to for a moment and sent nothing; the clock is measured once unless a running
    instance knows it. Changes nothing. Exit status 1 when a check fails.

    Example: grape-pipeline doctor -c station.toml
    """
    from pipeline.diagnosis.finding import Verdict, alike  # numpy and sockets are for this command's body
    from pipeline.doctor import examine

    findings = []
    # Topic by topic, as they come; what all channels have in common is one line.
    for _, about in groupby(examine(config_path, seconds), lambda finding: finding.topic):
        some = list(about)
        findings += some
        if not as_json:
            click.echo("\n".join(map(str, alike(some))))
    failed = sum(finding.verdict is Verdict.FAIL for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [finding.as_dict() for finding in findings]})
    else:
        warned = sum(finding.verdict is Verdict.WARN for finding in findings)
        click.echo(f"{len(findings)} checks, {failed} failed, {warned} with a warning")
    return EXIT_FAILURE if failed else EXIT_OK
