"""What the supervisor sees beside its children."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Radiod
from pipeline.supervision import surroundings
from pipeline.supervision.surroundings import Surroundings

S = 1_000_000_000


def test_sleep_of_the_machine_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """CLOCK_BOOTTIME runs through a suspend, CLOCK_MONOTONIC does not, so nobody seems to have been away."""
    caplog.set_level(logging.INFO)
    asleep = {"ns": 40 * S}
    monkeypatch.setattr(surroundings, "asleep_ns", lambda: asleep["ns"])
    parts: Any = SimpleNamespace(radiod_control=None, rejoin=None)
    around = Surroundings(parts)
    around.poll(1 * S, Radiod(), [])
    assert not caplog.text
    asleep["ns"] += 1800 * S
    around.poll(2 * S, Radiod(), [])
    around.poll(3 * S, Radiod(), [])
    assert caplog.messages == ["the machine slept for 1800.0 s"]
