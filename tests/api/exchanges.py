"""Requests as they are known at their end, for those who report them."""

from __future__ import annotations

from localfoundry.api.exchange import Exchange


def exchange(**fields: object) -> Exchange:
    """A streamed answer of 11 tokens: 1 s in the queue, first token after 2 s, then 0.1 s a token."""
    known: dict[str, object] = {
        "arrived": 100.0, "granted": 101.0, "first": 102.0, "last": 103.0, "ended": 103.0, "status": 200,
        "model": "m:1", "endpoint": "/v1/chat/completions", "stream": True,
        "prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 11,
    }  # fmt: skip
    return Exchange("id", "POST", "/v1/chat/completions", **(known | fields))  # type: ignore[arg-type]
