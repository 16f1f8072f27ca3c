"""A channel that sends statuses and nothing else for as long as it likes: its memory is for the next samples."""

from __future__ import annotations

import os
from pathlib import Path

from helpers import Names
from pipeline.stream.journal import Journal
from process.fast_channel import FastChannel, fast_channel


def used(fast: FastChannel) -> float:
    """How full the channel's memory is."""
    journal = Journal.attach(fast.segment.buf, fast.channel.ssrc)
    assert journal is not None
    return journal.used_fraction()


def test_statuses_without_packets_do_not_fill_the_journal(names: Names, tmp_path: Path) -> None:
    with fast_channel(names, tmp_path, buffer_minutes=2) as fast:
        worker = fast.worker()
        fast.send(62)
        fast.work(worker, lambda: fast.record.minutes_written == 1, "the first minute")
        journal = Journal.attach(fast.segment.buf, fast.channel.ssrc)
        assert journal is not None
        for k in range(2 * journal.shape.heap // 1900):
            fast.say(os.urandom(1800))
            if k % 3 == 0:
                worker.tick()
        # What a thread is still writing keeps its place until it is written.
        fast.work(worker, lambda: used(fast) < 0.6, "room in the journal")
        before = fast.record.packets_received
        fast.send(60, skip=True)
        fast.send(5)
        fast.work(worker, lambda: fast.record.packets_received == before + 10, "the packets after the silence")
