"""The ASGI application: routes behind their guards, request ids, and the one handler that answers errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfoundry.api import admin, download, exchange, foundry, metrics, openai, openapi
from localfoundry.api.counters import Counters
from localfoundry.api.exchange import Exchange, Observer
from localfoundry.api.gate import Authenticate, Gate
from localfoundry.api.scopes import guarded
from localfoundry.api.security import Cors, LocalOnly
from localfoundry.errors import FoundryError
from localfoundry.service.service import Service

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def create_app(
    service: Service, shutdown: Callable[[], None], observers: Sequence[Observer] = (), *, gate: Gate
) -> ASGIApp:
    """The application for one service. `shutdown` is called when a client asks the service to stop.

    Every observer is told of every request at its end; it must not block or raise.
    """
    counters = Counters()
    service.listeners.append(counters.happened)
    settings = service.settings
    guards = guarded(routes(service, shutdown, counters), gate)
    router = Router(guards, redirect_slashes=False, default=_not_found)
    local = LocalOnly(Authenticate(router, gate), settings.allowed_hosts, settings.allowed_origins)
    app = ErrorShape(local, [counters.ended, *observers, gate.spent])
    return Cors(app, settings.allowed_origins) if settings.allowed_origins else app


def routes(service: Service, shutdown: Callable[[], None], counters: Counters) -> list[Route]:
    """Every endpoint; each has its entry in `openapi.py` and in `scopes.py`."""
    return [
        *openai.routes(service),
        *foundry.routes(service),
        *download.routes(service),
        *admin.routes(service, shutdown),
        *metrics.routes(service, counters),
        *openapi.routes(),
    ]


class ErrorShape:
    """Outermost layer: every error leaves as `{"error": {...}}`, every answer carries a request id."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = ()) -> None:
        self.app = app
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["app"] = self  # the router then raises "method not allowed" and does not answer it in a form of its own
        request_id = _request_id(scope)
        known = exchange.begin(scope, request_id)
        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                known.status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, tagged)
        except Exception as exc:  # the one handler for HTTP
            answer = _answer(exc, scope, known)
            if started:
                raise  # nothing can be said any more; the server closes the connection
            await answer(scope, receive, tagged)
        finally:
            self._ended(known, scope.get("route"))

    def _ended(self, known: Exchange, route: Route | None) -> None:
        known.ended = time.monotonic()
        if route is not None:  # set by the router
            known.endpoint = route.path
        for observer in self.observers:
            observer(known)


def _request_id(scope: Scope) -> str:
    """The client's own X-Request-Id where it is sane, so that its log and ours can be read side by side."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)


def _answer(exc: Exception, scope: Scope, known: Exchange) -> JSONResponse:
    if isinstance(exc, FoundryError):
        return JSONResponse(known.failed(exc), status_code=exc.status, headers=exc.headers())
    if isinstance(exc, HTTPException):  # raised by the router: method not allowed
        message = f"{scope['method']} {scope['path']}: {exc.detail}"
        answer = _error(exc.status_code, message, "invalid_method", known)
        answer.headers.update(exc.headers or {})
        return answer
    log.error("request %s: %s %s failed", known.request_id, scope["method"], scope["path"], exc_info=exc)
    message = f"an error inside the service; its log names request {known.request_id}"
    return _error(500, message, "internal_error", known)


def _error(status: int, message: str, code: str, known: Exchange) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    known.outcome = code
    error = {"message": message, "type": kind, "param": None, "code": code, "request_id": known.request_id}
    return JSONResponse({"error": error}, status_code=status)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    answer = _error(404, f"there is no {request.url.path} here", "unknown_url", exchange.of(scope))
    await answer(scope, receive, send)
