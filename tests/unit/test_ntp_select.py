"""The vote: who agrees, who lies, what comes out, how sure it is."""

from __future__ import annotations

import math

import pytest

from pipeline.ntp.select import Candidate, Outcome, Selection, select


def vote(*thetas: float, distance: float = 0.01, min_agree: int = 3, pending: int = 0) -> Selection:
    return select([Candidate(i, theta, distance) for i, theta in enumerate(thetas)], min_agree, pending)


def test_five_good() -> None:
    found = vote(0.0, 0.001, -0.001, 0.002, -0.002)
    assert found.outcome is Outcome.MAJORITY
    assert found.truechimers == {0, 1, 2, 3, 4}
    assert found.theta_s == pytest.approx(0.0, abs=1e-9)
    assert found.system_peer == 0


def test_one_of_five_lies_by_a_second() -> None:
    found = vote(0.0, 0.001, 1.0, -0.001, 0.0)
    assert found.falsetickers == {2}
    assert abs(found.theta_s) < 0.001


def test_liar_with_a_tiny_claimed_error() -> None:
    candidates = [Candidate(i, 0.0005 * i, 0.01) for i in range(4)] + [Candidate(4, 0.03, 0.0)]
    found = select(candidates, 3)
    assert found.falsetickers == {4}
    assert abs(found.theta_s) < 0.002


def test_two_of_five_collude() -> None:
    assert vote(0.0, 1.0, 0.001, 1.0, -0.001).falsetickers == {1, 3}


def test_three_of_five_collude_and_win() -> None:
    """2f + 1 servers are needed against f liars; no algorithm helps, chronyd follows them too."""
    found = vote(0.0, 1.0, 0.001, 1.0, 1.0)
    assert found.falsetickers == {0, 2}
    assert found.theta_s == pytest.approx(1.0)


@pytest.mark.parametrize("thetas", [(0.0, 1.0), (0.0, 0.0, 1.0, 1.0), (0.0,) * 5 + (0.05,) * 5])
def test_half_is_no_majority(thetas: tuple[float, ...]) -> None:
    found = vote(*thetas, min_agree=1)
    assert found.outcome is Outcome.NO_MAJORITY
    assert math.isnan(found.theta_s) and math.isnan(found.uncertainty_s)
    assert not found.truechimers


def test_smeared_server_is_found() -> None:
    assert vote(0.0, 0.001, -0.4, 0.0, 0.0).falsetickers == {2}


def test_too_few() -> None:
    assert vote(0.0).outcome is Outcome.TOO_FEW
    assert vote(0.0, 0.0).outcome is Outcome.TOO_FEW
    assert vote(0.0, 0.0, min_agree=2).outcome is Outcome.MAJORITY
    assert vote(0.0, min_agree=1).outcome is Outcome.MAJORITY
    assert vote().outcome is Outcome.NO_CANDIDATES


def test_pending_servers_may_still_turn_it() -> None:
    assert vote(0.0, 0.0, 0.0, pending=3).outcome is Outcome.UNDECIDED
    assert vote(0.0, 0.0, 0.0, pending=2).outcome is Outcome.MAJORITY
    assert vote(0.0, 1.0, pending=1).outcome is Outcome.UNDECIDED
    assert vote(pending=1).outcome is Outcome.UNDECIDED


def test_servers_within_a_millisecond_agree_whatever_they_claim() -> None:
    """chronyd itself marks five good servers as falsetickers here."""
    found = vote(0.0, 0.0006, 0.0012, 0.0018, 0.0003, distance=26e-6)
    assert found.outcome is Outcome.MAJORITY
    assert len(found.truechimers) == 5


def test_near_servers_count_more_and_far_ones_not_at_all() -> None:
    found = select([Candidate(0, 0.0, 0.002), Candidate(1, 0.003, 0.004), Candidate(2, 0.01, 0.02)], 3)
    assert found.combined == {0, 1}
    assert found.truechimers == {0, 1, 2}
    assert found.theta_s == pytest.approx((0.0 / 0.002 + 0.003 / 0.004) / (1 / 0.002 + 1 / 0.004))


def test_uncertainty_does_not_rest_on_one_server() -> None:
    """The nearest server lies by 5 ms, less than the others' error; the offset follows, the uncertainty covers it."""
    honest = [Candidate(i, 0.0005 * i, 0.02) for i in range(4)]
    found = select([*honest, Candidate(4, 0.005, 0.001)], 3)
    assert not found.falsetickers
    assert found.theta_s == pytest.approx(0.005)
    assert found.bound_s == pytest.approx(0.001)
    assert found.uncertainty_s == found.farthest_s > 0.02


def test_uncertainty_is_the_nearest_servers_while_all_confirm_it() -> None:
    far = [Candidate(i, 0.0004 * i, 0.02) for i in range(4)]
    found = select([*far, Candidate(4, 0.0, 0.003)], 3)
    assert found.close and found.uncertainty_s == found.bound_s == pytest.approx(0.003, abs=1e-3)
    assert found.farthest_s > 0.01
    contradicted = select([*far, Candidate(4, 0.004, 0.003)], 3)
    assert not contradicted.falsetickers and contradicted.uncertainty_s == contradicted.farthest_s > 0.01
    with_liar = select([*far, Candidate(4, 0.0, 0.003), Candidate(5, 1.0, 0.003)], 3)
    assert with_liar.falsetickers and with_liar.uncertainty_s == with_liar.farthest_s > 0.01


def test_uncertainty_of_servers_that_barely_meet() -> None:
    found = select([Candidate(0, 0.0, 0.01), Candidate(1, 0.0199, 0.01)], 2)
    assert found.farthest_s < 0.0002
    assert found.uncertainty_s == found.bound_s > 0.019


def test_farthest_covers_what_a_majority_allows() -> None:
    candidates = [Candidate(0, 0.0, 0.005), Candidate(1, 0.004, 0.005), Candidate(2, 0.2, 0.001)]
    found = select(candidates, 2)
    # [-5, 5] and [-1, 9] ms: both cover -1 to 5 ms, theta is 2 ms.
    assert found.theta_s == pytest.approx(0.002)
    assert found.farthest_s == pytest.approx(0.003)


def test_jitter_is_the_spread() -> None:
    found = select([Candidate(0, -0.001, 0.01, 0.003), Candidate(1, 0.001, 0.01, 0.004)], 2)
    assert found.jitter_s == pytest.approx(math.hypot(0.001, 0.003))


def test_leap_needs_more_than_half_of_the_agreeing() -> None:
    def leap(*votes: int) -> int:
        return select([Candidate(i, 0.0, 0.01, leap=v) for i, v in enumerate(votes)], 3).leap

    assert leap(1, 1, 1, 0, 0) == 1
    assert leap(1, 1, 0, 0, 0) == 0
    assert leap(2, 2, 2, 2, 0) == 2
    assert leap(1, 1, 2, 2) == 0


def test_touching_intervals_agree() -> None:
    found = select([Candidate(0, 0.0, 0.25), Candidate(1, 0.5, 0.25)], 2)
    assert found.outcome is Outcome.MAJORITY
