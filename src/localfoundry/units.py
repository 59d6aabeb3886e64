"""Quantities with their unit in the type, and their words, made only at the edge where a person reads them.

Sizes are decimal (1 GB = 1,000,000,000 bytes), as the model hubs and disk makers count; memory is printed the same
way, so that a file and the memory it needs can be compared by eye.
"""

from __future__ import annotations

import re
from typing import NewType

Bytes = NewType("Bytes", int)
Seconds = NewType("Seconds", float)
Tokens = NewType("Tokens", int)

_SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12,
               "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
_TOKEN_UNITS = {"": 1, "k": 2**10, "m": 2**20}  # as models are named: 128k is a context of 131,072 tokens
MOST_TOKENS = 2**22
_PRINTED_1000 = 999.95  # rounded as it will be printed: 999,990 bytes are 1.0 MB, not 1000.0 kB
_TIME_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def format_bytes(size: int | None) -> str:
    """`98.4 MB`; `unknown` for None."""
    if size is None:
        return "unknown"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if -_PRINTED_1000 < value < _PRINTED_1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def parse_bytes(text: str) -> Bytes:
    """`8GB`, `512 MiB` or a bare number of bytes. Raises ValueError with the accepted forms."""
    stripped = text.strip().lower().replace(",", "")
    digits = stripped.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = stripped[len(digits) :].strip()
    try:
        if unit not in _SIZE_UNITS:
            raise ValueError(unit)
        number = int(digits) if digits.isdecimal() else float(digits)  # a float holds whole numbers only up to 2^53
        size = int(number * _SIZE_UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size; write for example 500MB, 8GB or 4GiB") from None
    if size < 0:
        raise ValueError(f"{text!r} is negative; a size is at least 0")
    return Bytes(size)


def parse_tokens(text: str) -> Tokens:
    """`8k` (8,192), `32768`, `1M`: at least 1 and at most 4,194,304. Raises ValueError with the accepted forms."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(k|m|)", text.strip().lower().replace(",", ""))
    if match is None or (match[2] == "" and "." in match[1]):
        raise ValueError(f"{text!r} is not a number of tokens; write for example 8k, 32768 or 128k")
    tokens = int(float(match[1]) * _TOKEN_UNITS[match[2]])
    if not 1 <= tokens <= MOST_TOKENS:
        raise ValueError(f"{text!r} is {tokens:,} tokens; a context has from 1 to {MOST_TOKENS:,}")
    return Tokens(tokens)


def parse_duration(text: str) -> Seconds:
    """`30d`, `12h`, `2w`, `90min`, `45s`. Raises ValueError with the accepted forms."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|d|w)", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write for example 30d, 12h or 2w")
    return Seconds(float(match[1]) * _TIME_UNITS[match[2]])


def format_duration(seconds: float) -> str:
    """`340 ms`, `4.2 s`, `3 min 5 s`, `2 h 4 min`."""
    if round(seconds, 3) < 1:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_timespan(seconds: float) -> str:
    """`00:00:05.6293161`, the form that scripts written for Foundry Local read after `Time cost to load model:`."""
    ticks = round(seconds * 10_000_000)
    whole, fraction = divmod(ticks, 10_000_000)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}.{fraction:07d}"
