"""Results in words and documents: the table, what may be said of two models, and everything as plain data.

There is no single number over all suites: a mean of chat and code would hide what a person has to choose by. Values
in, text and plain data out; printing is the command line's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from localfoundry.quality.results import ItemResult
from localfoundry.quality.score import Difference, Score, differences, scores
from localfoundry.results.rows import CandidateRow, Run

DEFINITIONS = {
    "accuracy": "items passed / items asked; an item without an answer counts as not passed; interval: Wilson, 95 %",
    "difference": "accuracy of one model - of the other over items that both answered; exact McNemar test, two-sided, "
    "corrected for all comparisons of the run (Holm), level 5 %; interval: Bonett and Price, 95 %, not corrected",
    "s per solved": "time of all requests / items passed, s; one request at a time",
    "J per solved": "energy of all requests / items passed, J; unavailable where no counter is read",
}
COLUMNS = ("Suite", "Language", "Model", "Passed", "Accuracy", "95 % interval", "s per solved", "J per solved", "Note")


def rows(found: Sequence[Score]) -> list[tuple[str, ...]]:
    """Cells of the table, in the order of `COLUMNS`."""
    return [
        (
            score.suite,
            score.language,
            score.model,
            f"{score.passed}/{score.n}",
            f"{score.accuracy:.0%}",
            f"{score.interval.low:.0%} to {score.interval.high:.0%}",
            "–" if score.seconds_per_solved is None else f"{score.seconds_per_solved:.2g}",
            "unavailable" if score.joules_per_solved is None else f"{score.joules_per_solved:.2g}",
            f"{score.errors} without an answer" if score.errors else "",
        )
        for score in found
    ]


def sentences(found: Sequence[Difference]) -> list[str]:
    """One for each pair in each suite."""
    return [_sentence(pair) for pair in found]


def _sentence(pair: Difference) -> str:
    place = f"{pair.suite} ({pair.language})"
    counts = f"{pair.only_a} items only {pair.a}, {pair.only_b} only {pair.b}, of {pair.n}; p = {pair.adjusted_p:.2g}"
    if not pair.shown:
        return f"{place}: {pair.a} and {pair.b}: no difference shown ({counts})"
    better, worse = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
    low, high = pair.interval.low, pair.interval.high
    if pair.difference < 0:
        low, high = -high, -low
    size = f"by {abs(pair.difference):.0%}, {low:.0%} to {high:.0%}"
    return f"{place}: {better} solves more than {worse}, {size} of the items ({counts})"


def errors(results: Sequence[ItemResult]) -> dict[str, str]:
    """The first error of each model that had one."""
    found: dict[str, str] = {}
    for result in results:
        if result.error is not None:
            found.setdefault(result.model, result.error)
    return found


def document(
    run: Run, candidates: Sequence[CandidateRow], results: Sequence[ItemResult], interrupted: bool
) -> dict[str, object]:
    """Everything, as plain data for JSON: the run, what each model was, scores, differences, raw results."""
    return {
        "definitions": DEFINITIONS,
        "run": msgspec.to_builtins(run),
        "candidates": msgspec.to_builtins(candidates),
        "interrupted": interrupted,
        "scores": msgspec.to_builtins(scores(results)),
        "differences": [msgspec.to_builtins(pair) | {"shown": pair.shown} for pair in differences(results)],
        "results": msgspec.to_builtins(results),
    }
