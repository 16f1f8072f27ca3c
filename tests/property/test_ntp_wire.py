"""Any bytes at all: `check` gives an outcome, and a sample only if it is sane."""

from __future__ import annotations

import math
import random

from ntp_farm import NOON_NS, Reply
from pipeline.ntp import wire
from pipeline.ntp.wire import Ignored, Instant, Kiss, Limits, Refused, Sample

ROUNDS = 100_000
NONCE = b"8 bytes!"


def mutated(rng: random.Random, packet: bytes) -> bytes:
    data = bytearray(packet)
    kind = rng.random()
    if kind < 0.3:
        data = bytearray(rng.randbytes(rng.choice([0, 12, 47, 48, 48, 68, 500])))
        if len(data) >= 48 and rng.random() < 0.8:
            data[24:32], data[0] = NONCE, rng.choice([0x24, 0x1C, 0x64, 0xA4])
    elif kind < 0.9:
        for _ in range(rng.randint(1, 12)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        at = rng.randrange(len(data))
        data[at : at + 8] = rng.choice([bytes(8), b"\xff" * 8])
    return bytes(data)


def test_case_61_fuzzed_replies_give_an_outcome_and_only_sane_samples() -> None:
    rng = random.Random(48)
    sent = Instant(NOON_NS, 10**9, 10**9, 10**9)
    received = Instant(NOON_NS + 20_000_000, 10**9 + 20_000_000, 10**9 + 20_000_000, 10**9)
    packet = Reply().to_bytes(wire.request(NONCE), NOON_NS + 10_000_000)
    seen = set()
    limits = Limits()
    for _ in range(ROUNDS):
        data = mutated(rng, packet)
        outcome = wire.check(data, NONCE, sent, received, limits)
        seen.add(type(outcome))
        if isinstance(outcome, Sample):
            numbers = (outcome.theta_s, outcome.delay_s, outcome.dispersion_s, outcome.root_delay_s)
            assert all(map(math.isfinite, numbers)), data.hex()
            assert 0 < outcome.delay_s <= limits.max_delay_s
            assert 0 < outcome.dispersion_s <= limits.max_distance_s
            assert 1 <= outcome.stratum <= 15
            assert data[24:32] == NONCE
        elif isinstance(outcome, Kiss):
            assert outcome.code.isalnum() and 1 <= len(outcome.code) <= 4
    assert seen == {Sample, Refused, Ignored, Kiss}
