"""Writes etc/grape-pipeline.1 from the commands themselves:   python -m pipeline.cli.manpage > etc/grape-pipeline.1

One page for all, since an operator searches one page. The layout is man(7)'s; nothing of click's own help
formatting is used, which differs between its versions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import click

from pipeline import DISTRIBUTION, EXIT_CONFIG, EXIT_FAILURE, EXIT_NOT_RUNNING, EXIT_SOFTWARE, EXIT_USAGE, __version__
from pipeline.cli import COMMANDS, cli

PURPOSE = "record radiod's time-signal IQ streams, one NPZ file per channel and UTC minute"
# Told once, in a section of their own.
COMMON = ("config_path", "as_json", "instance", "help", "log_level")
EXITS = {
    0: "All is well.",
    EXIT_FAILURE: "It failed; for status: something has to be known; for verify: findings.",
    EXIT_USAGE: "Wrong usage, or a channel that does not exist; for status: data is being lost.",
    EXIT_NOT_RUNNING: "The instance does not run.",
    EXIT_SOFTWARE: "A fault of the program; the log has its trace.",
    EXIT_CONFIG: "The configuration is missing or faulty; all faults are told at once.",
}
SIGNALS = {
    "SIGTERM, SIGINT": "Write what is held, stop the processes in order, exit 0.",
    "SIGHUP": "Read the configuration and the coordinator's variables again; channels that stay as they are go on.",
    "SIGUSR2": "Leave at once for the next start, which goes on with the samples in shared memory.",
}
FILES = {
    "/etc/grape-pipeline/grape-pipeline.toml": "Configuration; etc/grape-pipeline.toml explains every key.",
    "/etc/grape-pipeline/NAME.toml": "The same of instance NAME, which goes before it.",
    "DATA_DIR/archives/CHANNEL/YYYYMMDDTHHMMSSZ_HZ_iq.npz": "A minute of a channel, for numpy.load.",
    "DATA_DIR/parts/": "Second parts of a minute, such as of another sample rate.",
    "DATA_DIR/log/INSTANCE.log": "The log of an instance that was started with --detach.",
    "/run/grape-pipeline/INSTANCE.control.sock": "HTTP on a Unix socket: GET /healthz, /readyz, /status, /metrics; "
    "POST /reload, /restart, /stop.",
    "~/.cache/grape-pipeline/": "The page's day so far; may be removed.",
    "/dev/shm/grape-pipeline-INSTANCE": "State for readers; etc/grape_pipeline_shm.h describes it for C.",
    "/dev/shm/grape-pipeline-INSTANCE-CHANNEL": "Samples that are in no file yet.",
}
VARIABLES = {
    "GRAPE_PIPELINE_CONFIG": "Configuration file where -c names none.",
    "GRAPE_PIPELINE_LOG_LEVEL, CLIENT_LOG_LEVEL": "Log level; goes before the configuration's.",
    "GRAPE_PIPELINE_ENV_FILES": "Files with such variables, read at the start and at every reload, separated by "
    "colons; default /etc/sigmond/coordination.env.",
    "RADIOD_ID_STATUS, RADIOD_ID_CHAIN_DELAY_NS": "What a coordinator states of the radiod with this id.",
    "RUNTIME_DIRECTORY": "Where lock and control socket lie; default /run/grape-pipeline, without the rights for it "
    "grape-pipeline below XDG_RUNTIME_DIR, else /tmp/grape-pipeline-UID.",
    "CACHE_DIRECTORY, XDG_CACHE_HOME": "Where the page keeps what it has put together of the day; default ~/.cache, "
    "and grape-pipeline in the latter.",
    "NO_COLOR": "top and ntp without colour; every verdict is a word as well.",
    "VISUAL, EDITOR": "What config edit opens.",
}
NOTES = (
    "status --json, and GET /status, have the keys of HamSCI's client contract 0.8 and some more. Ages are in seconds, "
    "keys that end in _1m are of the last minute: the supervisor looks every 5 s, so they are null in a run's first "
    "5 s. spool.depth_files counts minutes that are over and not on disk, spool.oldest_age_s is how long the oldest "
    "of them waits, 0 when there is none.",
    "multicast.groups_joined[].last_igmp_report_age_s is always null: the kernel answers IGMP queries by itself and "
    "tells nobody when it did. Whether a membership works is told by last_pkt_age_s, and doctor looks for a querier.",
    "What is null besides is not known yet: a channel of which nothing was heard has no last_packet_age_s.",
    "The page of the command web is a process of its own that belongs to no instance; it is not among the "
    "processes of status. Its unit, grape-pipeline-web@INSTANCE, says whether it runs.",
)


def page() -> str:
    """The whole page as man(7) source, ending in a line end."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.\\" Made by: python -m pipeline.cli.manpage'
    yield f'.TH {DISTRIBUTION.upper()} 1 "" "{DISTRIBUTION} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"{_escaped(DISTRIBUTION)} \\- {_escaped(PURPOSE)}"
    yield ".SH SYNOPSIS"
    yield f".B {DISTRIBUTION}"
    yield ".I COMMAND"
    yield "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]"
    yield ".SH COMMON OPTIONS"
    yield from _common()
    yield ".SH COMMANDS"
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from _command(name, command)
    for heading, table in (
        ("EXIT STATUS", {str(number): text for number, text in EXITS.items()}),
        ("SIGNALS", SIGNALS),
        ("FILES", FILES),
        ("ENVIRONMENT", VARIABLES),
    ):
        yield f".SH {heading}"
        for name, text in table.items():
            yield from (".TP", f".B {_escaped(name)}", _escaped(text))
    yield ".SH NOTES"
    for number, text in enumerate(NOTES):
        yield from ([".PP"] if number else [])
        yield _escaped(text)


