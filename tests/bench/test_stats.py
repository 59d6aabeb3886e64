"""Statistics: known values, properties that must hold for any samples, and samples too few to say anything."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.bench import stats

values = st.floats(min_value=1e-3, max_value=1e3)
samples = st.lists(values, min_size=2, max_size=15)
pairs = st.lists(st.tuples(values, values), min_size=2, max_size=15)
few = settings(max_examples=25)  # 2,000 resamples each, on machines that do other work too


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 31, 45, 120])
def test_t_points_agree_with_the_density_integrated(degrees: int) -> None:
    """The table and the expansion must leave 2.5 % in the tail of the density itself."""

    def density(x: float) -> float:
        scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
        return float(scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2))

    limit, steps = stats.t_quantile_975(degrees), 2000
    h = limit / steps
    inner = sum((4 if i % 2 else 2) * density(i * h) for i in range(1, steps))
    assert 0.5 + (density(0) + inner + density(limit)) * h / 3 == pytest.approx(0.975, abs=5e-5)


def test_t_interval_of_a_worked_example() -> None:
    interval = stats.t_interval([10, 11, 12, 13, 14])
    assert interval is not None
    assert interval.low == pytest.approx(12 - 2.776 * math.sqrt(2.5) / math.sqrt(5))
    assert interval.high == pytest.approx(12 + 2.776 * math.sqrt(2.5) / math.sqrt(5))


@few
@given(samples)
def test_intervals_contain_their_point_and_stay_in_range(runs: list[float]) -> None:
    summary = stats.summarize(runs)
    assert summary is not None
    assert summary.mean_interval is not None
    assert summary.mean in summary.mean_interval
    assert summary.median_interval is not None
    assert summary.median in summary.median_interval
    if len(runs) >= 6:  # the range of fewer holds the median too seldom for 95 %
        assert summary.minimum <= summary.median_interval.low <= summary.median_interval.high <= summary.maximum
    else:
        assert summary.median_interval.low <= summary.minimum <= summary.maximum <= summary.median_interval.high


@few
@given(samples, st.randoms(use_true_random=False))
def test_order_of_the_runs_does_not_matter(runs: list[float], draw: object) -> None:
    shuffled = list(runs)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stats.bootstrap_median(runs) == stats.bootstrap_median(shuffled)


@few
@given(samples, st.integers(min_value=-8, max_value=8))
def test_a_change_of_unit_changes_nothing_but_the_unit(runs: list[float], power: int) -> None:
    factor = 2.0**power  # exact in binary, so that equality is fair
    one, other = stats.summarize(runs), stats.summarize([value * factor for value in runs])
    assert one is not None
    assert other is not None
    assert other.median == one.median * factor
    assert one.median_interval is not None
    assert other.median_interval is not None
    assert other.median_interval.low == one.median_interval.low * factor
    assert other.cv == one.cv


@few
@given(pairs)
def test_swapping_the_candidates_gives_the_reciprocal_and_the_same_verdict(runs: list[tuple[float, float]]) -> None:
    ratio = stats.paired_ratio([a for a, _ in runs], [b for _, b in runs])
    swapped = stats.paired_ratio([b for _, b in runs], [a for a, _ in runs])
    assert ratio.value * swapped.value == pytest.approx(1)
    assert ratio.interval is not None
    assert swapped.interval is not None
    assert ratio.interval.low * swapped.interval.high == pytest.approx(1)
    assert ratio.interval.low <= ratio.value * (1 + 1e-12)
    assert ratio.value <= ratio.interval.high * (1 + 1e-12)


def test_the_same_samples_give_the_same_interval() -> None:
    runs = [1.0, 1.2, 0.9, 1.1, 1.05]
    assert stats.bootstrap_median(runs) == stats.bootstrap_median(runs)


def test_one_run_has_no_interval_and_says_so() -> None:
    summary = stats.summarize([2.0])
    assert summary is not None
    assert (summary.mean_interval, summary.median_interval, summary.cv) == (None, None, None)
    assert not summary.too_noisy
    assert stats.paired_ratio([2.0], [1.0]).verdict == "not enough runs"


def test_nothing_measured_is_nothing() -> None:
    assert stats.summarize([]) is None
    for a, b in (([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0])):
        with pytest.raises(ValueError, match=r"paired|above 0"):
            stats.paired_ratio(a, b)


def test_verdicts() -> None:
    base = [1.0, 1.01, 0.99, 1.0, 1.02]
    assert stats.paired_ratio(base, [2 * value for value in base]).verdict == "difference shown"
    assert stats.paired_ratio(base, list(reversed(base))).verdict == "no difference shown"
    assert stats.paired_ratio(base, [1.0, 2.0, 0.5, 3.0, 1.0]).verdict == "too noisy to conclude"


def test_a_drift_that_both_share_is_not_noise() -> None:
    """A laptop that slows down by half during the run must not hide a steady 2:1, nor be called noise."""
    drifting = [1.0, 1.2, 1.4, 1.7, 2.0]
    ratio = stats.paired_ratio([2 * value for value in drifting], drifting)
    assert ratio.verdict == "difference shown"
    assert ratio.value == pytest.approx(2)
    summary = stats.summarize(drifting)
    assert summary is not None
    assert summary.too_noisy


def test_identical_runs_have_an_interval_of_no_width() -> None:
    summary = stats.summarize([0.3] * 5)
    assert summary is not None
    assert summary.cv == pytest.approx(0)
    assert summary.median_interval == stats.Interval(0.3, 0.3, "bootstrap")


def test_high_percentiles_are_given_only_where_there_are_enough_runs() -> None:
    few_runs, many = stats.summarize([float(i) for i in range(5)]), stats.summarize([float(i) for i in range(1, 101)])
    assert few_runs is not None
    assert many is not None
    assert (few_runs.p95, few_runs.p99) == (None, None)
    assert (many.p95, many.p99) == (95.0, 99.0)
    assert stats.percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert stats.percentile([float(i) for i in range(1, 21)], 0.95) == 19.0


@few
@given(samples)
def test_coefficient_of_variation_is_spread_over_mean(runs: list[float]) -> None:
    cv = stats.coefficient_of_variation(runs)
    assert cv == pytest.approx(statistics.stdev(runs) / statistics.fmean(runs))
    assert stats.coefficient_of_variation([-1.0, 1.0]) is None
