"""Which candidates are measured in turns: those that the machine holds beside each other.

Where memory is too small for all, asking them in turns would load a model anew for every request, and the load would be
in its times. What has no place beside the others is measured after them, by itself, and that is said of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from localfoundry.bench.outcome import Outcome

Resident = Callable[[], Awaitable[Collection[str]]]
"""The labels of local candidates that are loaded now."""


async def in_turns(outcomes: Sequence[Outcome], resident: Resident | None) -> list[list[Outcome]]:
    """Groups in the order of measuring; `apart` is set in all but the first. Without `resident` all are one group.

    Call it when all were loaded. Candidates that are one load of one model, such as two lengths of answers, stay
    together; those that failed and those elsewhere take no memory.
    """
    labels = await resident() if resident is not None else None
    first: list[Outcome] = []
    later: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        candidate = outcome.candidate
        if labels is None or candidate.endpoint is not None or outcome.error or candidate.label in labels:
            first.append(outcome)
        else:
            outcome.apart = True
            later.setdefault((candidate.model, str(candidate.settings)), []).append(outcome)
    return [group for group in (first, *later.values()) if group]
