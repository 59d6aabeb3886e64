"""How much a key may use: at most so many requests and tokens in any sixty seconds.

Uses are counted per second, in at most 62 numbers a window, so a window costs the same for one request a minute and for
ten thousand a second. A second counts until all of it is more than a minute old: the limit holds for any sixty seconds,
wherever they begin, at the price of being up to one second stricter. Tokens are known when an answer is complete; what
was admitted before that may go over the limit, and the window then stays closed until it is back under it. The counts
are in memory, so a restart of the service begins anew.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WINDOW_S = 60
_KEPT_S = WINDOW_S + 1


class Window:
    """Uses of the last minute against a limit. Times are seconds of any clock that never goes back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._seconds: deque[tuple[int, int]] = deque()  # second, uses in it; the oldest first
        self._used = 0

    def used(self, now: float) -> int:
        while self._seconds and self._seconds[0][0] + _KEPT_S <= now:
            self._used -= self._seconds.popleft()[1]
        return self._used

    def left(self, now: float) -> int:
        return max(self.limit - self.used(now), 0)

    def add(self, now: float, amount: int) -> None:
        self.used(now)
        second = math.floor(now)
        if self._seconds and self._seconds[-1][0] >= second:
            second, before = self._seconds.pop()
            self._seconds.append((second, before + amount))
        else:
            self._seconds.append((second, amount))
        self._used += amount

    def opens_in_s(self, now: float) -> float:
        """Seconds until there is room for one more; 0 where there is."""
        over = self.used(now) - self.limit
        for second, amount in self._seconds:
            if over < 0:
                break
            over -= amount
            if over < 0:
                return second + _KEPT_S - now
        return 0.0

    def empty_in_s(self, now: float) -> float:
        """Seconds until nothing counts any more, where nothing is added."""
        self.used(now)
        return self._seconds[-1][0] + _KEPT_S - now if self._seconds else 0.0


@dataclass(slots=True)
class Meter:
    """What one key has used; a window is None where the key has no such limit."""

    requests: Window | None
    tokens: Window | None

    def closed_for_s(self, now: float) -> float:
        """Seconds until a request is admitted again; 0 where it is now."""
        return max((window.opens_in_s(now) for window in (self.requests, self.tokens) if window), default=0.0)

    def headers(self, now: float) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's API has them; `reset` is when the whole limit is there again."""
        lines: dict[str, str] = {}
        for what, window in (("requests", self.requests), ("tokens", self.tokens)):
            if window is not None:
                values = (("limit", window.limit), ("remaining", window.left(now)),
                          ("reset", f"{math.ceil(window.empty_in_s(now))}s"))  # fmt: skip
                lines |= {f"x-ratelimit-{word}-{what}": str(value) for word, value in values}
        return lines
