"""What may be concluded from paired rounds."""

from __future__ import annotations

import pytest

from localfoundry.bench.stats import NOISY, paired_ratio
from localfoundry.tuning import halving
from localfoundry.tuning.halving import LEAST_ROUNDS, better


@pytest.mark.parametrize(
    ("ratios", "shown"),
    [
        ([1.1, 1.12, 1.11, 1.13, 1.12, 1.1], True),
        ([1.1, 1.12, 1.11, 1.13, 1.12], False),  # fewer than can hold the median
        ([0.98, 1.02, 1.1, 1.01, 1.2, 0.99], False),  # holds 1
        ([0.5, 0.6, 0.55, 0.5, 0.52, 0.6], False),
        ([4.5, 6.9, 8.8, 6.5, 7.2, 4.6], True),  # nobody can say how much, and everybody that
        ([1.05, 1.9, 1.2, 1.7, 1.1, 1.8], False),  # all above 1, by less than they vary
    ],
)
def test_one_is_better_by_an_interval_above_1_and_noise_asks_for_more(ratios: list[float], shown: bool) -> None:
    found = paired_ratio(ratios, [1.0] * len(ratios))
    assert better(found) is shown


def test_the_rows_above_mean_what_they_say() -> None:
    assert LEAST_ROUNDS == 6
    assert paired_ratio([4.5, 6.9, 8.8, 6.5, 7.2, 4.6], [1.0] * 6).verdict == NOISY
    assert paired_ratio([1.05, 1.9, 1.2, 1.7, 1.1, 1.8], [1.0] * 6).verdict == NOISY


@pytest.mark.parametrize(
    ("budget_s", "round_s", "count"), [(300, 1.0, 2), (300, 10.0, 1), (3600, 1.0, 5), (1, 0.0, 1), (450, 1.0, 3)]
)
def test_short_rounds_count_together_as_far_as_the_budget_has_room(budget_s: float, round_s: float, count: int) -> None:
    assert halving.together(budget_s, round_s) == count
