"""Trying something with a running instance's rights."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from helpers import needs, needs_root, unavailable, wait_for
from pipeline import PipelineError
from pipeline.supervision.standing import Standing, assume, standing_of

NOBODY, ROOT = 65_534, 0


def who_a_mailer_is(mailer: Path, standing: Standing) -> str:
    """User and effective user of a set-user-ID program that a child with this standing runs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assume(standing)
            os.dup2(writer, 1)
            os.execv(mailer, ["id", "-u"])
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 100).decode().strip()
    os.close(reader)
    return said


@pytest.mark.root
@pytest.mark.parametrize(("flags", "becomes"), [([], ROOT), (["--no-new-privs"], NOBODY)])
def test_rights_are_those_of_the_process(flags: list[str], becomes: int) -> None:
    needs_root()
    if os.statvfs("/var/tmp").f_flag & os.ST_NOSUID:
        unavailable("/var/tmp is mounted nosuid")
    command = [needs("setpriv"), *flags, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--groups=7,8", "sleep", "60"]
    with subprocess.Popen(command) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")
            wait_for(lambda: comm.read_text() == "sleep\n", 10, "setpriv")
            standing = standing_of(process.pid)
        finally:
            process.kill()
    assert standing == Standing(NOBODY, NOBODY, (7, 8), bool(flags))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        mailer = Path(folder) / "mailer"
        mailer.write_bytes(Path(needs("id")).read_bytes())
        mailer.chmod(0o4755)
        assert who_a_mailer_is(mailer, standing) == str(becomes)


def test_nobody_takes_another_s_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(PipelineError, match="only root and root"):
        assume(Standing(ROOT, ROOT, (), False))


def test_process_that_is_gone() -> None:
    with pytest.raises(PipelineError, match="process 4194305"):
        standing_of(4_194_305)  # beyond the kernel's greatest
