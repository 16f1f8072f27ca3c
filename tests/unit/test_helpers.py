"""The rules of tests/conftest.py themselves: a guard that cannot fire guards nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPOSITORY, free_port, new_names, segments, wait_for

# Each of these must not pass.
BAD_TESTS = """
import time
import pytest
from helpers import Names, needs, wait_for

@pytest.mark.limit(0.3)
def test_hangs() -> None:
    time.sleep(60)

def test_leaves_a_segment(names: Names) -> None:
    open(f"/dev/shm/grape-pipeline-{names.instance}-A", "x").close()

def test_waits_in_vain() -> None:
    wait_for(lambda: 0, 0.05, "the moon")

def test_lacks_a_tool() -> None:
    needs("no-such-tool")

@pytest.mark.full
def test_takes_long() -> None:
    pass
"""


def outcome(folder: Path, ci: str) -> str:
    """What pytest says of BAD_TESTS under the rules of this repository."""
    for name in ("conftest.py", "helpers.py"):
        shutil.copy(REPOSITORY / "tests" / name, folder)
    (folder / "test_bad.py").write_text(BAD_TESTS)
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    env = {**os.environ, "GRAPE_CI": ci, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False).stdout


def test_rules_of_the_suite(tmp_path: Path) -> None:
    told = outcome(tmp_path, ci="")
    assert "took longer than 0.3 s" in told
    assert "left behind: /dev/shm/grape-pipeline-t" in told
    assert "waited 0.05 s for the moon; last value: 0" in told
    assert "no-such-tool is not installed" in told
    assert "GRAPE_CI=1 runs it" in told
    summary = told.splitlines()[-1]
    # the segment is found when its test has passed, in the clean-up
    assert all(count in summary for count in ("2 failed", "1 passed", "2 skipped", "1 error"))


def test_in_ci_everything_has_to_run(tmp_path: Path) -> None:
    told = outcome(tmp_path, ci="1")
    assert "GRAPE_CI=1 and no-such-tool is not installed" in told
    assert "skipped" not in told


def test_names_are_never_given_twice() -> None:
    given = [new_names() for _ in range(50)]
    assert len({names.instance for names in given}) == len({names.group for names in given}) == 50
    assert all(segments(names.instance) == [] for names in given)
    assert free_port() > 0


def test_wait_for_returns_what_it_waited_for() -> None:
    answers = iter([0, None, "yes"])
    assert wait_for(lambda: next(answers), 5, "an answer") == "yes"
    with pytest.raises(pytest.fail.Exception):
        wait_for(lambda: False, 0, "nothing")
