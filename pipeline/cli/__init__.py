"""The command line: a table of commands, each loaded only when it is used.

`--help` and `--version` import neither numpy nor any module that the named command does
not need; the modules below hold click commands and calls, no logic of their own.
"""

from __future__ import annotations

import importlib

import click

from pipeline import DISTRIBUTION, __version__
from pipeline.cli.common import log_level_option

# command: (module, attribute, the line in the overview)
COMMANDS = {
    "start": ("pipeline.cli.service", "start", "Record until stopped."),
    "daemon": ("pipeline.cli.service", "daemon", "The same as start, under the name that sigmond uses."),
    "stop": ("pipeline.cli.service", "stop", "Stop a running instance."),
    "restart": ("pipeline.cli.service", "restart", "Restart channels of a running instance."),
    "reload": ("pipeline.cli.service", "reload", "Let a running instance read its configuration again."),
    "status": ("pipeline.cli.status", "status", "Show what a running instance does."),
    "top": ("pipeline.cli.top", "top", "The same live, with keys to restart a channel."),
    "web": ("pipeline.cli.web", "web", "The same as a page, with spectrograms and the day's Doppler shifts."),
    "ntp": ("pipeline.cli.ntp", "ntp", "Measure this host's clock once against the configured sources."),
    "demo": ("pipeline.cli.demo", "demo", "Record an embedded radiod for some minutes and check the files."),
    "simulate": ("pipeline.cli.simulate", "simulate", "Run the embedded radiod on its own."),
    "replay": ("pipeline.cli.simulate", "replay", "Send a captured stream again with its timing."),
    "inspect": ("pipeline.cli.inspect", "inspect", "Show header and gaps of minute files."),
    "verify": ("pipeline.cli.verify", "verify", "Check a tree of minute files against what they say."),
    "plot": ("pipeline.cli.plot", "plot", "Draw minute files: spectrogram, Doppler shift, level, gaps."),
    "check": ("pipeline.cli.setup", "check", "Check the configuration."),
    "doctor": ("pipeline.cli.doctor", "doctor", "Check the configuration and this host, and say what mends it."),
    "alerts": ("pipeline.cli.alerts", "alerts", "Show what an alert would be about, or send a test message."),
    "init": ("pipeline.cli.init", "init", "Write a commented configuration."),
    "config": ("pipeline.cli.configuration", "config", "Write, edit, show or change the configuration."),
    "inventory": ("pipeline.cli.setup", "inventory", "Describe this client to sigmond (JSON)."),
    "validate": ("pipeline.cli.setup", "validate", "Check the configuration for sigmond (JSON)."),
    "quality": ("pipeline.cli.quality", "quality", "Tell sigmond how well an instance receives (JSON)."),
    "version": ("pipeline.cli.setup", "version", "Show the version."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or asked for their help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table, which is the order of an operator's day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's object, None for a name that is not in the table."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, written from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=DISTRIBUTION)
@log_level_option
def cli() -> None:
    """Record radiod's time-signal IQ streams, one NPZ file per channel and UTC minute.

    Example: grape-pipeline demo --minutes 2
    """
