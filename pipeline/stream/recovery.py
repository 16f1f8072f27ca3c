"""A successor picks up where a dead worker stopped: from a checkpoint, and the records after it.

The checkpoint is the state of all that decides; the records are what was decided on. So
the successor decides the same again, packet by packet, without a word of its own: what a
crash interrupted goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.stream.cutter import Cut, Cutter, End
from pipeline.stream.evidence import Evidence
from pipeline.stream.intake import Intake, Rejected, arrival_of
from pipeline.stream.journal import CHECKPOINT_SIZE, FLAG_LATE, FLAG_UNTIMED, REASONS, Kind
from pipeline.stream.source import Admission
from pipeline.stream.timeline import Anchor, Epoch

# Of a checkpoint that says something else no use is made; the records then tell what they can.
VERSION = 3
# An ended timeline's evidence counts for its last minute only; the checkpoint's size is limited.
ENDED_PAIRS = 40


def checkpoint(intake: Intake, cutter: Cutter) -> dict[str, Any]:
    """What a successor needs beside the records from now on, as plain values."""
    intake.journal.keep_notes()
    epochs = [epoch.to_json() for epoch in intake.epochs]
    for ended in epochs[:-1]:
        for observations in ended["evidence"]:
            del observations[1][:-ENDED_PAIRS]
    cut = cutter.outstanding or cutter.again
    return {
        "version": VERSION,
        "count": intake.journal.count,
        "scanned": intake.scanned,
        "break_ns": intake.break_ns,
        "source": intake.source.to_json(),
        "epochs": epochs,
        "next_epoch": intake.next_epoch,
        "announcements": intake.announcements.to_json(),
        "counters": [intake.received, intake.late, intake.reordered],
        "counted": list(cutter.counted),
        "tones": cutter.tones.to_json(),
        "cut": cut and _cut_to_json(cut),
    }


def packed(state: dict[str, Any], limit: int = CHECKPOINT_SIZE) -> bytes:
    """A checkpoint as bytes, `limit` at most if that is possible at all.

    Hours that wait for a disk may hold hundreds of timelines. They are deflated, which takes too long to do it
    every minute; where that is not enough the ended ones go without evidence.
    """
    payload = json.dumps(state, separators=(",", ":")).encode()
    if len(payload) <= limit:
        return payload
    payload = zlib.compress(payload)
    if len(payload) <= limit:
        return payload
    ended = [{**epoch, "evidence": Evidence().to_json()} for epoch in state["epochs"][:-1]]
    state = {**state, "epochs": [*ended, *state["epochs"][-1:]]}
    return zlib.compress(json.dumps(state, separators=(",", ":")).encode())


def unpacked(payload: bytes) -> dict[str, Any]:
    """The checkpoint that `packed` made."""
    state: dict[str, Any] = json.loads(payload if payload.startswith(b"{") else zlib.decompress(payload))
    return state


def _cut_to_json(cut: Cut) -> dict[str, Any]:
    return {
        "utc_ns": cut.utc_ns,
        "tail_cause": cut.tail_cause,
        "until": cut.until,
        "newest": cut.newest,
        "rejected": list(cut.rejected),
        "anchors": [[number, anchor.to_json()] for number, anchor in cut.anchors.items()],
        "ends": [
            [number, end.cut, end.anchor.to_json(), end.previous_sequence, end.previous_end]
            for number, end in cut.ends.items()
        ],
    }


def _cut_from_json(state: dict[str, Any]) -> Cut:
    ends = {
        number: End(at, Anchor.from_json(anchor), sequence, reached)
        for number, at, anchor, sequence, reached in state["ends"]
    }
    plain = {name: state[name] for name in ("utc_ns", "tail_cause", "until", "newest")}
    anchors = {number: Anchor.from_json(anchor) for number, anchor in state["anchors"]}
    return Cut([], **plain, ends=ends, anchors=anchors, rejected=Rejected(*state["rejected"]))


def restore(intake: Intake, cutter: Cutter, state: dict[str, Any] | None) -> None:
    """Bring a new intake and cutter over a used journal to where their predecessors were."""
    journal = intake.journal
    counted = journal.first
    intake.scanned = journal.first
    if state and state.get("version") == VERSION:
        intake.source.load_json(state["source"])
        intake.epochs = [Epoch.from_json(epoch) for epoch in state["epochs"]]
        intake.next_epoch = state["next_epoch"]
        intake.announcements.load_json(state["announcements"])
        intake.received, intake.late, intake.reordered = state["counters"]
        intake.scanned = max(journal.first, state["scanned"])
        intake.break_ns = state.get("break_ns")
        counted = max(journal.first, state["count"])
        cutter.counted = Rejected(*state["counted"])
        cutter.tones.load_json(state.get("tones", ()))
        cutter.again = _cut_from_json(state["cut"]) if state["cut"] else None
    rows = journal.records(counted)
    _replay(intake, rows)
    rows = journal.records(journal.first)
    intake.held_bytes = int(rows["length"][rows["kind"] == Kind.HELD].sum())


def _replay(intake: Intake, rows: Iterable[np.void]) -> None:
    """Decide again on what was decided since the checkpoint."""
    source = intake.source
    duplicates, bad = source.duplicates, source.bad
    opening: np.void | None = None
    promoting, moved = False, 0
    for row in rows:
        kind = row["kind"]
        promoting = False
        if kind == Kind.EPOCH:
            opening, moved = row, int(row["length"])
        elif kind == Kind.DATA:
            if opening is not None or row["epoch"] != source.epoch:
                _reopen(intake, row, REASONS[int(opening["flags"])] if opening is not None else REASONS[0])
                opening = None
            verdict = source.admit(arrival_of(row))
            intake.count_placed(Admission.LATE if row["flags"] & FLAG_LATE else verdict)
            moved -= 1
            # Later it may be too far behind to be told from another timeline's.
            if moved <= 0 and intake.announcements.pending:
                intake.announcements.match_pending()
        elif kind == Kind.HELD:
            promoting = source.admit(arrival_of(row)) is Admission.PROMOTE
        elif kind == Kind.STATUS:
            _relearn(intake, row)
        elif kind == Kind.DUPLICATE:
            duplicates += int(row["length"])
        elif kind == Kind.BAD:
            bad += int(row["length"])
    # What was given up on the way has been noted, too.
    source.duplicates, source.bad = duplicates, bad
    if promoting:
        intake.promote(next(run for run in source.candidates.runs if run.number == source.held_number))


def _reopen(intake: Intake, first: np.void, reason: str) -> None:
    """The timeline that begins with the record after an EPOCH one, or with the first one left where no state is."""
    intake.source.candidates.clear()
    packet = arrival_of(first)._replace(timestamp=int(first["timestamp"]), sequence=int(first["sequence"]))
    intake.begin(int(first["epoch"]), reason, packet)


def _relearn(intake: Intake, row: np.void) -> None:
    payload = intake.journal.payload(int(row["position"]), int(row["length"]))
    status = intake.decode_status(bytes(payload))
    if status is not None:
        intake.announcements.learn(
            status, int(row["arrival_ns"]), int(row["timestamp"]), timed=not row["flags"] & FLAG_UNTIMED
        )
