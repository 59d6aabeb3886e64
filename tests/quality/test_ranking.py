"""Strengths from votes: against known strengths, against brute force, and what must hold for any votes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfoundry.quality import davidson, ranking
from localfoundry.quality.agreement import kappa
from localfoundry.quality.ranking import Choice, Duel, Ranking, critical, rank, votes_needed
from localfoundry.quality.solve import solve

_CHOICES: tuple[Choice, ...] = ("a", "b", "tie")


def _vote(draw: random.Random, a: float, b: float, ties: float = 0.5) -> Choice:
    """By Davidson's model, written anew."""
    weights = [math.exp(a), math.exp(b), ties * math.exp((a + b) / 2)]
    return draw.choices(_CHOICES, weights)[0]


def _simulated(strengths: dict[str, float], items: int, seed: int, ties: float = 0.5) -> list[Duel]:
    draw = random.Random(seed)
    return [
        Duel(item, a, b, _vote(draw, strengths[a], strengths[b], ties))
        for item in range(items)
        for a, b in combinations(sorted(strengths), 2)
    ]


duels = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("abcd"), st.sampled_from("abcd"), st.sampled_from(_CHOICES))
    .filter(lambda vote: vote[1] != vote[2])
    .map(lambda vote: Duel(*vote)),
    max_size=40,
)


@given(duels, st.randoms())
@settings(max_examples=30)
def test_neither_the_order_of_votes_nor_of_names_in_them_matters(votes: list[Duel], draw: random.Random) -> None:
    turned = [Duel(v.item, v.b, v.a, {"a": "b", "b": "a", "tie": "tie"}[v.choice]) for v in votes]  # type: ignore[arg-type]
    mixed = [draw.choice(pair) for pair in zip(votes, turned, strict=True)]
    draw.shuffle(mixed)
    one, other = rank(votes), rank(mixed)
    of_one, of_other = ({s.model: s for s in r.strengths} for r in (one, other))
    assert of_one.keys() == of_other.keys()
    for model, strength in of_one.items():
        assert strength.value == pytest.approx(of_other[model].value, abs=1e-6)
        assert strength.interval.low == pytest.approx(of_other[model].interval.low, abs=1e-4)
        assert strength.interval.high == pytest.approx(of_other[model].interval.high, abs=1e-4)


@given(duels)
@settings(max_examples=30)
def test_whatever_the_votes_strengths_are_finite_inside_their_intervals_and_centred(votes: list[Duel]) -> None:
    found = rank(votes)
    assert sum(s.value for s in found.strengths) == pytest.approx(0, abs=1e-6)
    for one in (*found.strengths, *found.differences):
        assert one.interval.low <= one.value <= one.interval.high
        assert abs(one.value) < 60
    assert [s.value for s in found.strengths] == sorted((s.value for s in found.strengths), reverse=True)


def test_the_estimate_is_the_maximum_of_the_penalised_likelihood() -> None:
    """Found again by trying strengths and ties on a grid, with the likelihood written from its formula."""
    votes = [Duel(i, "x", "y", "a") for i in range(7)] + [Duel(i, "x", "y", "b") for i in range(7, 10)]
    votes += [Duel(i, "x", "y", "tie") for i in range(10, 14)]

    def height(d: float, log_v: float) -> float:
        def chances(gap: float) -> tuple[float, float, float]:
            parts = math.exp(gap / 2), math.exp(-gap / 2), math.exp(log_v)
            return parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts)

        win, loss, tie = chances(d)
        found = 7 * math.log(win) + 3 * math.log(loss) + 4 * math.log(tie)
        for one in (d / 2, -d / 2):  # each against the imagined model
            win, loss, _ = chances(one)
            found += 0.5 * (math.log(win) + math.log(loss))
        win, loss, tie = chances(0)
        return found + 0.5 * (math.log(win) + math.log(loss) + math.log(tie))

    grid = [(d / 200, v / 50) for d in range(400) for v in range(-100, 50)]
    best = max(grid, key=lambda point: height(*point))
    difference = rank(votes).differences[0]
    assert difference.value == pytest.approx(best[0], abs=0.006)
    top = height(*best)
    lowest = top - critical(14) ** 2 / 2
    inside = [d / 20 for d in range(-60, 120) if max(height(d / 20, v / 20) for v in range(-60, 40)) >= lowest]
    assert difference.interval.low == pytest.approx(min(inside), abs=0.06)
    assert difference.interval.high == pytest.approx(max(inside), abs=0.06)


