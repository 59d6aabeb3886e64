"""What went wrong with one request, in words that say what to type next, and what it means for the next one.

A failure is a result that is kept, so it is one line of text. What an endpoint writes is quoted, and cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from localfoundry.chat.target import is_this_machine
from localfoundry.sources.network import is_certificate, through_proxy

if TYPE_CHECKING:
    import httpx2

LONGEST_WAIT_S = 60.0
_QUOTED = 1000
_OF_THIS_PROMPT = (400, 413, 422)  # too long for the context, tools that the template has no place for
_OF_EVERY_REQUEST = (401, 403, 404, 405, 407)  # the key, the address, the name of the model


class Failure(Exception):
    """No whole answer came. `words` say why.

    `lasting`: it speaks against the endpoint or the model and not against this prompt. `final`: every further request
    would end in the same way. `wait_s`: the server asks to come back after so long, which is not longer than is waited.
    """

    def __init__(self, words: str, *, lasting: bool = True, final: bool = False, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.words = words
        self.lasting = lasting
        self.final = final
        self.wait_s = wait_s


def of_status(response: httpx2.Response, body: bytes) -> Failure:
    """What an answer other than 200 means; `body` may be its beginning only."""
    status = response.status_code
    if 300 <= status < 400:
        return Failure(f"HTTP {status}: {_redirect(response)}", final=True)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        document = _no_json(response, body)
    wait_s = _wait_s(response.headers) if status in (429, 503) else None
    return Failure(
        f"HTTP {status}: {words(document)}" + _next(response, wait_s),
        lasting=status not in _OF_THIS_PROMPT,
        final=status in _OF_EVERY_REQUEST,
        wait_s=wait_s if wait_s is not None and wait_s <= LONGEST_WAIT_S else None,
    )


def of_transport(exc: httpx2.HTTPError | httpx2.InvalidURL, place: str) -> Failure:
    """What an exception of the HTTP client means; `place` says how far the answer had come."""
    import httpx2

    said = str(exc) or type(exc).__name__
    if isinstance(exc, httpx2.InvalidURL):
        return Failure(f"{place}: {said}", final=True)
    host = exc.request.url.host
    if isinstance(exc, httpx2.ProxyError):
        hint = "; its name and password belong into HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT" if "407" in said else ""
        return Failure(f"{place}: the proxy refused to connect to {host}: {said}{hint}", final="407" in said)
    if is_certificate(exc):
        return Failure(
            f"{place}: the certificate of {host} is not trusted: {said}; SSL_CERT_FILE=FILE names the authority of "
            "your network",
            final=True,
        )
    if isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout):
        by = "" if is_this_machine(host) else through_proxy(exc)
        return Failure(f"{place}: no connection to {host}{by}: {said}")
    if isinstance(exc, httpx2.TimeoutException):
        said = "nothing came for too long"
    return Failure(f"{place}: {said}")


def words(document: object) -> str:
    """The message of OpenAI's error object, text as it is, and the start of anything else."""
    inner = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        return str(inner["message"])[:_QUOTED]
    return str(inner)[:300]


def _no_json(response: httpx2.Response, body: bytes) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0]
    return "a page of HTML" if kind == "text/html" else body.decode("utf-8", "replace").strip()


def _redirect(response: httpx2.Response) -> str:
    """Not followed: the key would go along, to whoever stands at the other end."""
    to = response.request.url.join(response.headers.get("location", "")) if "location" in response.headers else None
    if to is None:
        return "it redirects to nowhere"
    place = urlsplit(str(to))
    shown = f"{place.scheme}://{place.hostname}" + (f":{place.port}" if place.port else "") + place.path[:200]
    known = shown.removesuffix("/chat/completions")
    return f"it redirects to {shown}, which is not followed; if that is right: --endpoint {known}"


def _next(response: httpx2.Response, wait_s: float | None) -> str:
    """What to do about it, where that is known."""
    status = response.status_code
    if status in (401, 403) and "authorization" not in response.request.headers:
        return "; --api-key-env NAME names the variable with a key"
    if status == 407:
        return "; the proxy wants HTTP_PROXY=http://NAME:PASSWORD@HOST:PORT"
    if wait_s is not None and wait_s > LONGEST_WAIT_S:
        return f"; it asks to come back after {wait_s:.0f} s, and {LONGEST_WAIT_S:.0f} s are waited at most"
    return ""


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After, which is seconds or a date; None where it is neither."""
    later = headers.get("retry-after", "").strip()
    if later.isdecimal():
        return float(later[:9])
    try:
        due = parsedate_to_datetime(later)
    except ValueError:
        return None
    due = due if due.tzinfo else due.replace(tzinfo=UTC)
    return max((due - datetime.now(UTC)).total_seconds(), 0.0)
