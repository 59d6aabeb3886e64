"""What the statistics promise, counted over simulated runs: intervals cover, a model is no other than itself."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from localfoundry.bench import figures, stats
from localfoundry.bench.candidates import Candidate
from localfoundry.bench.figures import Cell
from localfoundry.bench.plan import Condition
from localfoundry.bench.request import Sample

RUNS = 200
NOISE: dict[str, Callable[[random.Random], float]] = {
    "normal, 5 %": lambda draw: draw.gauss(1, 0.05),
    "log-normal, 8 %": lambda draw: math.exp(draw.gauss(0, 0.08)),
    "now and then a hiccup": lambda draw: draw.gauss(1, 0.02) + (0.15 if draw.random() < 0.1 else 0),
}


def one_run(draw: random.Random, noise: Callable[[random.Random], float], rounds: int, factor: float = 1.0) -> Cell:
    """Rounds on a machine that drifts by 20 % over the run, which hits whoever is measured then."""
    found = []
    for number in range(1, rounds + 1):
        latency = factor * noise(draw) * (1 + 0.2 * number / rounds)
        sample = Sample(
            "m", "m", number, 0.0, latency, first_token_s=latency / 5, first_answer_s=latency / 5, last_token_s=latency,
            completion_tokens=64,
        )  # fmt: skip
        found.append(sample)
    return Cell(Candidate("m", "m"), Condition("chat", "en"), found)


@pytest.mark.parametrize("name", list(NOISE))
@pytest.mark.parametrize("rounds", [5, 12])
def test_a_model_against_itself_is_no_difference_in_93_of_100_runs(name: str, rounds: int) -> None:
    draw = random.Random(f"{name}/{rounds}")
    said = [
        ratio.verdict
        for _ in range(RUNS)
        if (ratio := figures.ratio(one_run(draw, NOISE[name], rounds), one_run(draw, NOISE[name], rounds)))
    ]
    assert len(said) == RUNS
    assert said.count("no difference shown") / RUNS >= 0.93, {word: said.count(word) for word in set(said)}


def test_a_difference_of_a_fifth_is_shown() -> None:
    """The other side: what never shows a difference would pass every test above."""
    draw = random.Random(1)
    noise = NOISE["normal, 5 %"]
    said = [figures.ratio(one_run(draw, noise, 8, 1.2), one_run(draw, noise, 8)) for _ in range(RUNS)]
    assert sum(ratio is not None and ratio.verdict == "difference shown" for ratio in said) / RUNS > 0.95


@pytest.mark.parametrize("count", [3, 8, 500])
def test_the_interval_of_a_median_covers_it(count: int) -> None:
    draw = random.Random(count)
    runs = 300
    covered = sum(0.0 in interval for _ in range(runs) if (interval := stats.bootstrap_median(values(draw, count))))
    assert 0.92 <= covered / runs <= 0.995


@pytest.mark.parametrize("count", [3, 5, 30])
def test_the_interval_of_a_mean_covers_it(count: int) -> None:
    draw = random.Random(count)
    runs = 2000
    covered = sum(0.0 in interval for _ in range(runs) if (interval := stats.t_interval(values(draw, count))))
    assert covered / runs == pytest.approx(0.95, abs=0.015)


def test_the_closed_form_agrees_with_resampling() -> None:
    """At the border between the two the interval must not jump."""
    draw = random.Random(3)
    for _ in range(10):
        many = values(draw, stats.RESAMPLED_UP_TO)
        resampled = stats.bootstrap_median(many)
        closed = stats._closed_form(sorted(many))
        assert resampled is not None
        assert closed.low == pytest.approx(resampled.low, abs=0.12)
        assert closed.high == pytest.approx(resampled.high, abs=0.12)


def values(draw: random.Random, count: int) -> list[float]:
    return [draw.gauss(0, 1) for _ in range(count)]
