"""How much disk a channel takes, before there are files to measure; pure."""

from __future__ import annotations

from pipeline.config import INT16_ENCODINGS, Channel

# Bytes a complex sample takes on disk, strong signals, rounded up: deflate finds 8 empty
# bits in a 16-bit sample stored as float32 and none in a sample that was float32 before.
_BYTES_PER_SAMPLE = {"int16": 3.7, "S16": 5.0, "F16": 5.0, "F32": 7.5}
_SECONDS_PER_DAY = 86_400


def mb_per_day(channel: Channel, storage: str) -> float:
    """MB that a channel's files take in a day, in the given `recorder.storage`."""
    stored = "int16" if storage == "int16" and channel.encoding in INT16_ENCODINGS else channel.encoding[:3]
    return channel.sample_rate_hz * _SECONDS_PER_DAY * _BYTES_PER_SAMPLE[stored] / 1e6
