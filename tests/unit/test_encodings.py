"""Streams that no file can hold: better no samples than wrong ones."""

from __future__ import annotations

import pytest

from streams import T0, Recording, Sent, play


@pytest.mark.parametrize("facts", [{"encoding": "OPUS"}, {"output_channels": 1}])
def test_what_cannot_be_decoded_is_not_in_a_file(facts: dict[str, object]) -> None:
    to, stream = Recording(), Sent(T0)
    for number in range(3200):
        stream.send(to, number)
        if number % 25 == 0:
            stream.pair(to, number + 1, **facts)
    to.advance()
    assert to.finish() == []


def test_the_usual_is() -> None:
    to = Recording()
    play(to, Sent(T0), range(3200))
    assert sum(s.samples for m, _, _ in to.finish() for s in m.segments) == 3200 * 320
