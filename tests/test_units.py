"""Quantities: what is printed can be read again, and what cannot be read is refused with the accepted forms."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry.units import MOST_TOKENS, format_bytes, format_duration, format_timespan, parse_bytes, parse_tokens


@given(st.integers(0, 10**16))
def test_a_printed_size_reads_back_within_its_rounding(size: int) -> None:
    again = parse_bytes(format_bytes(size))
    assert abs(again - size) <= max(size * 0.051, 0)


@given(st.integers(0, 10**16))
def test_a_bare_number_is_bytes(size: int) -> None:
    assert parse_bytes(str(size)) == size


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    """`parse_bytes("1e999")` once ended in an OverflowError."""
    try:
        assert parse_bytes(text) >= 0
    except ValueError as exc:
        assert "size" in str(exc)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("512 MiB", 2**29), ("0", 0), ("1.5kB", 1500), (" 2 tb ", 2 * 10**12), ("1,000", 1000)],
)
def test_accepted_forms(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "4 parsecs", "nan", "inf", "1e999", "0x10", "1..2"])
def test_refused_forms(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "unknown"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (999_990, "1.0 MB"),
     (2_500_000_000_000, "2.5 TB")],
)  # fmt: skip
def test_sizes_in_words(size: int | None, words: str) -> None:
    assert format_bytes(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 ms"), (0.34, "340 ms"), (0.9999, "1.0 s"), (4.21, "4.2 s"), (59.97, "1 min 0 s"), (185, "3 min 5 s"),
     (7440, "2 h 4 min")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@given(st.floats(0, 10**6))
def test_a_duration_never_shows_a_full_unit_as_its_fraction(seconds: float) -> None:
    words = format_duration(seconds)
    assert not re.search(r"\b(1000 ms|60(\.0)? s|60 min)\b", words)


@given(st.floats(0, 359_999))
def test_a_timespan_has_the_form_that_scripts_read(seconds: float) -> None:
    found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)\.(\d{7})", format_timespan(seconds))
    assert found
    hours, minutes, whole, ticks = (int(part) for part in found.groups())
    assert hours * 3600 + minutes * 60 + whole + ticks / 10_000_000 == pytest.approx(seconds, abs=1e-6)


def test_the_timespan_of_the_documentation() -> None:
    assert format_timespan(5.6293161) == "00:00:05.6293161"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("8k", 8192), ("32768", 32768), ("128K", 131072), ("1M", 2**20), ("4,096", 4096), (" 1.5k ", 1536), ("1", 1)],
)
def test_a_context_is_read_as_models_are_named(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@given(st.text(max_size=20) | st.from_regex(r"[0-9.,]{1,12} ?[kKmMgG]?", fullmatch=True))
def test_any_text_is_a_number_of_tokens_within_its_limits_or_a_value_error(text: str) -> None:
    try:
        assert 1 <= parse_tokens(text) <= MOST_TOKENS
    except ValueError as exc:
        assert "write for example" in str(exc) or "4,194,304" in str(exc)
