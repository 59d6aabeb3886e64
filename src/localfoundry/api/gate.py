"""Who asks: the caller of each request by its key, and what that key may still use this minute.

Where no key is required (loopback, unless `requireKey` is `always`), clients send whatever their SDK insists on, such
as `not-needed`, and that is ignored. What looks like one of our keys is checked everywhere: somebody whose key was
revoked must not go on as if nothing had happened. Guessing is not slowed down: of 2^256 secrets nobody tries many.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfoundry.access.audit import Audit
from localfoundry.access.bind import Bind
from localfoundry.access.caller import GUEST, LOCAL, NOBODY, OWNER, Caller
from localfoundry.access.keys import PREFIX, Key, KeyFile, Keyring
from localfoundry.access.limits import Meter, Window
from localfoundry.api import exchange
from localfoundry.api.exchange import Exchange
from localfoundry.api.security import CROSS_ORIGIN
from localfoundry.config import Settings
from localfoundry.errors import InvalidApiKey, RateLimitExceeded

CALLER = "foundry.caller"
_KEY_HEADERS = (b"api-key", b"x-api-key")


def caller_of(scope: Scope) -> Caller:
    """Who makes a request that came through the gate."""
    caller: Caller = scope[CALLER]
    return caller


class Gate:
    """The rules of one running service. Lives in its event loop."""

    def __init__(self, settings: Settings, bind: Bind) -> None:
        self.bind = bind
        self.audit = Audit(settings.log_dir)
        self._ring = Keyring(KeyFile(settings.keys_file))
        self._meters: dict[str, tuple[Key, Meter]] = {}  # by name; a new key of an old name begins anew
        self._without = NOBODY if bind.keys_required else GUEST if bind.insecure else LOCAL

    def caller(self, scope: Scope) -> Caller:
        """Raises InvalidApiKey for a key that is not good, BadKeyFile where no key can be checked."""
        sent = list(_sent(scope))
        ours = next((secret for secret in sent if secret.startswith(PREFIX)), None)
        if ours is None:
            if sent and self.bind.keys_required:
                raise InvalidApiKey("what was sent is not an API key of this service", hint="foundry key create NAME")
            if not self.bind.keys_required:
                self._ring.current()
            # A page whose origin is allowed may chat; for more than that it needs a key.
            return GUEST if self._without is LOCAL and scope.get(CROSS_ORIGIN) else self._without
        # Bytes, because `compare_digest` wants ASCII in texts.
        if hmac.compare_digest(ours.encode("utf-8", "replace"), self.bind.owner_token.encode()):
            return OWNER
        key = self._ring.find(ours, time.time())
        if key is None:
            raise InvalidApiKey("the API key is not known here, was revoked, or has expired", hint="foundry key list")
        return Caller(key.name, frozenset(key.scopes), key)

    def opened(self) -> None:
        """Note where the service listens, and for whom."""
        bind = self.bind
        self.audit.record(
            "service started", by="owner", address=bind.host, port=bind.port, tls=bind.tls,
            keys_required=bind.keys_required, insecure=bind.insecure,
        )  # fmt: skip

    def wanted(self) -> InvalidApiKey:
        return InvalidApiKey(
            "this service wants an API key: Authorization: Bearer lf_…", hint="foundry key create NAME"
        )

    def metered(self, caller: Caller, send: Send) -> Send:
        """Count a request, and return a `send` that tells what is left. Raises RateLimitExceeded."""
        meter = self._meter(caller.key) if caller.key else None
        if meter is None or caller.key is None:
            return send
        now = time.monotonic()
        wait_s = meter.closed_for_s(now)
        if wait_s > 0:
            raise _over(caller.key, meter, now, wait_s)
        if meter.requests is not None:
            meter.requests.add(now, 1)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                left = meter.headers(time.monotonic())
                message["headers"] = [
                    *message.get("headers", []), *((name.encode(), value.encode()) for name, value in left.items())
                ]  # fmt: skip
            await send(message)

        return told

    def _meter(self, key: Key) -> Meter | None:
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return None
        since, meter = self._meters.get(key.name, (None, None))
        if meter is None or since != key:
            known = {one.name for one in self._ring.current()}
            self._meters = {name: kept for name, kept in self._meters.items() if name in known}
            meter = Meter(
                Window(key.requests_per_minute) if key.requests_per_minute else None,
                Window(key.tokens_per_minute) if key.tokens_per_minute else None,
            )
            self._meters[key.name] = (key, meter)
        return meter

    def spent(self, known: Exchange) -> None:
        """Observer of every request: tokens count against the key once they are known."""
        tokens = (known.prompt_tokens or 0) + (known.completion_tokens or 0)
        if known.key in self._meters and tokens:
            window = self._meters[known.key][1].tokens
            if window is not None:
                window.add(time.monotonic(), tokens)


class Authenticate:
    """ASGI middleware: every request has its caller from here on."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                caller = self.gate.caller(scope)
            except InvalidApiKey:
                client = scope.get("client")
                known = exchange.of(scope)
                self.gate.audit.refused(
                    request=known.request_id, by="nobody", path=known.path, status=401,
                    **{"from": client[0] if client else None},
                )  # fmt: skip
                raise
            scope[CALLER] = caller
            if caller.key is not None:
                exchange.of(scope).key = caller.key.name
        await self.app(scope, receive, send)


def _sent(scope: Scope) -> Iterator[str]:
    """What the request shows as its key: `Authorization: Bearer`, `api-key` as Azure has it, or `x-api-key`."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, secret = value.partition(b" ")
            if kind.lower() == b"bearer" and secret.strip():
                yield secret.strip().decode("latin-1")
        elif name in _KEY_HEADERS and value.strip():
            yield value.strip().decode("latin-1")


def _over(key: Key, meter: Meter, now: float, wait_s: float) -> RateLimitExceeded:
    window = meter.requests
    what = "requests"
    if window is None or not window.opens_in_s(now):
        window, what = meter.tokens, "tokens"
    assert window is not None
    error = RateLimitExceeded(
        f"the API key {key.name} has used {window.used(now)} of {window.limit} {what} per minute; "
        f"there is room again in {math.ceil(wait_s)} s"
    )
    error.retry_after_s = math.ceil(wait_s)
    error.left = meter.headers(now)
    return error
