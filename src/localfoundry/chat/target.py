"""Where models are asked: an address, the key that goes there and nowhere else, and the connections.

What is on this machine is reached without a proxy, which would stand between it and its measurement; everything else as
downloads are, through the proxies of the environment. Certificates are checked with the system's store and
`SSL_CERT_FILE` in both cases.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import httpx2

from localfoundry.errors import InvalidRequest
from localfoundry.sources.network import open_client, tls_context

_SHORTEST_SECRET = 8


class Target:
    """An endpoint. `secret` is sent as bearer token and shown nowhere."""

    def __init__(
        self, base_url: str, *, secret: str = "", headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True, proxied: bool | None = None,
    ) -> None:  # fmt: skip
        """`proxied`: through the environment's proxies; None: where the address is not this machine.

        Raises InvalidRequest for what is no address, or one with a password in it, which would end up in results.
        """
        parts = _checked(base_url)
        self.local = not proxied if proxied is not None else is_this_machine(parts.hostname or "")
        self.secret = secret
        # Most serve under /v1; some only under a path of their own, which is then taken as it is.
        self._root = base_url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._headers = dict(headers or {}) | ({"Authorization": f"Bearer {secret}"} if secret else {})
        self._verify = verify

    def __repr__(self) -> str:
        return f"Target({self._root!r})"

    def open(self, timeout_s: float) -> httpx2.AsyncClient:
        """A client with as many connections as it takes, none given up between requests. Raises InvalidSetting."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
        if self.local:
            client = httpx2.AsyncClient(timeout=None, trust_env=False, verify=self._trust(), limits=limits)
        else:
            client = open_client(stall_s=timeout_s, limits=limits)
        client.base_url = httpx2.URL(self._root + "/")
        client.headers.update(self._headers | {"Accept-Encoding": "identity"})
        return client

    def _trust(self) -> ssl.SSLContext | bool:
        if self._verify is not True:
            return self._verify
        # Reading a store of certificates takes longer than many an answer, and without TLS there is nothing to check.
        return tls_context() if self._root.startswith("https:") else False


def is_this_machine(host: str) -> bool:
    """Whether a name or an address is the loopback's."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without(secret: str, text: str) -> str:
    """What an endpoint sent, with the key taken out of it: an error may quote the one that it refuses.

    A shorter one than 8 characters stays: it is a placeholder such as `none` or `ollama`, and a word of many an answer.
    """
    return text.replace(secret, "[key]") if len(secret) >= _SHORTEST_SECRET else text


def _checked(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, brackets that do not close
        good = False
    if not good:
        raise InvalidRequest(f"{base_url!r} is not an http address", param="endpoint")
    if parts.username or parts.password or parts.query:
        raise InvalidRequest(
            f"the address of {parts.hostname} holds a name, a password or a query; a key is named by --api-key-env",
            param="endpoint",
        )
    return parts