def test_known_strengths_are_found_again() -> None:
    true = {"m0": 1.0, "m1": 0.3, "m2": -0.4, "m3": -0.9}
    found = {s.model: s.value for s in rank(_simulated(true, 800, seed=3)).strengths}
    assert found == pytest.approx(true, abs=0.15)


def _outcomes(items: int, gap: float, ties: float) -> Iterator[tuple[float, Ranking]]:
    """Every outcome of `items` votes on x and y with its exact chance: no luck of a simulation is in the sums."""
    parts = [math.exp(gap / 2), math.exp(-gap / 2), ties]
    chances = [part / sum(parts) for part in parts]
    for wins in range(items + 1):
        for losses in range(items + 1 - wins):
            even = items - wins - losses
            if even and not ties:
                continue
            chance = math.comb(items, wins) * math.comb(items - wins, losses)
            chance *= chances[0] ** wins * chances[1] ** losses * chances[2] ** even
            choices: list[Choice] = ["a"] * wins + ["b"] * losses + ["tie"] * even
            if chance > 1e-5:
                yield chance, rank([Duel(item, "x", "y", choice) for item, choice in enumerate(choices)])


@pytest.mark.parametrize(("items", "gap", "ties"), [(8, 0.0, 0.3), (12, 1.5, 0.4), (16, 0.6, 1.0)])
def test_intervals_hold_the_truth_at_their_stated_rate(items: int, gap: float, ties: float) -> None:
    """95 % stated; so few votes have few outcomes, which moves the rate by a percent or two."""
    held = 0.0
    for chance, ranked in _outcomes(items, gap, ties):
        found = ranked.differences[0]
        truth = gap if found.a == "x" else -gap
        held += chance * (found.interval.low <= truth <= found.interval.high)
    assert held >= 0.93


@pytest.mark.parametrize("items", [*range(1, 31), 41, 60])
def test_of_two_equals_a_winner_is_rarely_named(items: int) -> None:
    """Without Student's t it was one in 9.2 % of cases at 13 votes, and 12.5 % at four."""
    named = sum(chance for chance, ranked in _outcomes(items, 0.0, 0.0) if ranked.winner is not None)
    assert named <= 0.065


@pytest.mark.parametrize(("degrees", "table"), [(5, 2.571), (9, 2.262), (13, 2.160), (29, 2.045), (60, 2.000)])
def test_the_critical_value_is_that_of_the_tables(degrees: int, table: float) -> None:
    """NIST/SEMATECH e-Handbook, table 1.3.6.7.2, column 0.975."""
    assert critical(degrees + 1) == pytest.approx(table, abs=0.001)


def test_a_model_that_won_everything_has_a_finite_strength_and_needs_six_items_to_be_the_winner() -> None:
    five, six = (rank([Duel(item, "x", "y", "a") for item in range(n)]) for n in (5, 6))
    assert five.winner is None
    assert five.more_votes is not None and five.more_votes >= 1
    assert six.winner == "x"
    assert six.strengths[0].value < 10


def test_there_is_no_winner_while_one_interval_of_its_differences_holds_0() -> None:
    strong = _simulated({"x": 0.02, "y": 0.0, "z": -3.0}, 60, seed=1)
    found = rank(strong)
    assert found.winner is None
    last = found.strengths[-1].model
    assert last == "z"
    assert all(d.shown for d in found.differences if d.b == "z")


def test_votes_of_two_people_on_the_same_answers_are_not_twice_the_evidence() -> None:
    once = [Duel(item, "x", "y", "a" if item % 4 else "b") for item in range(12)]
    twice = rank([*once, *once])
    assert twice.differences[0].interval == rank(once).differences[0].interval
    assert twice.votes == 24


def test_models_that_never_met_are_compared_by_those_that_both_met_and_never_declared() -> None:
    chain = [Duel(i, "x", "y", "a") for i in range(20)] + [Duel(i, "y", "z", "a") for i in range(20)]
    found = next(d for d in rank(chain).differences if {d.a, d.b} == {"x", "z"})
    assert found.value > 0
    assert found.items == 0
    assert not found.shown


