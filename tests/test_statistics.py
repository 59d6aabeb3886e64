"""Every statistic that is reckoned with the standard library alone, against scipy, which the product never imports.

What scipy has no equal of is counted elsewhere: coverage of the bootstrap, of the mean's interval and comparisons of a
model with itself in bench/test_simulated.py; Bonett and Price's interval and Holm's correction in
quality/test_score.py; the chance of naming a winner between equals in quality/test_ranking.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from localfoundry.bench import stats
from localfoundry.quality import ranking
from localfoundry.quality.agreement import kappa
from localfoundry.quality.ranking import Choice, Duel, rank
from localfoundry.quality.score import mcnemar
from localfoundry.quality.solve import solve
from localfoundry.results.distribution import distribution, median_interval
from localfoundry.results.share import share

many = settings(max_examples=50)
few = settings(max_examples=20)
times = st.floats(min_value=1e-4, max_value=1e3)
choices: st.SearchStrategy[Choice] = st.sampled_from(("a", "b", "tie"))


@many
@given(st.integers(1, 5000))
def test_students_t(degrees: int) -> None:
    """The table has three decimals, the expansion beyond it is off by less."""
    assert stats.t_quantile_975(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=5.1e-4)
    items = degrees + 1
    reference = scipy.stats.t.ppf(0.975, max(items, ranking.FEWEST_ITEMS) - 1)
    assert ranking.critical(items) == pytest.approx(reference, abs=3e-4)


@many
@given(st.lists(times, min_size=2, max_size=60))
def test_interval_and_variation_of_a_mean(values: list[float]) -> None:
    found = stats.t_interval(values)
    assert found is not None
    error = float(scipy.stats.sem(values))
    assume(error > 1e-9 * max(values))
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, numpy.mean(values), error)
    slack = 3e-4 * (high - low)
    assert (found.low, found.high) == (pytest.approx(low, abs=slack), pytest.approx(high, abs=slack))
    assert stats.coefficient_of_variation(values) == pytest.approx(scipy.stats.variation(values, ddof=1))


@many
@given(st.lists(times, min_size=1, max_size=300), st.sampled_from([0.05, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentiles_are_nearest_ranks(values: list[float], at: float) -> None:
    """numpy's `inverted_cdf`, up to its rounding: 0.95 * 20 is not the 20th of twenty values."""
    ordered = sorted(values)
    rank = math.ceil(at * len(values) - 1e-9)
    assert stats.percentile(values, at) == ordered[rank - 1]
    assert stats.percentile(values, at) == numpy.quantile(values, at - 1e-12, method="inverted_cdf")
    if len(values) >= 20:
        assert distribution(values).p95 == stats.percentile(values, 0.95)


@few
@given(st.one_of(st.integers(1, 40), st.integers(900, 3000)))
def test_interval_of_a_median_by_order_statistics(n: int) -> None:
    """The ranks are the quantile test's; over 1,000 values they are approximated, and off by one at most."""
    ordered = [float(place) for place in range(n)]
    reference = scipy.stats.quantile_test(ordered, q=50, p=0.5).confidence_interval(0.95)
    found = median_interval(ordered)
    if n < 6:
        assert found is None and math.isnan(reference.low)
        return
    assert found == pytest.approx((reference.low, reference.high), abs=0 if n <= 1000 else 1)
    covered = scipy.stats.binom.cdf(found[1], n, 0.5) - scipy.stats.binom.cdf(found[0], n, 0.5)
    assert covered >= (0.95 if n <= 1000 else 0.946)


