"""How many tokens a request took, from the engine's own words at the end of its stream.

llama.cpp says it in two ways: `timings` in the last event of each choice, and `usage`, which for several choices or
prompts counts only one of them, and takes the place of the choices' timings where it was asked for. So several answers
are asked for without `usage`, and theirs is put together here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from localfoundry.api.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; `cached` is the part of `prompt` that needed no work."""

    prompt: int
    cached: int
    completion: int

    def to_openai(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def note(self, known: Exchange) -> None:
        known.prompt_tokens, known.cached_tokens, known.completion_tokens = self.prompt, self.cached, self.completion


def of_events(blocks: Iterable[bytes], choices: int = 1, answers: int = 1) -> Usage | None:
    """The tokens that events of a stream tell; None where they do not. `choices` of each prompt, `answers` in all."""
    timings: list[dict[str, Any]] = []
    usage: dict[str, Any] | None = None
    for event in decoded(blocks):
        if isinstance(event.get("usage"), dict):
            usage = event["usage"]
        if isinstance(event.get("timings"), dict):
            timings.append(event["timings"])
    if timings and (answers > 1 or usage is None):
        return of_timings(timings, choices)
    return None if usage is None else of_object(usage)


def decoded(blocks: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """The events of some blocks that are JSON objects."""
    for block in blocks:
        for line in block.split(b"\n"):
            if line.startswith(b"data: {"):
                try:
                    event = msgspec.json.decode(line[len(b"data: ") :])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue
                if isinstance(event, dict):
                    yield event


def of_object(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(_count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens")))


def of_timings(timings: list[dict[str, Any]], choices: int = 1) -> Usage:
    """One entry for each choice of each prompt; choices share a prompt, and what one of them worked out."""
    cached = sum(_count(one.get("cache_n")) for one in timings)
    prompt = sum(_count(one.get("cache_n")) + _count(one.get("prompt_n")) for one in timings)
    completion = sum(_count(one.get("predicted_n")) for one in timings)
    return Usage(prompt // choices, cached // choices, completion)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
