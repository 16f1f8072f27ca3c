"""The day that the page keeps in a cache: whatever has become of the file, the day is whole or begins empty."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minutes import CHANNEL
from pipeline.plotting.days import KEPT, Days
from pipeline.web.shelf import DayStore

Arrays = dict[str, np.ndarray[Any, Any]]
ROWS, DAY_S = 5, 86_400
SEEN = {"20261122T000000Z_10000000_iq.npz"}


def day() -> Days:
    """A day to which nothing was added."""
    return Days("WWV 10 MHz", 10e6, 0, DAY_S)


def filled() -> Days:
    """A day of random values, which do not compress to nothing."""
    found, rng = day(), np.random.default_rng(1)
    found.power = rng.random((ROWS, found.columns), np.float32)
    found._axis = np.arange(float(ROWS))
    found.level, found.files, found.tones = rng.random(found.columns), 1, [(60.0, 1.5)]
    found.lost_s = {"network": rng.random(found.columns)}
    return found


def keep(store: DayStore, folder: Path) -> Path:
    """A sound cache file."""
    store.keep(CHANNEL, filled(), SEEN)
    (path,) = folder.iterdir()
    return path


def same(one: Days, other: Days) -> bool:
    """True when both have the same values."""
    ours, theirs = one.kept(), other.kept()
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name], equal_nan=True) for name in ours
    )


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store, found = DayStore(tmp_path, tmp_path), day()
    keep(store, tmp_path)
    assert store.recall(CHANNEL, found) == SEEN
    assert same(found, filled())


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: names.append([path.suffix for path in tmp_path.iterdir()]))
    keep(DayStore(tmp_path, tmp_path), tmp_path)
    assert names == [[".new"]]


def test_every_flipped_byte_is_harmless(tmp_path: Path) -> None:
    store = DayStore(tmp_path, tmp_path)
    whole = keep(store, tmp_path).read_bytes()
    chosen = random.Random(1)
    for _ in range(300):
        (path,) = list(tmp_path.iterdir()) or [keep(store, tmp_path)]
        data = bytearray(whole)
        # Half of them where the structure is: in the directory and the small members at the end.
        begin = chosen.choice((0, len(data) - 3000))
        data[chosen.randrange(begin, len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        found = day()
        seen = store.recall(CHANNEL, found)
        assert same(found, filled() if seen else day())


def without(name: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(name)


def with_(name: str, array: Any) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({name: np.asarray(array)})


COLUMNS = day().columns
DAMAGES: dict[str, Callable[[Arrays], object]] = {
    **{f"no {name}": without(name) for name in ("seen", "numbers", "tones", "_axis", *KEPT)},
    "rows beside the axis": with_("power", np.zeros((ROWS + 1, COLUMNS))),
    "power without rows": with_("power", np.zeros(COLUMNS)),
    "level with rows": with_("level", np.zeros((1, COLUMNS))),
    "another day's columns": with_("level", np.zeros(COLUMNS - 1)),
    "text for numbers": with_("level", ["x"] * COLUMNS),
    "axis of two dimensions": with_("_axis", np.zeros((ROWS, 1))),
    "losses of another length": with_("lost network", np.zeros(3)),
    "tones of three": with_("tones", np.zeros((2, 3))),
    "one number": with_("numbers", 1.0),
    "numbers too few": with_("numbers", [0.0, DAY_S]),
    "no number": with_("numbers", [0.0, DAY_S, 4.0, 0.0, np.nan, 0.0, 0.0]),
    "one name": with_("seen", "x"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_day_counts_for_nothing(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, found = DayStore(tmp_path, tmp_path), day()
    path = keep(store, tmp_path)
    with np.load(path) as whole:
        arrays = dict(whole)
    DAMAGES[what](arrays)
    np.savez(path, **arrays)
    assert store.recall(CHANNEL, found) == set()
    assert same(found, day())
    assert not path.exists()
    assert path.name in caplog.text


def test_another_day_is_left_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, found = DayStore(tmp_path, tmp_path), Days("WWV 10 MHz", 10e6, DAY_S, 2 * DAY_S)
    path = keep(store, tmp_path)
    assert store.recall(CHANNEL, found) == set()
    assert path.exists()
    assert caplog.text == ""
