"""Figures of a prospect in words, each with its source and its interval."""

from __future__ import annotations

from collections.abc import Callable

from localfoundry.advice.prospects import Prospect
from localfoundry.fit.interval import Interval
from localfoundry.units import format_bytes

READING = frozenset({"embeddings", "rerank"})  # tasks whose models read and write nothing


def speed(task: str, prospect: Prospect) -> Interval | None:
    """Tokens/s: written, or read where the task is only to read."""
    return prospect.prefill if task in READING else prospect.decode


def told(interval: Interval, form: Callable[[float], str], unit: str = "") -> str:
    """`12 tokens/s predicted (6.0 to 24)`; the unit is said once."""
    return f"{form(interval.value)}{unit} {interval.source} ({form(interval.low)} to {form(interval.high)})"


def told_rate(interval: Interval) -> str:
    return told(interval, number, " tokens/s")


def told_bytes(interval: Interval) -> str:
    return told(interval, lambda size: format_bytes(int(size)))


def rate(value: float) -> str:
    return f"{number(value)} tokens/s"


def number(value: float) -> str:
    """Three digits at least, without an exponent: 0.25, 8.1, 31.5, 1234."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """`250ms`, `2.5s`: as `--max-ttft` reads it."""
    return f"{number(value * 1000)}ms" if value < 1 else f"{number(value)}s"
