"""Which requests are let in before anyone asks who made them: right Host, and no web page that is not meant to.

A page on another site can make a browser send requests to loopback, and with DNS rebinding it can do so under a name of
its own. So the Host header must name this machine, on every bind: one of loopback's names, a name from `allowedHosts`,
or the very address the connection arrived at, which no rebinding can forge. A request that carries an Origin must come
from a page of the service itself or from `allowedOrigins`, whose pages get CORS answers for exactly their origin, never
`*` and never with credentials: a key goes into a header, not into a cookie. An image or a link carries no Origin, but
browsers say in Sec-Fetch-Site that another site made it; that counts because Foundry Local's clients load and unload by
GET, and such a GET is refused to pages of allowed origins and to address bars too.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfoundry.errors import HostNotAllowed

CROSS_ORIGIN = "foundry.cross_origin"
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]{1,5})?", re.ASCII)
_OWN_SITE = (b"same-origin", b"none")  # none: typed into the address bar
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,2000}")


class LocalOnly:
    """ASGI middleware that raises HostNotAllowed for what is not local, and answers the preflights of allowed pages."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = _LOCAL_NAMES | frozenset(hosts)
        self.origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._let_in(scope):
            await _preflight(scope, send)
            return
        await self.app(scope, receive, send)

    def _let_in(self, scope: Scope) -> bool:
        """Whether this is a preflight to be answered here. Raises HostNotAllowed."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts, origins, sites = [], [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name == b"sec-fetch-site":
                sites.append(value)
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope):
            raise HostNotAllowed(
                "the Host header does not name this machine",
                hint="use http://localhost:PORT, or add the name to the setting allowedHosts",
            )
        allowed = len(origins) == 1 and origins[0] in self.origins
        if not allowed and (
            any(_place(origin) != hosts[0].lower() for origin in origins)
            or any(site not in _OWN_SITE for site in sites)
        ):
            raise HostNotAllowed(
                "requests from web pages of other sites are not allowed", hint="setting allowedOrigins"
            )
        scope[CROSS_ORIGIN] = allowed
        return allowed and scope["method"] == "OPTIONS"

    def _is_ours(self, host: bytes, scope: Scope) -> bool:
        match = _HOST.fullmatch(host.decode("latin-1").lower())
        if match is None:
            return False
        name = match[1] or match[2]
        return name in self.hosts or name == _arrived_at(scope)


class Cors:
    """Outermost where origins are allowed: their pages may read every answer, also those that are errors."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self.app = app
        self.origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        extra = [(b"vary", b"Origin")]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(origins) == 1 and origins[0] in self.origins:
            extra += [(b"access-control-allow-origin", origins[0]), (b"access-control-expose-headers", _EXPOSED)]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.app(scope, receive, told)


_EXPOSED = (
    b"x-request-id, retry-after, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)


async def _preflight(scope: Scope, send: Send) -> None:
    """What a page of an allowed origin may send: any header, since the SDKs have their own, and these methods."""
    asked = next((value for name, value in scope["headers"] if name == b"access-control-request-headers"), b"")
    headers = [(b"access-control-allow-methods", b"GET, POST, DELETE"), (b"access-control-max-age", b"600")]
    if asked and _TOKENS.fullmatch(asked):
        headers.append((b"access-control-allow-headers", asked))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def on_purpose(scope: Scope) -> bool:
    """Whether a request that changes something by GET comes from a program, or from a page of the service itself.

    Not from an address bar either: a link in a mail looks the same. Browsers without Sec-Fetch-Site send a Referer.
    """
    named = {name: value for name, value in scope["headers"] if name in (b"referer", b"host", b"sec-fetch-site")}
    if scope[CROSS_ORIGIN] or named.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
        return False
    return b"referer" not in named or _place(named[b"referer"]) == named[b"host"].lower()


def _arrived_at(scope: Scope) -> str | None:
    """The address of this machine that the client connected to."""
    server = scope.get("server")
    return str(server[0]).removeprefix("::ffff:").partition("%")[0] if server else None


def _place(url: bytes) -> bytes | None:
    """Host and port of a page's address."""
    try:
        return urlsplit(url.decode("latin-1")).netloc.lower().encode("latin-1")
    except ValueError:
        return None
