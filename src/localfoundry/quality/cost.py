"""What answers of priced models cost, per task and per solved task. Pure: results and prices in, values out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from localfoundry.chat.cost import cost
from localfoundry.quality.results import ItemResult
from localfoundry.results.rows import CandidateRow


class Spent(msgspec.Struct, frozen=True):
    """One model in one suite, in the currency of its prices; `per_solved` is None where nothing was solved.

    Failures cost too. What was not answered counts as far as the server counted it: nothing for a refusal.
    """

    model: str
    suite: str
    language: str
    total: float
    per_item: float
    per_solved: float | None


def priced(row: CandidateRow) -> bool:
    """Whether its answers have a price."""
    return row.price_in is not None or row.price_out is not None


def spent(results: Sequence[ItemResult], candidates: Sequence[CandidateRow]) -> dict[tuple[str, str, str], Spent]:
    """By model, suite and language; without those whose prices are not known, or whose answers were not counted."""
    rows = {row.label: row for row in candidates if priced(row)}
    groups: dict[tuple[str, str, str], list[ItemResult]] = {}
    for result in results:
        if result.model in rows:
            groups.setdefault((result.model, result.suite, result.language), []).append(result)
    found = {}
    for key, group in groups.items():
        row = rows[key[0]]
        costs = [cost(r.prompt_tokens, r.tokens, row.price_in, row.price_out) for r in group]
        if any(one is None and r.error is None for one, r in zip(costs, group, strict=True)):
            continue
        total = sum(one or 0.0 for one in costs)
        solved = sum(r.passed for r in group)
        found[key] = Spent(*key, total, total / len(group), total / solved if solved else None)
    return found
