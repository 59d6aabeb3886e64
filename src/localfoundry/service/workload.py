"""What models are used for, seen by their requests: one at a time, or many at once.

The best engine for one conversation is not the best one for many (docs/engines.md), and whoever left `profile` at
`auto` has not said which it is. So it is seen: the next load of a model takes the profile that its last requests had.
"""

from __future__ import annotations

from collections import deque

LOOKED_AT = 32  # requests of a model: older ones count no more
MANY = 4  # at once, from where `throughput` is measured to be the better profile


class Workload:
    """Of one service, for as long as it runs."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[int]] = {}  # how many requests its model had, as each came, itself included

    def note(self, model_id: str, at_once: int) -> None:
        self._seen.setdefault(model_id, deque(maxlen=LOOKED_AT)).append(at_once)

    def profile(self, model_id: str) -> str | None:
        """`chat` or `throughput`, by what most of the last requests were; None before there are enough of them."""
        seen = self._seen.get(model_id, ())
        if len(seen) < LOOKED_AT:
            return None
        many = sum(at_once >= MANY for at_once in seen)
        return "throughput" if 2 * many > len(seen) else "chat"
