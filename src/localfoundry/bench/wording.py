"""Figures as a person reads them: about three digits, an interval in brackets, a dash for what was not measured."""

from __future__ import annotations

from localfoundry.bench.stats import Interval, Summary

NONE = "–"


def number(value: float) -> str:
    """About three digits: 0.0042, 0.04, 4.21, 42.1, 421."""
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def about(seconds: float) -> str:
    """About two digits, as after a tilde: 0.42, 2.1, 12, 120."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def spread(summary: Summary | None, scale: float = 1) -> str:
    """The median with its interval."""
    if summary is None:
        return NONE
    return number(summary.median * scale) + bracketed(summary.median_interval, scale)


def mean_spread(summary: Summary | None) -> str:
    """The mean of runs with its interval."""
    return NONE if summary is None else number(summary.mean) + bracketed(summary.mean_interval)


def bracketed(interval: Interval | None, scale: float = 1) -> str:
    """Of something that cannot be below 0, as t does not know."""
    return f" ({number(max(interval.low, 0) * scale)}–{number(interval.high * scale)})" if interval else ""


def range_of(interval: Interval | None, unit: str = "") -> str:
    """As it stands in a sentence."""
    return f", 95 % {number(max(interval.low, 0))} to {number(interval.high)}{unit}" if interval else ""
