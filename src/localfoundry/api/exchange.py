"""What is known of one HTTP request, from its arrival to its end: for metrics, logs, traces and limits.

`app.py` makes one per request and tells every observer at its end; whoever handles the request in between fills in
what it learns. Times are seconds on the monotonic clock; None: it did not come to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

from localfoundry.errors import FoundryError

_KEY = "foundry.exchange"
_TRACE_PARENT = b"traceparent"


@dataclass(slots=True)
class Exchange:
    """One request. Tokens are the engine's own counts; `prompt_tokens` includes `cached_tokens`."""

    request_id: str
    method: str
    path: str
    arrived: float = field(default_factory=time.monotonic)
    endpoint: str = "other"  # template of the path, from the routes: a bounded set, unlike `path`
    trace_parent: str | None = None  # W3C trace context, as the client sent it
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

    def failed(self, error: FoundryError) -> dict[str, object]:
        """Note the error that the request ended with; returns it as the client gets it, under the request's id."""
        if self.outcome != "cancelled":
            self.outcome = error.code
        body = error.to_openai()
        told = body["error"]
        assert isinstance(told, dict)
        told["request_id"] = self.request_id
        return body


Observer = Callable[[Exchange], None]

_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def begin(scope: Scope, request_id: str) -> Exchange:
    exchange: Exchange = Exchange(request_id, scope["method"], scope["path"])
    for name, value in scope["headers"]:
        if name == _TRACE_PARENT:
            exchange.trace_parent = value.decode("latin-1")
    scope[_KEY] = exchange
    _current.set(exchange)  # each request has a context of its own
    return exchange


def current() -> Exchange | None:
    """The request that this code runs for. None outside of one, and in tasks that outlive the one they began in."""
    exchange = _current.get()
    return exchange if exchange is not None and exchange.ended is None else None


def of(scope: Scope) -> Exchange:
    """The exchange of a request that came through the application."""
    exchange: Exchange = scope[_KEY]
    return exchange
