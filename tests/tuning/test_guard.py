"""The guard: a loss is measured, and what is not shown to be within the bound is refused."""

from __future__ import annotations

import math

import msgspec
import pytest

from localfoundry.quality.fidelity import Position
from localfoundry.tuning import guard

WIDE = {number: math.log(0.5 if number == 0 else 0.005) for number in range(65)}


def moved(loss: float) -> dict[int, float]:
    likeliest = 0.5 - math.sqrt(loss / 2)
    return {number: math.log(likeliest if number == 0 else (1 - likeliest) / 100) for number in range(65)}


@pytest.mark.parametrize("loss", [0.001, 0.01, 0.1])
def test_the_divergence_from_the_default_is_the_loss_of_its_own_text(loss: float) -> None:
    position = guard.against_default((0, 0), WIDE, moved(loss))
    assert position.log_ratio == position.kl == pytest.approx(loss, rel=0.15)
    passages = [msgspec.structs.replace(position, chunk=n % 4) for n in range(40)]
    assert guard.judged(passages, 0.02, {}, {}).within == (loss < 0.019)


def test_against_a_reference_it_is_the_difference_of_both_distances() -> None:
    base, candidate = [Position(0, 0.1, 1, 0.30)], [Position(0, 0.2, 1, 0.31)]
    [found] = guard.against_reference(base, candidate)
    assert found.log_ratio == pytest.approx(0.01) and found.kl == 0.2


def test_too_few_positions_prove_nothing() -> None:
    verdict = guard.judged([], 0.02, {}, {}, None)
    assert not verdict.within and "not known" in verdict.words
    assert "it gives none" in guard.judged([], 0.02, {}, {}, "it gives none").words


def test_items_that_are_lost_refuse_a_candidate_whatever_its_perplexity() -> None:
    same = [Position(n, 0, 1, 0.0) for n in range(40)]
    items = {str(n): True for n in range(10)}
    verdict = guard.judged(same, 0.02, items, {**dict.fromkeys(items, False), "9": True})
    assert not verdict.within and "loses 9 of 10 items" in verdict.words
    assert guard.judged(same, 0.02, items, items).within


def test_the_interval_is_over_passages_and_one_passage_proves_nothing() -> None:
    """Ten positions of each: of three passages the interval is 4.3 standard errors wide, and not 1.96."""
    values = {0: 0.0, 1: 0.01, 2: 0.02}
    verdict = guard.judged([Position(n, None, None, values[n]) for n in values for _ in range(10)], 0.03, {}, {})
    assert verdict.perplexity is not None and verdict.kl is None
    assert math.log(verdict.perplexity.value) == pytest.approx(0.01)
    assert math.log(verdict.perplexity.high) == pytest.approx(0.01 + 4.303 * 0.01 / math.sqrt(3), abs=1e-4)
    assert not verdict.within and "not shown" in verdict.words
    alone = guard.judged([Position(0, None, None, 0.0)] * 100, 0.02, {}, {})
    assert not alone.within and alone.perplexity is None
