"""Whatever strangers send: never an exception, never unbounded memory, and the good stream is whole."""

from __future__ import annotations

import os
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stream.candidates import Origin
from pipeline.stream.journal import JournalFull
from pipeline.stream.rtp import HEADER_SIZE, RtpError, parse
from pipeline.stream.timeline import SECOND
from streams import ORIGIN, SSRC, T0, FakeStatus, Recording, Sent, counter_iq

LONG = os.environ.get("GRAPE_LONG") == "1"
EXAMPLES = 3_000 if LONG else 25
RATE = 1_000
STREAM = Sent(T0, RATE, 500, (1 << 32) - 500, 65_500)
PACKETS = 150


@given(st.binary(max_size=200))
@settings(max_examples=20 * EXAMPLES)
def test_any_bytes_parse_or_are_an_rtp_error(data: bytes) -> None:
    try:
        packet = parse(data)
    except RtpError:
        return
    assert HEADER_SIZE <= packet.payload_start <= packet.payload_end <= len(data)
    assert 0 <= packet.sequence < 1 << 16 and 0 <= packet.timestamp < 1 << 32


def stranger(rng: random.Random, to: Recording, now_ns: int, number: int) -> None:
    """One hostile packet: noise, or a near-copy of what the stream sends now."""
    origin: Origin = (f"10.{rng.randrange(256)}.0.1", rng.randrange(65_536))
    if rng.random() < 0.5:
        origin = ("10.9.9.9", 7)
    sequence, timestamp = rng.randrange(1 << 16), rng.randrange(1 << 32)
    if rng.random() < 0.5:
        sequence = STREAM.first_sequence + number + rng.randrange(-3, 4)
        timestamp = STREAM.first_rtp + (number + rng.randrange(-3, 4)) * 500 + rng.choice([0, 0, 1])
    size = rng.choice([0, 1, 3, 4, 8, 2000, 2001, 4000, rng.randrange(60_000)])
    to.packet(sequence, timestamp, rng.randbytes(size), now_ns + rng.randrange(1000), origin, rng.random() < 0.3)


def noise(rng: random.Random, to: Recording, now_ns: int) -> None:
    """Copies, misfits and garbage that seem to come from radiod itself."""
    kind = rng.randrange(4)
    if kind == 0:
        number = rng.randrange(PACKETS)
        to.packet(rng.randrange(1 << 16), rng.randrange(1 << 32), bytes(2000), now_ns, ORIGIN)
        to.packet(number, rng.randrange(1 << 32), bytes(rng.choice([2000, 2002])), now_ns, ORIGIN)
    elif kind == 1:
        to.status(rng.randbytes(rng.randrange(1, 300)), now_ns)
    elif kind == 2:
        to.status(bytes([0]) + bytes(rng.choices(range(1, 110), k=60)), now_ns)
    else:
        snap = rng.choice([None, rng.randrange(1 << 32), STREAM.first_rtp + 40_000_000])
        rate = rng.choice([None, 0, 1, 999, 12_000, 10_000_000])
        name = rng.choice([None, "OPUS", "S16BE", "F32LE", "no such"])
        ssrc = rng.choice([SSRC, SSRC, SSRC + 1])
        far = rng.choice([None, 0, rng.randrange(1 << 62)])
        to.status(FakeStatus(far, snap, rate, name, ssrc), now_ns)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 1 << 32), st.integers(0, 6), st.booleans())
def test_hostile_packets_and_statuses_leave_the_stream_whole(seed: int, strangers: int, crash: bool) -> None:
    rng = random.Random(seed)
    to = Recording(RATE)
    for n in range(PACKETS):
        now = STREAM.time_ns((n + 1) * 500)
        STREAM.send(to, n)
        for _ in range(rng.randrange(strangers + 1) if n else 0):
            stranger(rng, to, now, n)
        if n and rng.random() < 0.3:
            noise(rng, to, now)
        if n % 3 == 0:
            STREAM.pair(to, n + 1)
        if crash and rng.random() < 0.1:
            to.crash()
        to.advance()
    minutes = to.finish()
    frames = PACKETS * 500
    whole = np.concatenate([iq for _, iq, _ in minutes])[:frames]
    assert np.array_equal(whole, counter_iq(0, frames))
    assert [gap.cause for minute, _, _ in minutes for gap in minute.gaps] == ["stop"]
    assert {segment.epoch_id for minute, _, _ in minutes for segment in minute.segments} == {1}
    assert to.intake.source.lost == 0


@settings(max_examples=EXAMPLES // 2)
@given(st.integers(0, 1 << 32))
def test_noise_alone_is_bounded_and_a_stream_is_still_heard_after_it(seed: int) -> None:
    rng = random.Random(seed)
    to = Recording(RATE)
    dropped = 0
    for n in range(150):
        now = T0 + n * SECOND // 50
        try:
            stranger(rng, to, now, n)
            noise(rng, to, now)
        except JournalFull:
            dropped += 1
        to.advance(silent_ns=rng.choice([0, 0, 70 * SECOND]))
        if rng.random() < 0.05:
            to.crash()
    assert dropped == 0
    later = Sent(T0 + 3600 * SECOND, RATE, 500, 1 << 20, 5)
    received = to.intake.received
    for n in range(60):
        later.send(to, n, origin=("127.0.0.1", 41_000))
        to.advance()
    assert to.intake.received == received + 60
    assert to.intake.source.origin == ("127.0.0.1", 41_000)
    to.finish()
