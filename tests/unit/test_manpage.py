"""etc/grape-pipeline.1 says what the commands say, and man(1) takes it as it is."""

from __future__ import annotations

import re
import shutil
import subprocess

import click
import pytest

from helpers import REPOSITORY
from pipeline.cli import COMMANDS, cli
from pipeline.cli.manpage import page

PATH = REPOSITORY / "etc" / "grape-pipeline.1"
TEXT = PATH.read_text()


def test_it_is_current() -> None:
    assert page() == TEXT, "run: python -m pipeline.cli.manpage > etc/grape-pipeline.1"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_its_options(name: str) -> None:
    section = re.search(rf"(?ms)^\.SS {name}(?: [^\n]*)?$(.*?)(?=^\.S[SH] (?!{name} )|\Z)", TEXT)
    assert section is not None
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    common = TEXT[TEXT.index(".SH COMMON") : TEXT.index(".SH COMMANDS")]
    for param in command.params:
        for flag in (opt for opt in param.opts if isinstance(param, click.Option) and opt.startswith("--")):
            assert flag.replace("-", "\\-") in section[1] + common, flag


@pytest.mark.parametrize("variable", sorted(
    {name for path in (REPOSITORY / "pipeline").rglob("*.py")
     for name in re.findall(r"\"((?:GRAPE|CLIENT|XDG|RUNTIME|VISUAL|EDITOR)[A-Z_]*)\"", path.read_text())}
    - {"GRAPEPL"}
))  # fmt: skip
def test_every_variable_is_there(variable: str) -> None:
    assert variable in TEXT


def test_man_takes_it_without_a_warning() -> None:
    groff = shutil.which("groff") or shutil.which("mandoc")
    if groff is None:
        pytest.skip("neither groff nor mandoc is installed")
    options = ["-man", "-ww", "-Tutf8", "-P-c"] if groff.endswith("groff") else ["-Tutf8", "-Wwarning"]
    done = subprocess.run([groff, *options, str(PATH)], capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    assert 'restart WWV_10_MHz "CHU 7.85 MHz"' in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)


def test_the_documented_install_puts_it_where_man_finds_it() -> None:
    assert 'etc/grape-pipeline.1" /usr/local/share/man/man1/' in (REPOSITORY / "bin/install-service").read_text()
    assert 'dst = "/usr/local/share/man/man1/grape-pipeline.1"' in (REPOSITORY / "deploy.toml").read_text()
