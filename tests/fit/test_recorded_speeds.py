"""Decode and prefill as predicted, against recorded runs of the real engine; no clock runs here.

The rates were fitted to one shape of every quantization; what is held to the bounds are other shapes. The bounds are
what was reached with few runs on a busy machine, mostly one of each; docs/fit.md has the table and what is missing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from localfoundry.bench import stats

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fit_rates
from fit_rates import Row

WITHIN = {"decode": 0.25, "prefill": 0.30}  # of nine in ten, after the probe alone
AFTER_A_BENCH = {"decode": 0.25, "prefill": 0.45}


@cache
def rows() -> tuple[Row, ...]:
    return tuple(fit_rates.rows())


def held_back(quantity: str) -> list[Row]:
    return [row for row in rows() if row.quantity == quantity and not row.fitted]


def within(errors: Iterable[float]) -> float:
    return stats.percentile([abs(error) for error in errors], 0.9)


def test_enough_was_recorded() -> None:
    """Eleven quantizations, shapes of four families; a quarter and more is held back."""
    assert len({row.file.rpartition(" ")[2] for row in rows()}) >= 11
    assert len({row.file.rpartition(" ")[0] for row in rows()}) >= 5
    assert len(held_back("decode")) >= 10
    assert len(held_back("prefill")) >= 10


@pytest.mark.parametrize("quantity", ["decode", "prefill"])
def test_nine_of_ten_that_were_held_back_are_within_the_bound(quantity: str) -> None:
    errors = {(row.file, row.threads, row.length): row.error() for row in held_back(quantity)}
    assert within(errors.values()) <= WITHIN[quantity], sorted(errors.items(), key=lambda one: abs(one[1]))[-8:]


@pytest.mark.parametrize("quantity", ["decode", "prefill"])
def test_one_bench_tells_the_other_lengths_of_a_model(quantity: str) -> None:
    """The bench's prompt is short; its ratio corrects what is predicted of the longer ones."""
    runs: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows():
        if row.quantity == quantity:
            runs[row.window, row.file, row.threads].append(row)
    errors = []
    for some in runs.values():
        bench, *others = sorted(some, key=lambda row: row.length)
        errors += [row.predicted() * bench.median / bench.predicted() / row.median - 1 for row in others]
    assert len(errors) >= 15
    assert within(errors) <= AFTER_A_BENCH[quantity], sorted(errors)


@pytest.mark.parametrize("quantity", ["decode", "prefill"])
def test_intervals_hold_what_was_held_back_at_their_rate(quantity: str) -> None:
    """90 % is what they state."""
    some = held_back(quantity)
    missed = [(row.file, row.threads, row.length, row.median) for row in some if not row.interval().holds(row.median)]
    assert len(missed) <= 0.1 * len(some), missed
