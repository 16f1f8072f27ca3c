"""A channel that sends statuses and nothing else for as long as it likes: its memory is for the next samples."""

from __future__ import annotations

import os
from pathlib import Path

from helpers import Names
from pipeline.stream.journal import Journal
from process.fast_channel import fast_channel


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
        journal = Journal.attach(fast.segment.buf, fast.channel.ssrc)
        assert journal is not None and journal.used_fraction() < 0.6
        before = fast.record.packets_received
        fast.send(60, skip=True)
        fast.send(5)
        fast.work(worker, lambda: fast.record.packets_received == before + 10, "the packets after the silence")
