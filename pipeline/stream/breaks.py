"""Where the samples end that were received before the program stopped and was started again.

Whoever takes over a journal without the sockets that filled it appends a BREAK record. What
is missing between the packets on both sides of it was sent while nobody listened, which
the files call `restart`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.stream.journal import Journal, Kind
from pipeline.stream.rtp import bytes_per_frame
from pipeline.stream.timeline import Epoch


def since_break(rows: Any, pending_ns: int | None) -> tuple[int | None, int | None]:
    """What new records say of a break: (ns, row).

    `pending_ns` is the time of an earlier break that no packet has followed yet. `row` is the
    first packet after the break, None while there is none; both are None without a break.
    """
    breaks = np.flatnonzero(rows["kind"] == Kind.BREAK)
    begin = int(breaks[-1]) if len(breaks) else 0
    since = int(rows["arrival_ns"][begin]) if len(breaks) else pending_ns
    if since is None:
        return None, None
    after = np.flatnonzero((rows["kind"] == Kind.DATA) & (rows["arrival_ns"] >= since))
    after = after[after >= begin]
    return since, int(after[0]) if len(after) else None


def note_break(journal: Journal, number: int, epochs: Sequence[Epoch], default: str) -> None:
    """Tell the epoch that broke off where it did; `number` is the record of the first packet after that.

    `default` is the configured encoding.
    """
    before = journal.records(journal.first, number)
    newest = int(journal.records(number, number + 1)["epoch"][0])
    # The stream may have begun anew meanwhile; then it is the old timeline that broke off.
    for epoch in reversed([epoch for epoch in epochs if epoch.id <= newest]):
        mine = before[(before["kind"] == Kind.DATA) & (before["epoch"] == epoch.id)]
        if len(mine) or epoch.previous_sequence is not None:
            width = bytes_per_frame(epoch.formats[-1][1] if epoch.formats else default)
            ends = mine["timestamp"] + mine["length"].astype(np.int64) // width
            epoch.breaks.append(int(ends.max(initial=epoch.previous_end)))
            return
