"""Checks on the words of an answer. Each returns the reason why it fails, or None.

They forgive what is beside the point, case, quotes, a full stop, bold type, and nothing else. Patterns of suites run in
the engine of `jsonschema_rs`, as JSON Schema's own do: its time is linear in the text whatever the pattern, and a
pattern that would need a large automaton is refused. Python's `re` has no such bound.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

from localfoundry.errors import InvalidSuite
from localfoundry.quality.suite import Contains, Length, Numeric

PATTERN_BYTES = 2_000_000  # of a compiled pattern; one of a thousand characters takes about 100 KB
_SHOWN = 80
_DECORATION = " \t\n\r*_`\"'“”„«»’‘"
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-−])?(?<![\w.,])(?:\d{1,3}(?:[.,' \u00a0\u202f]\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)?)"
)
_MARK = re.compile(r"(?i)\b(?:answer|svar|svaret|result|resultat|facit)\W{0,6}[:=]|\\boxed\{|####")
_BULLET = re.compile(r"\s*(?:[-*•+–]|\d{1,3}[.)])\s+\S")
# How refusals begin. A list of phrases and not a judge: an answer that refuses in other words is missed.
_REFUSAL = re.compile(
    r"(?i)\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:'t|not)|won't|will not|must decline|do not feel)|"
    r"(?:can(?:'t|not)|unable to|not able to) (?:help|assist|comply|provide|do that|fulfil|support)|"
    r"(?:not|never) (?:appropriate|okay|ethical)|"
    r"(?:jeg )?beklager|desværre|(?:jeg (?:kan|vil|må)|(?:kan|vil|må) jeg) (?:desværre )?ikke|jeg er ikke i stand til|"
    r"afviser|ikke muligt for mig)"
)
_REFUSAL_WITHIN = 300  # characters: whoever refuses says so at the beginning


def exact(wanted: str | list[str], text: str) -> str | None:
    """The whole answer is one of the texts."""
    accepted = [wanted] if isinstance(wanted, str) else wanted
    if folded(text) in {folded(one) for one in accepted}:
        return None
    return f"not exactly {' or '.join(map(repr, accepted))}: {shown(text)}"


def contains(wanted: str | list[str] | Contains, text: str) -> str | None:
    if not isinstance(wanted, Contains):
        wanted = Contains(all=[wanted] if isinstance(wanted, str) else wanted)
    spaced = _SPACE.sub(" ", text.replace("’", "'").replace("*", ""))
    if missing := [one for one in wanted.all if not _has(one, spaced)]:
        return f"does not contain {', '.join(map(repr, missing))}: {shown(text)}"
    if wanted.any and not any(_has(one, spaced) for one in wanted.any):
        return f"contains none of {', '.join(map(repr, wanted.any))}: {shown(text)}"
    if found := [one for one in wanted.none if _has(one, spaced)]:
        return f"contains {', '.join(map(repr, found))}: {shown(text)}"
    return None


def _has(needle: str, text: str) -> bool:
    """Whole words: `4` is not in `14`. With `*` at its end, any ending will do."""
    stem = needle.removesuffix("*")
    start = r"(?<!\w)" if stem[:1].isalnum() else ""
    end = r"(?!\w)" if stem == needle and stem[-1:].isalnum() else ""
    return re.search(start + re.escape(_SPACE.sub(" ", stem)) + end, text, re.IGNORECASE) is not None


def regex(pattern: str, text: str) -> str | None:
    if matcher(pattern).is_valid(text):
        return None
    return f"does not match {pattern!r}: {shown(text)}"


@functools.lru_cache(maxsize=256)
def matcher(pattern: str) -> Any:
    """Raises InvalidSuite for what is no pattern there: look-around and back references are not to be had."""
    import jsonschema_rs

    options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
    try:
        return jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=options, offline=True)
    except jsonschema_rs.ValidationError as exc:
        raise InvalidSuite(f"the pattern {pattern[:_SHOWN]!r} is not valid, or needs too much memory") from exc


def numeric(wanted: float | Numeric, text: str) -> str | None:
    """The number after `Answer:` or the like, else the last one in the text."""
    if not isinstance(wanted, Numeric):
        wanted = Numeric(value=wanted)
    marks = list(_MARK.finditer(text))
    found = _NUMBER.findall(text[marks[-1].end() :])[:1] if marks else []
    found = found or _NUMBER.findall(text)[-1:]
    if not found:
        return f"holds no number: {shown(text)}"
    room = max(wanted.tolerance, wanted.relative * abs(wanted.value), 1e-9 * max(abs(wanted.value), 1))
    if any(math.isfinite(value) and abs(value - wanted.value) <= room for value in readings(found[0])):
        return None
    return f"{found[0]} is not {wanted.value:g}" + (f" ± {room:g}" if room > 1e-6 * abs(wanted.value) else "")


def readings(number: str) -> set[float]:
    """What a written number can mean: `1.250` is 1250 in Danish and 1.25 in English, and models mix them."""
    plain = re.sub(r"[' \u00a0\u202f]", "", number.replace("−", "-"))
    dots, commas = plain.count("."), plain.count(",")
    if dots and commas:
        decimal = max(".,", key=plain.rfind)
        other = "," if decimal == "." else "."
        return {float(plain.replace(other, "").replace(decimal, "."))} if plain.count(decimal) == 1 else set()
    mark = "." if dots else ","
    whole = float(plain.replace(mark, ""))
    if dots + commas > 1:
        return {whole}
    decimal_reading = float(plain.replace(mark, "."))
    grouped = len(plain.rpartition(mark)[2]) == 3
    return {whole, decimal_reading} if grouped else {decimal_reading}


def length(wanted: Length, text: str) -> str | None:
    words = len(text.split())
    lines = [line for line in text.splitlines() if line.strip()]
    bullets = sum(_BULLET.match(line) is not None for line in lines)
    for count, low, high, what in (
        (words, wanted.min_words, wanted.max_words, "words"),
        (len(lines), wanted.min_lines, wanted.max_lines, "lines"),
        (bullets, wanted.bullets, wanted.bullets, "list entries"),
    ):
        if low is not None and count < low:
            return f"{count} {what}, at least {low} were asked for"
        if high is not None and count > high:
            return f"{count} {what}, at most {high} were asked for"
    return None


def refusal(wanted: bool, text: str) -> str | None:
    refused = not text.strip() or _REFUSAL.search(text[:_REFUSAL_WITHIN].replace("’", "'")) is not None
    if refused == wanted and text.strip():
        return None
    return f"{'does not refuse' if wanted else 'refuses'}: {shown(text)}"


def folded(text: str) -> str:
    """As two texts are compared: one case, single spaces, no decoration around it and no full stop."""
    plain = _SPACE.sub(" ", text.replace("’", "'")).strip(_DECORATION)
    return plain.rstrip(".!").strip(_DECORATION).casefold()


def shown(text: str) -> str:
    short = _SPACE.sub(" ", text).strip()
    return repr(short[:_SHOWN] + ("…" if len(short) > _SHOWN else "")) if short else "there is no answer"
