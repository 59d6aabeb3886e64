"""Who may talk to the service: this machine, and no web page that a browser on it happens to show.

A page on another site can make a browser send requests to loopback, and with DNS rebinding it can do so under a name of
its own. So the Host header must name this machine, on every bind, and a request that carries an Origin must come from a
page of the service itself. There is no cross-origin access. An image or a link carries no Origin, but browsers say in
Sec-Fetch-Site that another site made it; that counts because Foundry Local's clients load and unload by GET.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from localfoundry.errors import HostNotAllowed

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_SITE = (b"same-origin", b"none")  # none: typed into the address bar


class LocalOnly:
    """ASGI middleware that raises HostNotAllowed for what is not local."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers: list[tuple[bytes, bytes]] = scope["headers"]
            hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
            if len(hosts) != 1 or _name(f"//{hosts[0]}") not in _LOCAL_NAMES:
                raise HostNotAllowed("the Host header does not name this machine", hint="use http://localhost:PORT")
            for name, value in headers:
                if (name == b"origin" and _place(value.decode("latin-1")) != hosts[0]) or (
                    name == b"sec-fetch-site" and value not in _OWN_SITE
                ):
                    raise HostNotAllowed("requests from web pages of other sites are not allowed")
        await self.app(scope, receive, send)


def _place(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
