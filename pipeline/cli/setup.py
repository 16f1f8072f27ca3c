"""Commands around the configuration: `check`, and what sigmond asks of a client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline import DISTRIBUTION, EXIT_CONFIG, EXIT_FAILURE, __version__
from pipeline.cli import sigmond
from pipeline.cli.common import config_option, json_option, load, print_json
from pipeline.config import Config, ConfigError
from pipeline.configfile import locate


@click.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration; report everything that is wrong with it at once (exit 78).

    Example: grape-pipeline check -c /etc/grape-pipeline/grape-pipeline.toml
    """
    try:
        config = load(config_path)
    except ConfigError as error:
        if not as_json:
            raise
        faults = [{"key": f.key, "value": f.value, "allowed": f.allowed, "text": str(f)} for f in error.faults]
        print_json({"ok": False, "config_path": locate(config_path), "faults": faults})
        raise SystemExit(EXIT_CONFIG) from None
    if as_json:
        print_json({"ok": True, "config_path": config.path, "faults": []})
    else:
        click.echo("\n".join(_summary(config)))


def _summary(config: Config) -> list[str]:
    recorder, radiod, ntp = config.recorder, config.radiod, config.ntp
    lines = [
        f"{config.path}: sound",
        f"instance {recorder.instance}, files in {recorder.data_dir} ({recorder.storage})",
        f"radiod: data {radiod.data_address} on {radiod.interface}, status {radiod.status_address or 'not used'}",
        f"ntp: {', '.join(ntp.sources)}; {len(ntp.servers)} servers",
        f"{len(config.enabled_channels)} of {len(config.channels)} channels enabled:",
    ]
    for c in config.enabled_channels:
        lines.append(
            f"  {c.name:16} {c.frequency_hz / 1e6:9.4f} MHz  {c.sample_rate_hz} Hz {c.encoding}  SSRC {c.ssrc}"
        )
    return lines


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the version, and the commit when run from a git clone.

    Example: grape-pipeline version --json
    """
    found = sigmond.version()
    if as_json:
        print_json(found)
        return
    git = found["git"]
    commit = f" ({git['short']}{', modified' if git['dirty'] else ''})" if git else ""
    click.echo(f"{DISTRIBUTION} {__version__}{commit}")


# sigmond's clients print JSON with and without the option.
_json_always = click.option("--json", "as_json", is_flag=True, default=True, help="JSON, which is the only form.")


@click.command()
@config_option
@_json_always
def inventory(config_path: Path | None, **_: Any) -> None:
    """Describe this client to sigmond: instances, channels, what it writes. Always exit 0.

    Example: grape-pipeline inventory --json
    """
    print_json(sigmond.inventory(config_path))


@click.command()
@config_option
@_json_always
def validate(config_path: Path | None, **_: Any) -> None:
    """Check the configuration for sigmond: exit 0 if nothing fails, else 1.

    Example: grape-pipeline validate --json
    """
    found = sigmond.validate(config_path)
    print_json(found)
    if not found["ok"]:
        raise SystemExit(EXIT_FAILURE)
