"""How long a measurement will still take, from how long its parts took so far. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


class Pace:
    """Parts are known by a key: a candidate under a condition takes about as long each round."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, list[float]] = {}

    def took(self, key: Hashable, seconds: float) -> None:
        self._seen.setdefault(key, []).append(seconds)

    def left_s(self, keys: Sequence[Hashable]) -> float | None:
        """Seconds for one more of each of `keys`; None before the first was done.

        A key that was never seen is taken to last as long as the average of those that were.
        """
        if not self._seen:
            return None
        means = {key: sum(times) / len(times) for key, times in self._seen.items()}
        typical = sum(means.values()) / len(means)
        return sum(means.get(key, typical) for key in keys)
