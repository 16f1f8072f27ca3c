"""Whatever happens on the way: what was received is in the files once, at its place; the rest is zero and listed."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_strategies import faults, parts
from stream_world import CRASHES, LOOK, RATE, Faults, Part, World, check, summary
from streams import T0, Recording

LONG = os.environ.get("GRAPE_LONG") == "1"
EXAMPLES = 5_000 if LONG else 40

lies = st.lists(st.tuples(st.floats(0.1, 0.9), st.sampled_from([-900, -300, -60, 60, 300, 900])), max_size=2).map(tuple)
crashes = st.lists(st.tuples(st.integers(0, 1_500), st.sampled_from(CRASHES)), max_size=4)


@settings(max_examples=EXAMPLES)
@given(parts(), faults, st.integers(0, 60_000), lies, crashes)
def test_received_samples_are_in_the_files_exactly_once(
    timelines: tuple[Part, ...],
    network: Faults,
    start_ms: int,
    wrong: tuple[tuple[float, int], ...],
    deaths: list[tuple[int, str]],
) -> None:
    """Loss, reordering within the grace, copies, restarts, mutes, sample clocks that err, labels that move, deaths."""
    world = World(timelines, network, T0 + start_ms * 1_000_000, wrong)
    if all(p.lost for p in world.packets):
        return
    quiet = Recording(RATE)
    check(world, quiet, world.play(quiet, [(event, LOOK) for event, _ in deaths]))
    if deaths:
        dying = Recording(RATE)
        world.play(dying, deaths)
        assert summary(dying) == summary(quiet)