def _common() -> Iterator[str]:
    """Each common option once, from the command that has them all."""
    yield "Of the commands that have use for them:"
    status = cli.get_command(click.Context(cli), "status")
    assert status is not None
    for option in status.params:
        yield from _option(option)
    yield from (".TP", ".B \\-h, \\-\\-help", "Show the command's help and leave.")


def _command(name: str, command: click.Command) -> Iterator[str]:
    arguments = [p.metavar or f"[{(p.name or '').upper()}]" for p in command.params if isinstance(p, click.Argument)]
    yield f".SS {_escaped(' '.join([name, *arguments]))}"
    yield from _paragraphs(command.help or "")
    for param in command.params:
        if isinstance(param, click.Option) and param.name not in COMMON:
            yield from _option(param)
    if isinstance(command, click.Group):
        for inner, each in command.commands.items():
            yield from _command(f"{name} {inner}", each)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        yield from ([".PP"] if number else [])
        words = " ".join(paragraph.replace("\b", "").split())
        before, example, command = words.partition("Example: ")
        if before:
            yield _escaped(before)
        if example:
            yield from ("Example:", f".B {_escaped(command)}")


def _option(param: click.Parameter) -> Iterator[str]:
    assert isinstance(param, click.Option)
    names = ", ".join([*param.opts, *param.secondary_opts])
    value = "" if param.is_flag or param.count else f" {param.metavar or _kind(param)}"
    text = param.help or ""
    if param.show_default and param.default is not None and not callable(param.default):
        text += f" Default: {param.default}."
    yield from (".TP", f".B {_escaped(names + value)}", _escaped(text))


def _kind(param: click.Option) -> str:
    if isinstance(param.type, click.Choice):
        return "|".join(str(choice).lower() for choice in param.type.choices)
    return param.type.name.upper().removesuffix(" RANGE")


def _escaped(text: str) -> str:
    """Text as man(7) takes it literally: hyphens that can be copied, no accidental requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + text if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(page())
