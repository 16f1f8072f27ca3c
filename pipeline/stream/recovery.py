"""A successor picks up where a dead worker stopped: from the journal, and a checkpoint.

The checkpoint says what the records cannot: the anchors in force, the evidence of minutes
that are on disk, and the counters. It is valid with the journal as it was when it was
taken, and the records after that are read again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stream.cutter import Cutter
from pipeline.stream.intake import Intake, arrival_of
from pipeline.stream.journal import FLAG_REORDERED, REASONS, Kind
from pipeline.stream.minute import Records, encodings_of, in_order
from pipeline.stream.rtp import bytes_per_frame, wrap16, wrap32
from pipeline.stream.source import NOTHING_SEALED, Admission, Hole
from pipeline.stream.timeline import Epoch


def checkpoint(intake: Intake, cutter: Cutter) -> dict[str, Any]:
    """What a successor needs beside the journal's records, as plain values."""
    source = intake.source
    return {
        "epochs": [epoch.to_json() for epoch in intake.epochs],
        "next_epoch": intake.next_epoch,
        "notes_from": cutter.notes_from,
        "count": intake.journal.count,
        "counters": [intake.received, intake.late, intake.reordered, source.lost, source.duplicates, source.bad],
    }


def restore(intake: Intake, cutter: Cutter, state: dict[str, Any] | None) -> None:
    """Bring a new intake and cutter over a used journal to where their predecessors were."""
    journal = intake.journal
    counted = journal.first
    if state:
        intake.epochs = [Epoch.from_json(epoch) for epoch in state["epochs"]]
        intake.next_epoch = state["next_epoch"]
        cutter.notes_from = max(journal.first, state["notes_from"])
        intake.received, intake.late, intake.reordered = state["counters"][:3]
        intake.source.lost, intake.source.duplicates, intake.source.bad = state["counters"][3:]
        counted = max(journal.first, state["count"])
    rows = journal.records(journal.first)
    data = rows[rows["kind"] == Kind.DATA]
    known = {epoch.id for epoch in intake.epochs}
    for row in rows[rows["kind"] == Kind.EPOCH]:
        first = np.flatnonzero(data["epoch"] == row["epoch"])
        if int(row["epoch"]) not in known and len(first):
            intake.open_epoch(int(row["epoch"]), REASONS[int(row["flags"])], arrival_of(data[first[0]]))
    _restore_source(intake, data)
    fresh = rows[counted - journal.first :]
    _recount(intake, fresh)
    for row in fresh[fresh["kind"] == Kind.STATUS]:
        status = intake.decode_status(bytes(journal.payload(int(row["position"]), int(row["length"]))))
        if status is not None:
            intake.learn(status, int(row["arrival_ns"]))
    _restore_held(intake, rows)


def _restore_source(intake: Intake, data: Records) -> None:
    """Put the source where the last placed packet left it, holes included."""
    source = intake.source
    for epoch in intake.epochs:
        rows = in_order(data[data["epoch"] == epoch.id])
        if not len(rows):
            continue
        encodings, names = encodings_of(rows, epoch.formats, intake.settings.encoding)
        widths = np.array([bytes_per_frame(name) for name in names], np.int64)[encodings]
        last, lost = rows[-1], source.lost
        packet = arrival_of(last)
        source.bytes_per_frame = int(widths[-1])
        source.rate_hz = epoch.rate_hz
        source.begin(epoch.id, packet)
        # `begin` knows wire values only; the extended ones count on from where they were.
        source.sequence, source.end = int(last["sequence"]) - 1, int(last["timestamp"])
        source.admit_next(
            wrap16(packet.sequence), wrap32(packet.timestamp), packet.length, packet.origin, packet.arrival_ns
        )
        # As long as nothing was cut, the lowest packet at hand is the timeline's first.
        fresh = epoch.cut == NOTHING_SEALED
        before = [source.start_hole(int(rows["sequence"][0]), int(rows["timestamp"][0]))] if fresh else []
        source.holes, source.lost = [*before, *_holes(rows, widths)], lost
        source.sealed = epoch.cut
        epoch.end, epoch.last_arrival_ns = source.end, source.arrival_ns


def _holes(rows: Records, widths: npt.NDArray[np.int64]) -> list[Hole]:
    """What is missing between packets in order of timestamp."""
    ends = rows["timestamp"] + rows["length"].astype(np.int64) // widths
    return [
        Hole(int(rows["sequence"][i]) + 1, int(rows["sequence"][i + 1]), int(ends[i]), int(rows["timestamp"][i + 1]))
        for i in np.flatnonzero(np.diff(rows["sequence"]) > 1)
    ]


def _recount(intake: Intake, rows: Records) -> None:
    """Counters of what came after the checkpoint."""
    kinds, lengths = rows["kind"], rows["length"]
    data = rows[kinds == Kind.DATA]
    intake.received += len(data)
    intake.reordered += int(np.count_nonzero(data["flags"] & FLAG_REORDERED))
    intake.late += int(lengths[kinds == Kind.LATE].sum())
    intake.source.duplicates += int(lengths[kinds == Kind.DUPLICATE].sum())
    intake.source.bad += int(lengths[kinds == Kind.BAD].sum())
    for epoch in intake.epochs:
        rows = in_order(data[data["epoch"] == epoch.id])
        if len(rows) > 1:
            intake.source.lost += int(np.maximum(np.diff(rows["sequence"]) - 1, 0).sum())


def _restore_held(intake: Intake, rows: Records) -> None:
    """Packets that were held when the last worker died are judged again."""
    placed = np.flatnonzero(rows["kind"] == Kind.DATA)
    start = int(placed[-1]) + 1 if len(placed) else 0
    intake.held_from = intake.journal.first + start
    for row in rows[start:]:
        if row["kind"] == Kind.HELD and intake.source.admit(arrival_of(row)) is Admission.PROMOTE:
            intake.promote()
            return