def test_as_many_votes_as_were_estimated_show_the_difference_in_about_80_percent() -> None:
    gap, pilot = 0.9, 2000
    measured = rank(_simulated({"x": gap, "y": 0.0}, pilot, seed=5, ties=0.4)).differences[0]
    spread = (measured.interval.high - measured.interval.low) / (2 * 1.96)
    needed = votes_needed(gap, spread * math.sqrt(pilot / 10), 10)
    assert needed is not None
    shown = sum(
        rank(_simulated({"x": gap, "y": 0.0}, needed + 10, seed, 0.4)).differences[0].shown for seed in range(120)
    )
    assert 0.68 <= shown / 120 <= 0.92  # the standard error of 120 is 3.7 %


def test_no_difference_at_all_needs_more_votes_than_anyone_will_give() -> None:
    even = [Duel(item, "x", "y", "ab"[item % 2]) for item in range(20)]  # type: ignore[arg-type]
    assert rank(even).more_votes is None
    assert rank(even).winner is None


def test_ten_models_are_ranked_in_a_few_thousand_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """110 ends of intervals, each a few Newton steps away: without warm starts it would be ten times as many."""
    steps = 0

    def counting(*arguments: Any) -> list[float]:
        nonlocal steps
        steps += 1
        return solve(*arguments)

    monkeypatch.setattr(davidson, "solve", counting)
    found = rank(_simulated({f"m{n}": 0.4 * n for n in range(10)}, 10, seed=2))
    assert len(found.strengths) == 10
    assert len(found.differences) == 45
    assert steps < 4000


def test_a_model_is_not_compared_with_itself() -> None:
    with pytest.raises(ValueError, match="itself"):
        rank([Duel(1, "x", "x", "a")])


def test_no_votes_no_ranking() -> None:
    assert rank([]) == ranking.Ranking((), (), 0, 0)


# Agreement


def test_kappa_is_that_of_the_textbook() -> None:
    """Cohen's (1960) own form on a table worked out by hand: po 0.7, pe 0.5, kappa 0.4."""
    table: dict[tuple[Choice, Choice], int] = {("a", "a"): 20, ("a", "b"): 5, ("b", "a"): 10, ("b", "b"): 15}
    votes = [pair for pair, count in table.items() for _ in range(count)]
    found = kappa(votes)
    assert (found.observed, found.expected) == (0.7, 0.5)
    assert found.value == pytest.approx(0.4)


def test_two_who_agree_on_five_pairs_are_not_certain_to_agree() -> None:
    found = kappa([("a", "a"), ("b", "b"), ("tie", "tie"), ("a", "a"), ("b", "b")])
    assert found.value == 1
    assert found.low is not None and found.low < 0.5


def test_two_who_always_say_the_same_word_have_no_kappa() -> None:
    assert kappa([("a", "a")] * 9).value is None


@pytest.mark.parametrize("same", [0.0, 0.5, 0.9])
def test_the_interval_of_kappa_holds_the_truth_at_its_stated_rate(same: float) -> None:
    """Two raters who agree with chance `same` beyond lot: kappa is `same`. 40 pairs, 400 simulations."""
    hits = 0
    for seed in range(400):
        draw = random.Random(seed)
        votes = []
        for _ in range(40):
            first = draw.choice(_CHOICES)
            votes.append((first, first if draw.random() < same else draw.choice(_CHOICES)))
        found = kappa(votes)
        assert found.low is not None and found.high is not None
        hits += found.low <= same <= found.high
    assert hits / 400 >= 0.92


@given(st.lists(st.tuples(st.sampled_from(_CHOICES), st.sampled_from(_CHOICES)), min_size=1))
def test_kappa_is_the_same_from_both_sides_and_in_any_order(votes: list[tuple[Choice, Choice]]) -> None:
    turned = [(b, a) for a, b in reversed(votes)]
    one, other = kappa(votes), kappa(turned)
    assert one == other
    if one.value is not None:
        assert one.low is not None and one.high is not None
        assert one.low <= one.value <= one.high <= 1