@few
@given(st.integers(3, 49).map(lambda half: 2 * half + 1))
def test_the_bootstraps_ends_lie_where_its_distribution_has_them(n: int) -> None:
    """The median of a resample is at most the k-th of n values with the chance that over half of n draws are, a
    binomial. What 2,000 resamples cut off has to fit it within five standard errors."""
    found = stats.bootstrap_median([float(place) for place in range(n)])
    assert found is not None
    tail = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    slack = 5 * math.sqrt(tail * (1 - tail) / (stats.RESAMPLES / 2)) + 1 / stats.RESAMPLES
    at_most = [scipy.stats.binom.sf((n - 1) // 2, n, (k + 1) / n) for k in range(n)]
    low = int(found.low)
    assert at_most[low] >= tail - slack
    assert low == 0 or at_most[low - 1] <= tail + slack
    assert found.high == n - 1 - low


@few
@given(st.integers(stats.RESAMPLED_UP_TO + 1, 20_000))
def test_the_closed_form_of_the_bootstrap_has_the_binomials_ranks(n: int) -> None:
    found = stats.bootstrap_median([float(place) for place in range(n)])
    assert found is not None
    rank = scipy.stats.binom.ppf(0.025, n, 0.5) - 1  # places count from 0
    assert rank - 1 <= found.low <= rank, "at most one rank wider"
    assert found.high == n - 1 - found.low


@many
@given(st.integers(1, 3000), st.data())
def test_wilsons_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    found = share(count, n)
    reference = scipy.stats.binomtest(count, n).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == (pytest.approx(reference.low, abs=1e-12), pytest.approx(reference.high))


@many
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_exact_test(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    reference = scipy.stats.binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(reference, rel=1e-9, abs=1e-300)


@many
@given(st.lists(st.tuples(choices, choices), min_size=1, max_size=60))
def test_kappa_with_the_expected_table(votes: list[tuple[Choice, Choice]]) -> None:
    table = numpy.array([[votes.count((a, b)) for b in ("a", "b", "tie")] for a in ("a", "b", "tie")])
    rows, columns = table.any(axis=1), table.any(axis=0)
    expected = numpy.zeros((3, 3))
    expected[numpy.ix_(rows, columns)] = scipy.stats.contingency.expected_freq(table[rows][:, columns])
    by_lot, seen = expected.trace() / len(votes), table.trace() / len(votes)
    found = kappa(votes)
    assert found.expected == pytest.approx(by_lot)
    if found.value is not None:
        assert found.value == pytest.approx((seen - by_lot) / (1 - by_lot))


@many
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_linear_equations(size: int, seed: int) -> None:
    draw = numpy.random.default_rng(seed)
    matrix, wanted = draw.normal(size=(size, size)), draw.normal(size=size)
    assume(numpy.linalg.cond(matrix) < 1e6)
    assert solve(matrix.tolist(), wanted.tolist()) == pytest.approx(scipy.linalg.solve(matrix, wanted), rel=1e-6)


# Strengths from votes: the likelihood written anew, its maximum and its profile found by scipy.


def _height(parameters: Sequence[float], duels: Sequence[Duel], models: Sequence[str]) -> float:
    """Davidson's log likelihood of votes on distinct items, with the imagined votes that keep it finite."""
    strengths, ties = dict(zip(models, parameters, strict=False)), parameters[-1]

    def log_chance(difference: float, choice: Choice) -> float:
        utilities = {"a": difference / 2, "b": -difference / 2, "tie": ties}
        return utilities[choice] - float(numpy.logaddexp.reduce(list(utilities.values())))

    voted = sum(log_chance(strengths[duel.a] - strengths[duel.b], duel.choice) for duel in duels)
    imagined = sum(0.5 * (log_chance(s, "a") + log_chance(s, "b")) for s in strengths.values())
    equals = sum(0.5 * log_chance(0.0, choice) for choice in ("a", "b", "tie"))  # type: ignore[arg-type]
    return voted + imagined + equals


def _maximum(duels: Sequence[Duel], models: Sequence[str], **held: Any) -> Any:
    start = numpy.zeros(len(models) + 1)
    if held:
        start[0] = held["constraints"]["at"]
        held["constraints"] = {"type": "eq", "fun": lambda x, at=start[0]: x[0] - x[1] - at}
    how = {"method": "SLSQP", "options": {"ftol": 1e-14, "maxiter": 500}, **held}
    return scipy.optimize.minimize(lambda x: -_height(x, duels, models), start, **how)


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(["xy", "yz", "xz"]), choices), min_size=8, max_size=30))
def test_strengths_from_votes_and_their_profile(votes: list[tuple[str, Choice]]) -> None:
    duels = [Duel(item, pair[0], pair[1], choice) for item, (pair, choice) in enumerate(votes)]
    models = sorted({name for duel in duels for name in (duel.a, duel.b)})
    best = _maximum(duels, models)
    found = rank(duels)
    middle = numpy.mean(best.x[:-1])
    by_name = {strength.model: strength.value for strength in found.strengths}
    assert [by_name[name] for name in models] == pytest.approx(list(best.x[:-1] - middle), abs=2e-3)
    pair = next(d for d in found.differences if {d.a, d.b} == set(models[:2]))
    sign = 1 if pair.a == models[0] else -1
    reach = scipy.stats.t.ppf(0.975, max(pair.items, ranking.FEWEST_ITEMS) - 1)
    for end in (pair.interval.low, pair.interval.high):
        assume(abs(end) < 20)
        held = _maximum(duels, models, constraints={"at": sign * end})
        assert math.sqrt(max(0.0, 2 * (held.fun - best.fun))) == pytest.approx(reach, abs=5e-3)
