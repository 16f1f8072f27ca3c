"""Samples that are decoded where they are looked at are those that were received, wherever one looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.minute import Run
from pipeline.stream.samples import Pairs, Samples

FORMATS = {"S16BE": ">i2", "S16LE": "<i2", "F32LE": "<f4", "F32BE": ">f4", "F16LE": "<f2", "F16BE": ">f2"}
SIZE = 500


def run(index: int, frames: int, encoding: str) -> tuple[Run, npt.NDArray[Any]]:
    """A run, and its samples as a plain decoder makes them."""
    numbers = (np.arange(2 * frames) * 37 + index) % 2000 - 1000
    parts = numbers.astype(FORMATS[encoding])
    scale = 32768 if encoding.startswith("S16") else 1
    whole = (parts.astype(np.float32) / np.float32(scale)).view(np.complex64)
    return Run(index, frames, memoryview(parts.tobytes()), encoding), whole


@st.composite
def minutes(draw: st.DrawFn, encodings: tuple[str, ...] = tuple(FORMATS)) -> tuple[Samples, npt.NDArray[np.complex64]]:
    """A minute of runs anywhere, the later one's samples where two meet; and the same as an array."""
    runs, wanted, at = [], np.zeros(SIZE, np.complex64), 0
    for _ in range(draw(st.integers(0, 12))):
        # Mostly where the last one ended.
        at = min(at + draw(st.sampled_from([0, 0, 1, 60, -40])), SIZE - 1)
        frames = min(draw(st.integers(1, 150)), SIZE - max(0, at))
        at = max(0, at)
        made, samples = run(at, frames, draw(st.sampled_from(encodings)))
        runs.append(made)
        wanted[at : at + frames] = samples
        at += frames
    return Samples(runs, SIZE), wanted


@given(minutes(), st.integers(-10, SIZE + 10), st.integers(-10, SIZE + 10), st.integers(0, 50))
def test_any_slice_is_that_of_the_array(
    minute: tuple[Samples, npt.NDArray[np.complex64]], begin: int, stop: int, again: int
) -> None:
    samples, wanted = minute
    part = samples[begin:stop][again:]
    np.testing.assert_array_equal(np.asarray(part), wanted[begin:stop][again:])
    assert len(part) == len(wanted[begin:stop][again:])


@given(minutes(), st.integers(1, SIZE + 10), st.integers(0, SIZE))
def test_blocks_are_all_of_it(minute: tuple[Samples, npt.NDArray[np.complex64]], size: int, begin: int) -> None:
    samples, wanted = minute
    found = [block.copy() for block in samples[begin:].blocks(size)]
    np.testing.assert_array_equal(np.concatenate([*found, wanted[:0]]), wanted[begin:])
    assert all(len(block) == size for block in found[:-1])


@given(minutes(("S16BE", "S16LE")), st.integers(1, SIZE + 10))
def test_pairs_are_the_numbers_that_were_sent(minute: tuple[Samples, npt.NDArray[np.complex64]], size: int) -> None:
    samples, wanted = minute
    pairs = Pairs(samples._runs, SIZE)
    assert (pairs.dtype, pairs.shape) == (np.int16, (SIZE, 2))
    found = np.concatenate([block.copy() for block in pairs.blocks(size)])
    np.testing.assert_array_equal(found, np.rint(wanted.view(np.float32) * 32768).reshape(-1, 2))
    np.testing.assert_array_equal(found, np.asarray(pairs))


def test_none_and_steps() -> None:
    np.testing.assert_array_equal(np.asarray(Samples([], 3)), np.zeros(3))
    assert np.asarray(Samples([], 3)).dtype == np.complex64
    assert list(Samples([], 0).blocks(5)) == []
    with pytest.raises(ValueError, match="steps of 2"):
        Samples([], 3)[::2]
    with pytest.raises(ValueError, match="always a new one"):
        Samples([], 3).__array__(copy=False)
