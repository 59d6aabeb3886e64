"""The statistics of passes and failures against exact enumeration and simulation."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.quality import report
from localfoundry.quality.results import ItemResult
from localfoundry.quality.score import differences, holm, mcnemar, paired_interval, scores


def results(model: str, passes: str, **fields: object) -> list[ItemResult]:
    """One result for each letter: `1` passed, `0` failed, `e` no answer."""
    return [
        ItemResult(
            suite="s", language="en", item=f"i{index}", model=model, passed=letter == "1",
            error="it broke" if letter == "e" else None, seconds=2.0, **fields,  # type: ignore[arg-type]
        )
        for index, letter in enumerate(passes)
    ]  # fmt: skip


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_is_the_enumeration_of_all_coin_throws(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    least = abs(only_a - only_b)
    as_far = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= least)
    assert mcnemar(only_a, only_b) == pytest.approx(as_far / 2**n)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_equals_are_rarely_called_different() -> None:
    """200 runs of a model against itself on 48 items: the exact test errs in less than its 5 %."""
    draw = random.Random(7)
    shown = 0
    for _ in range(200):
        a = "".join(draw.choice("01") for _ in range(48))
        b = "".join(draw.choice("01") for _ in range(48))
        (pair,) = differences(results("a", a) + results("b", b))
        shown += pair.shown
    assert shown <= 14


def test_the_paired_interval_covers() -> None:
    """Simulated at 40 items with a true difference of 0.1: in 92 to 98 % of runs."""
    draw, inside, runs = random.Random(3), 0, 2000
    for _ in range(runs):
        throws = [draw.random() for _ in range(40)]
        interval = paired_interval(sum(t < 0.25 for t in throws), sum(t > 0.85 for t in throws), 40)
        inside += interval.low <= 0.1 <= interval.high
    assert 0.92 < inside / runs < 0.98


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_the_plain_value_and_bonferroni(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= a <= min(1, len(values) * p) for p, a in zip(values, adjusted, strict=True))
    assert all(
        (adjusted[i] <= adjusted[j]) for i, j in itertools.permutations(range(len(values)), 2) if values[i] < values[j]
    )


def test_holm_on_a_known_case() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_scores_count_failures_and_their_time() -> None:
    (score,) = scores(results("m", "110e", tokens=5))
    assert (score.n, score.passed, score.errors, score.accuracy) == (4, 2, 1, 0.5)
    assert score.seconds_per_solved == 4.0
    assert score.tokens_per_solved == 10
    assert score.joules_per_solved is None
    (none,) = scores(results("m", "00"))
    assert none.seconds_per_solved is None


def test_energy_is_told_only_where_each_item_was_counted() -> None:
    (score,) = scores(results("m", "10", energy_j=3.0))
    assert score.joules_per_solved == 6.0
    (partly,) = scores([*results("m", "10", energy_j=3.0), results("m", "001")[2]])
    assert partly.joules_per_solved is None
    assert report.rows([partly])[0][7] == "unavailable"


def test_items_without_an_answer_are_not_compared() -> None:
    (pair,) = differences(results("a", "11e1") + results("b", "10e0"))
    assert (pair.n, pair.both, pair.only_a, pair.only_b, pair.neither) == (3, 1, 2, 0, 0)
    assert differences(results("a", "ee") + results("b", "11")) == []


def test_sentences_say_no_difference_unless_one_is_shown() -> None:
    few = report.sentences(differences(results("a", "1111") + results("b", "1110")))
    assert "a and b: no difference shown" in few[0]
    many = report.sentences(differences(results("a", "0" * 20) + results("b", "1" * 20)))
    assert many[0].startswith("s (en): b solves more than a, by 100%")


def test_suites_and_languages_are_never_mixed() -> None:
    mixed = [*results("m", "1"), ItemResult(suite="t", language="da", item="i0", model="m", passed=False)]
    assert [(s.suite, s.language, s.n) for s in scores(mixed)] == [("s", "en", 1), ("t", "da", 1)]
