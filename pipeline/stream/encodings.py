"""Which of a journal's records a file is cut from, and how the samples of each are encoded.

radiod says so in its status, but after the first packet that is made so; and RTP's payload
type is not reliable (ka9q-radio src/radio_status.c sets it too early). So what a status
says holds from its RTP_TIMESNAP on, and between two that differ the packets' own sizes tell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.stream.journal import FLAG_LATE, Kind
from pipeline.stream.rtp import ENCODING_NUMBERS, bytes_per_frame
from pipeline.stream.timeline import Epoch

Records = npt.NDArray[np.void]


class Uncut(NamedTuple):
    """An epoch's packets that reach into time that no file covers, in order of timestamp.

    `numbers` are their places among the records looked at, `encodings` indices into `names`.
    """

    records: Records
    numbers: npt.NDArray[np.intp]
    encodings: npt.NDArray[np.int64]
    names: tuple[str, ...]


def uncut(records: Records, epoch: Epoch, default: str) -> Uncut:
    """What of a journal's records belongs to `epoch` and lies after its cut; `default` is the configured encoding."""
    # `take` and `compress` all along: indexing rows by an array takes numpy twenty times as long.
    mine = (records["kind"] == Kind.DATA) & (records["epoch"] == epoch.id) & (records["flags"] & FLAG_LATE == 0)
    # In bytes, as if each were a sample: no encoding has to be known, and a few too many do no harm.
    numbers = np.flatnonzero(mine & (records["timestamp"] + records["length"] > epoch.cut))
    rows = records.take(numbers)
    order = in_order(rows)
    rows, numbers = rows.take(order), numbers[order]
    encodings, names = encodings_of(rows, epoch.formats, default)
    widths = np.array([bytes_per_frame(name) for name in names], np.int64)[encodings]
    left = rows["timestamp"] + rows["length"].astype(np.int64) // widths > epoch.cut
    # Mono, Opus and the like: better no samples than wrong ones.
    left &= np.array([name in ENCODING_NUMBERS for name in names])[encodings]
    return Uncut(rows.compress(left), numbers[left], encodings[left], names)


def in_order(records: Records) -> npt.NDArray[np.intp]:
    """Rows by timestamp; of those with the same one the longest, of these the first-come."""
    at = records["timestamp"]
    if len(at) < 2 or bool((at[1:] > at[:-1]).all()):
        return np.arange(len(at))
    rows = np.lexsort((-records["length"].astype(np.int64), at))
    return rows[np.concatenate(([True], np.diff(at[rows]) > 0))]


def encodings_of(
    records: Records, formats: list[tuple[int, str]], default: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Each record's encoding, as an index into the names returned.

    `formats` are (timestamp from which a status is known to have said so, encoding), in
    order. The status that announces a change comes after the first packets that have it,
    so between two statuses that differ a packet's own width decides: its bytes over the
    distance to the next one. Records must be in order of timestamp.
    """
    names = tuple(dict.fromkeys(name for _, name in formats)) or (default,)
    if len(names) == 1:
        return np.zeros(len(records), np.int64), names
    at = np.array([t for t, _ in formats], np.int64)
    said = np.array([names.index(name) for _, name in formats], np.int64)
    row = np.searchsorted(at, records["timestamp"], side="right") - 1
    before = said[np.maximum(row, 0)]
    after = said[np.minimum(row + 1, len(said) - 1)]
    widths = np.array([bytes_per_frame(name) for name in names], np.int64)
    measured = _measured(records, widths)
    take_after = (widths[before] != measured) & (widths[after] == measured)
    return np.where(take_after, after, before), names


def _measured(records: Records, widths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bytes per frame as each packet's distance to the next one shows it; the likeliest where it does not."""
    lengths = records["length"].astype(np.int64)
    step = np.diff(records["timestamp"], append=0)
    lost = np.diff(records["sequence"], append=0) - 1
    measured = np.where((lost == 0) & (step > 0), lengths // np.maximum(step, 1), 0)
    known = np.flatnonzero(np.isin(measured, widths))
    for i in np.setdiff1d(np.arange(len(records)), known):
        # The packets that are missing before the next one have a frame each at least.
        fits = [width for width in widths if step[i] <= 0 or lengths[i] // width <= step[i] - max(0, lost[i])]
        same = known[lengths[known] == lengths[i]]
        alike = same if len(same) else known
        if len(fits) == 1:
            measured[i] = fits[0]
        elif len(alike):
            measured[i] = measured[alike[np.argmin(np.abs(alike - i))]]
    return measured
