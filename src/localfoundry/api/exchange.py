"""What is known of one HTTP request, from its arrival to its end: for metrics, logs, traces and limits.

`app.py` makes one per request and tells every observer at its end; whoever handles the request in between fills in
what it learns. Times are seconds on the monotonic clock; None: it did not come to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

_KEY = "foundry.exchange"


@dataclass(slots=True)
class Exchange:
    """One request. Tokens are the engine's own counts; `prompt_tokens` includes `cached_tokens`."""

    request_id: str
    method: str
    path: str
    arrived: float = field(default_factory=time.monotonic)
    key: str | None = None  # name of the API key it came with
    model: str | None = None  # id of the version that answers
    stream: bool = False
    granted: float | None = None  # when it left the queue for the worker
    first: float | None = None  # first event or body of the worker's answer
    last: float | None = None
    ended: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    status: int = 0  # of the HTTP answer; 0 where the client left before there was one
    outcome: str = "ok"  # the code of the error it ended with, also inside a stream; `cancelled` where the client left


Observer = Callable[[Exchange], None]


def begin(scope: Scope, request_id: str) -> Exchange:
    exchange: Exchange = Exchange(request_id, scope["method"], scope["path"])
    scope[_KEY] = exchange
    return exchange


def of(scope: Scope) -> Exchange:
    """The exchange of a request that came through the application."""
    exchange: Exchange = scope[_KEY]
    return exchange
