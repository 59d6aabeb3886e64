"""What is measured: a model of the local service, or one behind any OpenAI-compatible endpoint, and how it is reached.

A candidate is a value that goes into results. A target holds what must not: the key, and the connection. Local services
are reached without a proxy, which would stand between them and their measurement; others as every download is, through
the proxies and the certificate store of the system.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

import httpx2
import msgspec

from localfoundry.bench.request import Sample
from localfoundry.errors import InvalidRequest
from localfoundry.sources.network import open_client

_LOCAL = ("localhost", "127.0.0.1", "::1")


class Candidate(msgspec.Struct, frozen=True):
    """One thing to measure: a model with its settings. `label` is what tables call it.

    `max_tokens` and `prompt_words`: None takes the scenario's own. `prompt` replaces the scenario's text behind the
    nonce. `parameters` go into the request body as they are, over everything else there; a null takes a field out.
    `endpoint` is the address where it is no model of the local service; prices are per million tokens.
    `settings` is how it is loaded (`context`, `threads`) where that is not left to the service.
    """

    label: str
    model: str
    max_tokens: int | None = None
    prompt_words: int | None = None
    prompt: str | None = None
    parameters: dict[str, object] = {}
    endpoint: str | None = None
    key_env: str | None = None
    price_in: float | None = None
    price_out: float | None = None
    settings: dict[str, int] = {}

    @property
    def host(self) -> str | None:
        return urlsplit(self.endpoint).hostname if self.endpoint else None

    def cost(self, sample: Sample) -> float | None:
        """What one answer costs; None without prices or without the server's counts.

        Cached tokens are taken at the full price: an over-estimate where they are cheaper.
        """
        if self.price_in is None and self.price_out is None:
            return None
        if sample.prompt_tokens is None or sample.completion_tokens is None:
            return None
        price_in, price_out = self.price_in or 0.0, self.price_out or 0.0
        return (sample.prompt_tokens * price_in + sample.completion_tokens * price_out) / 1_000_000


class Target:
    """Where candidates are asked. `secret` is sent as bearer token and shown nowhere."""

    def __init__(
        self, base_url: str, *, secret: str = "", headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True, proxied: bool | None = None,
    ) -> None:  # fmt: skip
        """`proxied`: through the environment's proxies; None: where the address is not this machine.

        Raises InvalidRequest for what is no address, or one with a password in it, which would end up in results.
        """
        parts = _checked(base_url)
        self.local = not proxied if proxied is not None else parts.hostname in _LOCAL
        self.secret = secret
        # Most serve under /v1; some only under a path of their own, which is then taken as it is.
        self._root = base_url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self._headers = dict(headers or {}) | ({"Authorization": f"Bearer {secret}"} if secret else {})
        self._verify = verify

    def __repr__(self) -> str:
        return f"Target({self._root!r})"

    def open(self, timeout_s: float) -> httpx2.AsyncClient:
        """A client with as many connections as it takes, none given up between requests."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
        if self.local:
            client = httpx2.AsyncClient(timeout=None, trust_env=False, verify=self._verify, limits=limits)
        else:
            client = open_client(stall_s=timeout_s, limits=limits)
        client.base_url = httpx2.URL(self._root + "/")
        client.headers.update(self._headers | {"Accept-Encoding": "identity"})
        return client


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


def check(candidates: Sequence[Candidate]) -> None:
    """Raises InvalidRequest for a list that cannot be measured."""
    labels = [candidate.label for candidate in candidates]
    if not labels:
        raise InvalidRequest("there is nothing to measure: no model was named", param="models")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InvalidRequest(f"two candidates are called {twice!r}; results could not be told apart", param="models")
