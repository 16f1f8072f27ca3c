"""What a worker says of its channel."""

from __future__ import annotations

import math

from pipeline.channelreport import Progress, describe
from pipeline.config import Channel
from streams import T0, Recording, Sent


def test_level_is_told_though_statuses_came_after_the_packets() -> None:
    to, stream = Recording(), Sent(T0)
    for number in range(50):
        stream.send(to, number)
    for _ in range(3):
        stream.pair(to, 50)
    to.intake.scan()
    channel = Channel("X", 10e6, to.ssrc)
    record = describe(channel, to.intake, to.cutter, Progress(0), 0, 1, to.host, False)
    assert math.isfinite(record.level_dbfs)
