"""What the votes say, as table and document: strengths with intervals, agreement, and whether there is a winner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from localfoundry.cli import output
from localfoundry.cli.plain import plain
from localfoundry.quality.ranking import FEWEST_ITEMS, MOST_VOTES, Ranking
from localfoundry.quality.ratings import Verdict

METHOD = (
    "Strengths: Bradley and Terry with Davidson's ties, in logits, mean 0; intervals: 95 %, profile likelihood. "
    "A winner needs an interval without 0 against every other model. The number of votes still needed is an estimate: "
    "for a chance of 80 %, if the difference is as large as it looks now."
)


def document(people: Sequence[Verdict], judges: Sequence[Verdict]) -> dict[str, Any]:
    """Judges stand apart from people."""
    return {
        "method": METHOD,
        "people": [_document(verdict) for verdict in people],
        "judges": [_document(verdict) for verdict in judges],
    }


def _document(verdict: Verdict) -> dict[str, Any]:
    ranking = verdict.ranking
    found: dict[str, Any] = msgspec.to_builtins(verdict)
    found["ranking"]["winner"] = ranking.winner
    found["ranking"]["more_votes"] = ranking.more_votes
    for document, difference in zip(found["ranking"]["differences"], ranking.differences, strict=True):
        document["shown"] = difference.shown
    return found


def show(people: Sequence[Verdict], judges: Sequence[Verdict]) -> None:
    if not people and not judges:
        output.data("No votes yet")
        return
    for verdict in people:
        who = f"{len(verdict.raters)} raters" if len(verdict.raters) > 1 else plain(verdict.raters[0])
        _show(verdict, f"{verdict.criterion}: {verdict.ranking.votes} votes by {who}")
    for verdict in judges:
        assert verdict.itself is not None
        part = verdict.itself.share
        _show(verdict, f"{verdict.criterion}: {part.n} pairs by the model {plain(verdict.itself.judge)}, not a person")
        output.data(f"  contradicted itself when the answers changed places: {part.count} of {part.n}, counted as ties")
        output.data()
    output.data(output.dim(METHOD))


def _show(verdict: Verdict, title: str) -> None:
    output.data(title)
    rows = [
        [plain(s.model), f"{s.value:+.2f}", f"{s.interval.low:+.2f} to {s.interval.high:+.2f}", str(s.votes)]
        for s in verdict.ranking.strengths
    ]
    output.table(["Model", "Strength", "95 % interval", "Votes"], rows, prefix="  ")
    output.data(f"  {conclusion(verdict.ranking)}")
    if verdict.shown_first is not None and not verdict.shown_first.low <= 0.5 <= verdict.shown_first.high:
        part = verdict.shown_first
        output.data(f"  place mattered: the answer shown first got {part.count} of {part.n} votes that were no tie")
    for one in verdict.agreements:
        output.data(f"  {agreement(one.first, one.second, one.kappa)}")
    output.data()


def conclusion(ranking: Ranking) -> str:
    """One sentence: the winner, or how far away one is."""
    if ranking.winner is not None:
        return f"winner: {plain(ranking.winner)}"
    items = min((d.items for d in ranking.differences), default=0)
    best = ranking.strengths[0].model if ranking.strengths else ""
    rivals = [d for d in ranking.differences if d.a == best and not d.shown]
    if ranking.more_votes is None:
        return f"no winner yet, and no difference that {MOST_VOTES:,} more votes would likely show"
    closest = max(rivals, key=lambda d: d.more_votes or 0).b if rivals else ""
    few = f" (none is named on fewer than {FEWEST_ITEMS} prompts)" if items < FEWEST_ITEMS else ""
    return (
        f"no winner yet: about {ranking.more_votes:,} more votes between {plain(best)} and {plain(closest)}, "
        f"each on another prompt{few}"
    )


def agreement(first: str, second: str, kappa: Any) -> str:
    names = f"{plain(first)} and {plain(second)}"
    if kappa.value is None:
        return f"{names} always chose the same on {kappa.n} pairs: kappa is not defined"
    return (
        f"{names} on {kappa.n} pairs: Cohen's kappa {kappa.value:.2f} "
        f"(95 % interval {kappa.low:.2f} to {kappa.high:.2f})"
    )
