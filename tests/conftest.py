"""Fixtures and rules for all tests: none hangs, none leaves shared memory behind."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

from helpers import CI, REPOSITORY, Names, new_names, segments

# How fast a machine is has nothing to do with what a property says.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("untimed")

TEST_LIMIT_S = 120
CAPTURES_VARIABLE = "GRAPE_CAPTURES"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless everything has to run."""
    for item in items:
        if item.get_closest_marker("full") and not CI:
            item.add_marker(pytest.mark.skip(reason="takes long or installs packages; GRAPE_CI=1 runs it"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fail a test, set-up and clean-up included, that takes longer than its `limit` mark or 120 s.

    What no signal can interrupt is ended by pytest's own faulthandler_timeout.
    """
    mark = item.get_closest_marker("limit")
    limit_s = mark.args[0] if mark else TEST_LIMIT_S

    def stop(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        pytest.fail(f"took longer than {limit_s} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s, 30)  # again and again, for a clean-up that hangs too
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on how the caller configured grape-pipeline, or on logging that another test set up."""
    for name in ("GRAPE_PIPELINE_CONFIG", "GRAPE_PIPELINE_LOG_LEVEL", "CLIENT_LOG_LEVEL", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAPE_PIPELINE_ENV_FILES", "")
    monkeypatch.setattr("pipeline.logs._Choice.flag", None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)  # drops what loggers remember of the level that was


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded radiod traffic, which is too large for the repository."""
    folder = Path(os.environ.get(CAPTURES_VARIABLE) or REPOSITORY.parent / "shared" / "captures")
    if not folder.is_dir():
        pytest.skip(f"no captures in {folder}; set {CAPTURES_VARIABLE} to their folder")
    return folder


@pytest.fixture
def names() -> Iterator[Names]:
    """An instance name and a multicast group of the test's own; the instance must leave no shared memory."""
    found = new_names()
    yield found
    left = segments(found.instance)
    for path in left:
        path.unlink()
    if left:
        pytest.fail(f"left behind: {', '.join(map(str, left))}")


@pytest.fixture
def instance(names: Names) -> str:
    """The instance name alone."""
    return names.instance


@pytest.fixture
def group(names: Names) -> str:
    """The multicast group alone."""
    return names.group
