"""Which models to unload, and when: pure decisions over what is loaded. `service.py` carries them out.

One model at a time unless the caller asks to retain the others. A model that is answering is never unloaded: it is
drained first, and while it drains it takes no new work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a decision needs to know of one model. Times in seconds on one monotonic clock."""

    id: str
    in_flight: int
    last_used: float
    ttl_s: float  # 0: never unloaded for being idle


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new work, wait for the answers in flight, then unload."""

    id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload now: nothing is in flight."""

    id: str


def make_room(loaded: Iterable[Loaded], wanted: str, *, retain: bool) -> list[Drain | Unload]:
    """What has to go before `wanted` is loaded; nothing where the caller retains the others. Idle ones go first."""
    if retain:
        return []
    others = sorted((m for m in loaded if m.id != wanted), key=lambda m: (m.in_flight > 0, m.last_used))
    return [Drain(m.id) if m.in_flight else Unload(m.id) for m in others]


def expired(loaded: Iterable[Loaded], now: float) -> list[Unload]:
    """Models that were idle for longer than their time to live."""
    return [Unload(m.id) for m in loaded if m.ttl_s > 0 and m.in_flight == 0 and now - m.last_used >= m.ttl_s]


def next_expiry(loaded: Iterable[Loaded]) -> float | None:
    """When `expired` will next have something to say, if nothing else happens until then."""
    return min((m.last_used + m.ttl_s for m in loaded if m.ttl_s > 0 and m.in_flight == 0), default=None)
