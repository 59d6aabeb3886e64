"""Results in words and documents: the table, what may be said of two models, and everything as plain data.

There is no single number over all suites: a mean of chat and code would hide what a person has to choose by. Values
in, text and plain data out; printing is the command line's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from localfoundry.quality.cost import Spent, priced, spent
from localfoundry.quality.results import ItemResult
from localfoundry.quality.score import Difference, Score, differences, scores
from localfoundry.results.rows import CandidateRow, Run

DEFINITIONS = {
    "accuracy": "items passed / items asked; an item without an answer counts as not passed; interval: Wilson, 95 %",
    "difference": "accuracy of one model - of the other over items that both answered; exact McNemar test, two-sided, "
    "corrected for all comparisons of the run (Holm), level 5 %; interval: Bonett and Price, 95 %, not corrected",
    "s per solved": "time of all requests / items passed, s; one request at a time",
    "J per solved": "energy of this machine during all requests, less idle / items passed, J; unavailable where no "
    "counter is read, and for endpoints",
}
_COST = (
    "(prompt tokens x price in + output tokens x price out) / 1,000,000 of all answers / items asked, and / items "
    "passed; cached tokens at the full price; what was not answered counts as far as the server counted it"
)
COLUMNS = ("Suite", "Language", "Model", "Passed", "Accuracy", "95 % interval", "s per solved", "J per solved", "Note")


def definitions(candidates: Sequence[CandidateRow]) -> dict[str, str]:
    """What the columns mean; that of a cost only where somebody has a price."""
    return DEFINITIONS | ({"cost": _COST} if any(map(priced, candidates)) else {})


def table(
    found: Sequence[Score], costs: Mapping[tuple[str, str, str], Spent], currency: str = ""
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Names of the columns, and their cells. Costs stand before the note, where there are any."""
    if not costs:
        return COLUMNS, rows(found)
    names = [f"{name} {currency}".strip() for name in ("Cost/1,000", "Cost per solved")]
    cells = []
    for score, row in zip(found, rows(found), strict=True):
        known = costs.get((score.model, score.suite, score.language))
        told = (_amount(known.per_item * 1000), _amount(known.per_solved)) if known else ("–", "–")
        cells.append((*row[:-1], *told, row[-1]))
    return (*COLUMNS[:-1], *names, COLUMNS[-1]), cells


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
            _amount(score.seconds_per_solved),
            "unavailable" if score.joules_per_solved is None else _amount(score.joules_per_solved),
            f"{score.errors} without an answer" if score.errors else "",
        )
        for score in found
    ]


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if value < 100 else f"{value:.0f}"


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


def remarks(results: Sequence[ItemResult]) -> list[str]:
    """The first error of each model that had one, and by which names endpoints say that others answered."""
    errors: dict[str, str] = {}
    names: dict[str, dict[str, None]] = {}
    for result in results:
        if result.error is not None:
            errors.setdefault(result.model, result.error)
        if result.answered_as is not None:
            names.setdefault(result.model, {})[result.answered_as] = None
    return [f"{model}: {error}" for model, error in errors.items()] + [
        f"{model}: the endpoint says that {', '.join(found)} answered" for model, found in names.items()
    ]


def document(
    run: Run, candidates: Sequence[CandidateRow], results: Sequence[ItemResult], interrupted: bool
) -> dict[str, object]:
    """Everything, as plain data for JSON: the run, what each model was, scores, differences, raw results."""
    return {
        "definitions": definitions(candidates),
        "run": msgspec.to_builtins(run),
        "candidates": msgspec.to_builtins(candidates),
        "interrupted": interrupted,
        "scores": msgspec.to_builtins(scores(results)),
        "costs": msgspec.to_builtins(list(spent(results, candidates).values())),
        "differences": [msgspec.to_builtins(pair) | {"shown": pair.shown} for pair in differences(results)],
        "results": msgspec.to_builtins(results),
    }
