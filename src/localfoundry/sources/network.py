"""The HTTP client for places outside this machine: proxies, certificates and time limits in one spot.

Proxies come from the environment (`HTTPS_PROXY`, `NO_PROXY`). Certificates are checked with the system's own store,
where companies put their private authority, and with `SSL_CERT_FILE` besides. Redirects are never followed by the
client itself: `follow` decides which headers may go where.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from localfoundry import __version__
from localfoundry.errors import InvalidSetting, SourceError
from localfoundry.sources.reach import check_redirect

if TYPE_CHECKING:
    import httpx2


def open_client(
    *, stall_s: float, cert: str | None = None, proxy: str | None = None, limits: httpx2.Limits | None = None
) -> httpx2.AsyncClient:
    """A client that gives up on a connection after `stall_s` without a byte.

    cert: a file of further authorities; proxy: instead of the environment's; limits: of connections, where not the
    library's. Raises InvalidSetting.
    """
    import httpx2

    timeout = httpx2.Timeout(connect=min(stall_s, 30.0), read=stall_s, write=stall_s, pool=None)
    try:
        return httpx2.AsyncClient(
            verify=tls_context(cert),
            proxy=proxy,
            timeout=timeout,
            limits=limits or httpx2.Limits(max_connections=100, max_keepalive_connections=20),
            follow_redirects=False,
            headers={"User-Agent": f"localfoundry/{__version__}", "Accept-Encoding": "identity"},
        )
    except (ValueError, ImportError, httpx2.InvalidURL) as exc:
        raise InvalidSetting(
            f"the proxy that is set cannot be used: {exc}", hint="look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        ) from exc


_REDIRECTS = {301, 302, 303, 307, 308}


async def follow(
    client: httpx2.AsyncClient,
    address: str,
    *,
    own: Mapping[str, str],
    every: Mapping[str, str],
    redirects: int,
    source: str,
    at: httpx2.URL | None = None,
) -> tuple[httpx2.Response, bool]:
    """GET through redirects: the answer, its body not read yet, and whether it is from elsewhere than `address`.

    `own` headers (credentials) go to the origin of `address` only, `every` to each host. `at` is where an earlier
    request ended up; it is asked there first. Raises SourceError, which names `source`, for too many redirects and for
    those that leave HTTPS, or the public internet; what the client raises passes through.
    """
    import httpx2

    home = httpx2.URL(address)
    url = at or home
    for _ in range(redirects + 1):
        sent = {**(own if _origin(url) == _origin(home) else {}), **every}
        response = await client.send(client.build_request("GET", url, headers=sent), stream=True)
        if response.status_code not in _REDIRECTS:
            return response, url != home
        await response.aclose()
        target = url.join(response.headers.get("location", ""))
        if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
            raise SourceError(f"{source} redirects from {url.scheme} to {target.scheme}, which is refused")
        await check_redirect(home, target, source)
        url = target
    raise SourceError(f"{source} redirects more than {redirects} times")


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def tls_context(cert: str | None = None) -> ssl.SSLContext:
    """The system's authorities, those of SSL_CERT_FILE, and those of the file `cert`. Raises InvalidSetting."""
    import truststore

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in {cert, os.environ.get("SSL_CERT_FILE")} - {None, ""}:
        assert path is not None
        try:
            context.load_verify_locations(cafile=path)
        except OSError as exc:  # ssl.SSLError is one
            raise InvalidSetting(
                f"the certificate file {path} cannot be read: {exc}", hint="look at SSL_CERT_FILE"
            ) from exc
    return context


def is_certificate(exc: BaseException | None) -> bool:
    """Whether a request failed because the other side's certificate is not trusted."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def through_proxy(exc: httpx2.HTTPError) -> str:
    """Words that name the proxy where a connection failed and one is set: it may be the proxy that does not answer."""
    import urllib.request

    import httpx2

    if not isinstance(exc, httpx2.ConnectError):
        return ""
    proxies, url = urllib.request.getproxies(), exc.request.url
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(url.host):
        return ""
    return f" (through the proxy {proxy.rstrip('/').rpartition('@')[2].rpartition('/')[2]})"
