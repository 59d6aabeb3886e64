"""Which scope each route needs: one table, and the guard that holds it.

The guard stands around the route itself and not before the router, so no spelling of a path reaches a route without
it. What is not in the table needs `admin`, and a test fails until it is put there on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfoundry.access import keys
from localfoundry.access.caller import Caller
from localfoundry.api import exchange
from localfoundry.api.gate import CALLER, Gate
from localfoundry.api.security import on_purpose
from localfoundry.errors import FoundryError, HostNotAllowed, InsufficientScope


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks of its caller: one of `scopes`, anyone where None. `changes`: written to the audit log."""

    scopes: frozenset[keys.Scope] | None
    changes: bool = False


PUBLIC = Access(None)
INFERENCE = Access(frozenset({"inference"}))
LOOK = Access(frozenset({"inference", "admin"}))
METRICS = Access(frozenset({"metrics", "admin"}))
ADMIN = Access(frozenset({"admin"}))
CHANGE = Access(frozenset({"admin"}), changes=True)

TABLE: dict[str, Access] = {
    "/health": PUBLIC,
    "/v1/health": PUBLIC,
    "/v1/chat/completions": INFERENCE,
    "/v1/completions": INFERENCE,
    "/v1/embeddings": INFERENCE,
    "/v1/chat/completions/tokenizer/encode/count": INFERENCE,
    "/v1/models": LOOK,
    "/v1/models/{name:path}": LOOK,
    "/foundry/list": LOOK,
    "/openai/status": LOOK,
    "/openai/models": LOOK,
    "/openai/loadedmodels": LOOK,
    "/openai/getgpudevice": LOOK,
    "/status": LOOK,
    "/openapi.json": LOOK,
    "/models/loaded": LOOK,
    "/metrics": METRICS,
    "/foundry/stats": METRICS,
    "/foundry/cache": ADMIN,
    "/foundry/ps": ADMIN,
    "/openai/load/{name:path}": CHANGE,
    "/openai/unload/{name:path}": CHANGE,
    "/openai/unloadall": CHANGE,
    "/openai/setgpudevice/{device:int}": CHANGE,
    "/openai/download": CHANGE,
    "/models/load/{name:path}": CHANGE,
    "/models/unload/{name:path}": CHANGE,
    "/foundry/load": CHANGE,
    "/foundry/unload": CHANGE,
    "/shutdown": CHANGE,
}


def guarded(routes: Iterable[Route], gate: Gate) -> list[Route]:
    """The same routes, each behind its guard."""
    guards = []
    for route in routes:
        route.app = _Guard(route.app, route.path, TABLE.get(route.path, CHANGE), gate)
        guards.append(route)
    return guards


class _Guard:
    """Raises InvalidApiKey, InsufficientScope, RateLimitExceeded, HostNotAllowed. What changes is audited."""

    def __init__(self, app: ASGIApp, path: str, access: Access, gate: Gate) -> None:
        self.app = app
        self.path = path
        self.access = access
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.access.scopes is None:
            await self.app(scope, receive, send)
            return
        caller: Caller = scope[CALLER]
        if self.access.changes:
            await self._audited(caller, scope, receive, send)
        else:
            await self._admitted(caller, scope, receive, send)

    async def _admitted(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.access.scopes is not None
        if not caller.scopes & self.access.scopes:
            if not caller.scopes:
                raise self.gate.wanted()
            raise InsufficientScope(
                f"{scope['method']} {self.path} needs the scope {' or '.join(sorted(self.access.scopes))}; "
                f"{'the API key ' + caller.name if caller.key else 'a caller without an API key'} has "
                f"{', '.join(sorted(caller.scopes))}",
                hint=f"foundry key create NAME --scope {min(self.access.scopes, key=keys.SCOPES.index)}",
            )
        if self.access.changes and scope["method"] in ("GET", "HEAD") and not on_purpose(scope):
            raise HostNotAllowed("nothing is changed by GET from a browser", hint="use POST, or a program")
        await self.app(scope, receive, self.gate.metered(caller, send))

    async def _audited(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        status, code = 0, None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admitted(caller, scope, receive, noted)
        except FoundryError as exc:
            status, code = exc.status, exc.code
            raise
        finally:
            known = exchange.of(scope)
            facts = {
                "request": known.request_id, "by": caller.name, "from": _address(scope), "path": known.path,
                "model": known.model, "status": status,
                "error": code or (None if known.outcome == "ok" else known.outcome),
            }  # fmt: skip
            if status in (401, 403, 429):
                self.gate.audit.refused(**facts)
            else:
                self.gate.audit.record(f"{scope['method']} {self.path}", **facts)


def _address(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None
