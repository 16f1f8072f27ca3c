"""A minute's samples, decoded where they are looked at.

Whole, a minute takes twice the memory of what the journal holds of it, and is written and read through a processor's
caches once more for every use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy as shallow_copy
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stream.minute import Run
from pipeline.stream.rtp import bytes_per_frame, decode, decode_s16


class Samples:
    """`size` complex64 samples made of `runs`, zero where nothing was received.

    A slice is another one, over the same bytes; numpy takes either for an array and decodes it then.
    """

    dtype: np.dtype[Any] = np.dtype(np.complex64)
    _frame: tuple[int, ...] = ()

    def __init__(self, runs: Sequence[Run], size: int) -> None:
        self._runs = runs
        self._begins = np.array([run.index for run in runs], np.int64)
        self._ends = self._begins + np.array([run.frames for run in runs], np.int64)
        self._first, self._size = 0, size

    def __len__(self) -> int:
        return self._size

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array that numpy makes of it."""
        return (self._size, *self._frame)

    def __getitem__(self, span: slice) -> Samples:
        begin, stop, step = span.indices(self._size)
        if step != 1:
            raise ValueError(f"samples are decoded one after the other, not in steps of {step}")
        part = shallow_copy(self)
        part._first, part._size = self._first + begin, max(0, stop - begin)
        return part

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("samples are decoded, so an array of them is always a new one")
        whole = np.zeros(self.shape, self.dtype)
        self._decode_into(whole, self._first)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def blocks(self, size: int) -> Iterator[npt.NDArray[Any]]:
        """All of it in arrays of `size` samples, the last one shorter; each is gone when the next one is asked for."""
        room = np.empty((min(size, self._size), *self._frame), self.dtype)
        for at in range(0, self._size, size):
            block = room[: self._size - at]
            block.fill(0)
            self._decode_into(block, self._first + at)
            yield block

    def _decode_into(self, out: npt.NDArray[Any], first: int) -> None:
        stop = first + len(out)
        for row in np.flatnonzero((self._begins < stop) & (self._ends > first)).tolist():
            run = self._runs[row]
            begin, end = max(first, run.index), min(stop, run.index + run.frames)
            width = bytes_per_frame(run.encoding)
            payload = run.payload[(begin - run.index) * width : (end - run.index) * width]
            self._decode(payload, run.encoding, out[begin - first : end - first])

    def _decode(self, payload: memoryview, encoding: str, out: npt.NDArray[Any]) -> None:
        decode(payload, encoding, out)


class Pairs(Samples):
    """The same of S16 encodings as (size, 2) native int16."""

    dtype = np.dtype(np.int16)
    _frame = (2,)

    def _decode(self, payload: memoryview, encoding: str, out: npt.NDArray[Any]) -> None:
        decode_s16(payload, encoding, out)
