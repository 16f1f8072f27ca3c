"""The README works as written: its commands exist with their options, and its lines of Python run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from helpers import REPOSITORY
from minutes import arrays_of, one_cut
from pipeline import npz
from pipeline.cli import cli

TEXT = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, text in BLOCKS
    if not kind
    for line in text.splitlines()
    if re.match(r"(sudo )?\S*bin/grape-pipeline \S", line)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_one_and_takes_these_arguments(line: str) -> None:
    words = shlex.split(line.partition("grape-pipeline ")[2])
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("name", re.findall(r"`(?:\S*bin/)?([\w/.@-]+/[\w.@-]+)`", TEXT))
def test_files_that_are_named_are_there(name: str) -> None:
    if name.startswith(("etc/", "bin/", "tests/")):
        assert (REPOSITORY / name).exists()


def test_reading_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    ((_, code),) = [block for block in BLOCKS if block[0] == "python"]
    assert len(code.split("\n\n")[1].splitlines()) <= 5
    (name,) = re.findall(r'"(\S+_iq\.npz)"', code)
    npz.write(tmp_path / name, arrays_of(one_cut()), 1)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "minute.png").read_bytes().startswith(b"\x89PNG")
    assert "matplotlib" in sys.modules
