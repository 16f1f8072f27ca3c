"""What hypothesis may do to a channel's streams: timelines one after the other, and a network that spoils them."""

from __future__ import annotations

from hypothesis import strategies as st

from stream_world import RATE, Faults, Part

plain_sizes = st.sampled_from([(500,), (360,), (320,), (180, 140), (240,), (97,)])
odd_sizes = st.sampled_from([(450, 1, 49), (1000, 3), (149, 1)])
mutes = st.lists(st.tuples(st.integers(1, 60), st.integers(20, 30 * RATE), st.booleans()), max_size=2).map(tuple)
outages = st.lists(st.tuples(st.integers(15, 70), st.integers(1, 50)), max_size=1).map(tuple)
encodings = st.sampled_from([("S16BE",), ("F32LE",), ("S16BE", "F32LE", "S16BE"), ("F32LE", "S16BE")])
rtps = st.sampled_from([(1 << 32) - 320, 0, (1 << 32) - 20 * RATE, 1 << 31]) | st.integers(0, (1 << 32) - 1)
sequences = st.sampled_from([0, 65_530, 32_700]) | st.integers(0, 65_535)


@st.composite
def parts(draw: st.DrawFn) -> tuple[Part, ...]:
    """Timelines of one recording: restarts from other ports, and a last one that may have another rate."""
    count = draw(st.integers(1, 3))
    found = []
    for i in range(count):
        made = draw(encodings)
        found.append(
            Part(
                seconds=draw(st.integers(5, 150)),
                # Packets of odd sizes that are lost at a change do not tell how wide the others' samples are.
                sizes=draw(plain_sizes | odd_sizes if len(made) == 1 else plain_sizes),
                # Far from each other: a status of a timeline of which no packet came yet is else the old one's.
                first_rtp=(draw(rtps) + i * (1 << 29)) & 0xFFFFFFFF,
                first_sequence=draw(sequences),
                port=40_000 + i,
                pause_s=draw(st.integers(2, 80)),
                encodings=made,
                # The one packet between two mutes does not tell how wide its samples are.
                mutes=draw(mutes) if len(made) == 1 else (),
                outages=draw(outages),
                statuses=made != ("S16BE",) or draw(st.booleans()),
                ppm=draw(st.sampled_from([0.0, 0.0, 50.0, -50.0, 100.0])),
                late_pairs_ms=draw(st.sampled_from([0, 0, 9, 300])),
            )
        )
    return tuple(found)


faults = st.builds(
    Faults,
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    reorder=st.sampled_from([0.0, 0.0, 0.05, 0.8]),
    duplicate=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    late_duplicate=st.sampled_from([0.0, 0.0, 0.1]),
)
