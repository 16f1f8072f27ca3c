"""bin/grape-pipeline in a bare copy of the clone: sets itself up, stays quiet, says what it lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import REPOSITORY
from pipeline import __version__

TOOLS = ("cat", "cut", "dirname", "flock", "ln", "mkdir", "readlink", "rm", "sh", "sha256sum", "touch")
VERSION_LINE = f"grape-pipeline, version {__version__}\n"


def bare_copy(folder: Path) -> Path:
    """What a fresh clone holds, as far as the scripts need it."""
    for name in ("bin", "etc", "pipeline"):
        shutil.copytree(
            REPOSITORY / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def call(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in another folder, without this test's own virtual environment."""
    env = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}} | environment
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, cwd="/", check=False)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that was never started."""
    return bare_copy(tmp_path_factory.mktemp("clone with blank"))


def path_of_tools(folder: Path, python: str | None) -> str:
    """A PATH with nothing but the tools of every Debian, and `python` as python3."""
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    if python:
        (folder / "python3").write_text(python)
        (folder / "python3").chmod(0o755)
    return str(folder)


# Stand-ins for python3, asked only for its version and for the modules of a virtual environment.
OLD = '#!/bin/sh\ncase "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac\n'
WITHOUT_VENV = '#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; *%d-venv*) echo python3.12-venv;; esac\n'


@pytest.mark.parametrize(
    ("python", "told"),
    [
        (None, "found no python3"),
        (OLD, "needs Python 3.11 or newer, found Python 3.9.2. On Debian, Ubuntu, Raspberry Pi OS: sudo apt install"),
        (WITHOUT_VENV, "sudo apt install python3.12-venv"),
    ],
)
def test_what_is_missing_is_told(python: str | None, told: str, tmp_path: Path, clone: Path) -> None:
    done = call(clone / "bin" / "grape-pipeline", "--version", PATH=path_of_tools(tmp_path / "bin", python), PYTHON="")
    assert done.returncode == 1
    assert done.stdout == ""
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.full
@pytest.mark.limit(600)
def test_first_calls_at_the_same_time_then_silence(clone: Path, tmp_path: Path) -> None:
    link = tmp_path / "gp"
    link.symlink_to(clone / "bin" / "grape-pipeline")
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    both = [
        subprocess.Popen(
            [link, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd="/"
        )
        for _ in range(2)
    ]
    outcomes = [(process.communicate(), process.returncode) for process in both]
    assert [(out, code) for (out, _), code in outcomes] == [(VERSION_LINE, 0)] * 2, outcomes
    # one of the two did the work and said so
    assert sum("ready" in err for (_, err), _ in outcomes) == 1
    again = call(link, "check", "-c", clone / "etc" / "grape-pipeline.toml")
    assert (again.returncode, again.stderr) == (0, "")
    assert "9 of 9 channels" in again.stdout


@pytest.mark.full
@pytest.mark.limit(600)
def test_half_made_environment_is_made_again(clone: Path) -> None:
    call(clone / "bin" / "grape-pipeline", "--version")
    venv = clone / ".venv"
    # as a kill during installation leaves it
    (venv / "unfinished").touch()
    (venv / "stamp-").unlink()
    shutil.rmtree(next(venv.glob("lib/python*/site-packages/click")))
    done = call(clone / "bin" / "grape-pipeline", "--version")
    assert (done.returncode, done.stdout) == (0, VERSION_LINE), done.stderr
    assert not (venv / "unfinished").exists()


@pytest.mark.full
@pytest.mark.limit(600)
def test_failed_installation_says_so_and_the_next_call_tries_again(clone: Path) -> None:
    call(clone / "bin" / "grape-pipeline", "--version")
    pyproject = clone / "pyproject.toml"
    before = pyproject.read_text()
    pyproject.write_text(before.replace('"click>=8.1"', '"click>=8.1", "posix_ipc>=99999"'))
    done = call(clone / "bin" / "grape-pipeline", "--version")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the packages could not be installed" in done.stderr
    pyproject.write_text(before)
    assert call(clone / "bin" / "grape-pipeline", "--version").stdout == VERSION_LINE


@pytest.mark.full
@pytest.mark.limit(600)
def test_installed_wheel_has_every_module_and_the_manual(clone: Path, tmp_path: Path) -> None:
    call(clone / "bin" / "grape-pipeline", "--version")
    python = clone / ".venv" / "bin" / "python"
    done = call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, clone)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(p.relative_to(clone)) for p in (clone / "pipeline").rglob("*.py")} <= names
    site, written = tmp_path / "site", tmp_path / "grape.toml"
    done = call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    assert done.returncode == 0, done.stderr
    done = call(python, "-m", "pipeline", "init", written, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert written.read_text() == (clone / "etc" / "grape-pipeline.toml").read_text()


def test_set_up_leaves_inherited_descriptors_alone(tmp_path: Path) -> None:
    """systemd hands over kept sockets from 3 on, also to the first start after an upgrade, which sets up anew."""
    (tmp_path / ".venv").mkdir()
    script = f"""
        set -eu
        repository={tmp_path}
        . {REPOSITORY}/bin/setup-venv
        is_ready() {{ return 1; }}
        make_ready() {{ echo made; }}
        setup_venv ""
        cat <&9
    """
    kept = tmp_path / "kept"
    kept.write_text("still here\n")
    with kept.open() as file:
        command = f"exec 9</dev/fd/{file.fileno()}; {script}"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=False, pass_fds=[file.fileno()]
        )
    assert done.stdout == "made\nstill here\n", done.stderr


@pytest.mark.parametrize(
    ("changed", "ready"),
    [("sys.version = 'of the distribution, mended'", "yes"), ("sys.implementation.cache_tag = 'cpython-399'", "no")],
)
def test_another_python_takes_a_new_environment_and_a_mended_one_does_not(
    tmp_path: Path, changed: str, ready: str
) -> None:
    """A station may have no network when its distribution's Python was updated."""
    (tmp_path / "pyproject.toml").write_text("")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "grape-pipeline").symlink_to("/bin/true")
    python = programs / "python"
    run = f'exec {sys.executable} -I -S -c "import sys; $CHANGED; exec(sys.argv[-1])" "$@"'
    python.write_text(f"#!/bin/sh\n{run}\n")
    python.chmod(0o755)
    script = f"""
        set -eu
        repository={tmp_path}
        . {REPOSITORY}/bin/setup-venv
        venv=$repository/.venv source=$repository
        export CHANGED=pass
        wanted_stamp "" >"$venv/stamp-"
        is_ready "" && echo made
        CHANGED="$1"
        if is_ready ""; then echo yes; else echo no; fi
    """
    done = subprocess.run(["sh", "-c", script, "sh", changed], capture_output=True, text=True, check=False)
    assert done.stdout == f"made\n{ready}\n", done.stderr
