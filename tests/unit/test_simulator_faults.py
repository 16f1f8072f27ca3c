"""The network's faults: nothing vanishes unnoted, nothing comes from nowhere, chance is repeatable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.simulator.faults import Delivery, Fate, FaultLine, Packet
from pipeline.simulator.spec import FaultPlan, SimulatorError

MS = 1_000_000


def packet(number: int) -> Packet:
    return Packet(1, number, number * 320, 320, b"h", b"p", 0, ("239.1.2.3", 5004))


def run(plan: FaultPlan, packets: int, seed: int = 1) -> list[Delivery]:
    line = FaultLine(plan, seed, ssrc=1)
    out = [d for n in range(packets) for d in line.feed(packet(n), n * 20 * MS, n * 0.02)]
    return out + line.flush(packets * 20 * MS)


def numbers(deliveries: list[Delivery], *fates: Fate) -> list[int]:
    return [d.packet.sequence_number for d in deliveries if d.fate in fates]


chance = st.sampled_from([0.0, 0.05, 0.5, 1.0])
plans = st.builds(
    FaultPlan,
    loss=chance,
    burst=chance,
    burst_packets=st.integers(1, 5),
    drops=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5)), max_size=3).map(tuple),
    reorder=chance,
    reorder_depth=st.integers(1, 8),
    duplicate=chance,
    duplicate_delay_s=st.sampled_from([0.0, 0.3]),
    late=chance,
    late_s=st.sampled_from([0.001, 1.0]),
)


@given(plans, st.integers(0, 100), st.integers(0, 9))
def test_every_packet_comes_out_exactly_once_and_duplicates_extra(plan: FaultPlan, count: int, seed: int) -> None:
    out = run(plan, count, seed)
    once = numbers(out, Fate.SENT, Fate.DROPPED, Fate.LATE, Fate.REORDERED)
    assert sorted(once) == list(range(count))
    assert max(Counter(numbers(out, Fate.DUPLICATE)).values(), default=0) <= 1
    assert not set(numbers(out, Fate.DUPLICATE)) & set(numbers(out, Fate.DROPPED))


@given(plans)
def test_same_seed_same_faults(plan: FaultPlan) -> None:
    assert run(plan, 60) == run(plan, 60)


def test_no_plan_changes_nothing() -> None:
    assert run(FaultPlan(), 3) == [Delivery(n * 20 * MS, packet(n), Fate.SENT) for n in range(3)]
    assert FaultLine(FaultPlan(), 1, 1).clean
    assert not FaultLine(FaultPlan(late=0.1), 1, 1).clean


def test_scripted_drops_lose_exactly_those_packets() -> None:
    out = run(FaultPlan(drops=((0.1, 3), (1.0, 1))), 100)
    assert numbers(out, Fate.DROPPED) == [5, 6, 7, 50]


def test_bursts_have_their_length() -> None:
    lost = numbers(run(FaultPlan(burst=0.01, burst_packets=10), 5000), Fate.DROPPED)
    begins = [n for n in lost if n - 1 not in lost]
    assert len(begins) > 10
    assert all(set(range(n, min(n + 10, 5000))) <= set(lost) for n in begins)


def test_loss_has_its_probability() -> None:
    lost = numbers(run(FaultPlan(loss=0.1), 10_000), Fate.DROPPED)
    assert 900 < len(lost) < 1100


def test_reordered_packets_wait_for_1_to_depth_later_ones() -> None:
    out = run(FaultPlan(reorder=0.05, reorder_depth=3), 2000)
    waits = [d.at_ns // (20 * MS) - d.packet.sequence_number for d in out if d.fate is Fate.REORDERED]
    assert set(waits) == {1, 2, 3}
    order = numbers(out, Fate.SENT, Fate.REORDERED)
    assert order != sorted(order)
    assert max(abs(number - place) for place, number in enumerate(order)) <= 3


def test_everything_reordered_still_leaves() -> None:
    out = run(FaultPlan(reorder=1.0, reorder_depth=2), 50)
    assert all(d.at_ns <= (d.packet.sequence_number + 2) * 20 * MS for d in out)


def test_late_packets_keep_their_delay() -> None:
    out = run(FaultPlan(late=1.0, late_s=0.5), 3)
    assert out == [Delivery(n * 20 * MS + 500 * MS, packet(n), Fate.LATE) for n in range(3)]


def test_duplicates_follow_after_their_delay() -> None:
    out = run(FaultPlan(duplicate=1.0, duplicate_delay_s=2.0), 1)
    assert out == [Delivery(0, packet(0), Fate.SENT), Delivery(2000 * MS, packet(0), Fate.DUPLICATE)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.5},
        {"late_status": -0.1},
        {"packet_frames": (0,)},
        {"start_rtp": 2**32},
        {"reorder_depth": 0},
        {"burst_packets": 0},
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SimulatorError, match=next(iter(wrong))):
        FaultPlan(**wrong)  # type: ignore[arg-type]
