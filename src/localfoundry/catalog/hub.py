"""Search on the model hub, for models the catalog does not hold.

One GET to the hub's own list, asynchronous and bounded in time. Not `HfApi.list_models`: it sets no timeout, repeats
a refused connection for half a minute, and a thread that waits in it cannot be cancelled. The token is the one that
`huggingface_hub` would use. Nothing is downloaded here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from localfoundry.errors import InvalidSetting, SourceRefused, SourceUnreachable

if TYPE_CHECKING:
    import httpx2

DEFAULT_ENDPOINT = "https://huggingface.co"
_FIELDS = ("author", "downloads", "likes", "lastModified", "gated", "pipeline_tag", "tags")
_SORT = {"downloads": "downloads", "date": "lastModified"}


class HubModel(msgspec.Struct, frozen=True):
    """A repository on the hub, as its list tells it. `repo` can be pulled with `hf:<repo>`."""

    repo: str
    publisher: str
    downloads: int | None = None  # of the last 30 days
    likes: int | None = None
    updated_at: str | None = None  # ISO 8601
    gated: bool = False
    task: str | None = None  # the hub's word: text-generation, feature-extraction, ...
    license: str | None = None
    base_models: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()  # of gguf, onnx, safetensors


class _Entry(msgspec.Struct, rename={"last_modified": "lastModified"}):
    id: str
    author: str | None = None
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    gated: bool | str = False
    pipeline_tag: str | None = None
    tags: list[str] = []


async def search_hub(
    text: str,
    *,
    fmt: Literal["gguf", "onnx"] | None = None,
    sort: Literal["downloads", "date"] = "downloads",
    limit: int = 20,
    offline: bool = False,
    token: str | None = None,
    timeout_s: float = 15.0,
) -> list[HubModel]:
    """Repositories whose name holds `text`, most downloaded or newest first, at most `limit` (1 to 100).

    The hub is HF_ENDPOINT; the token is `token`, HF_TOKEN or the stored one. Raises SourceUnreachable offline or
    where no answer comes, SourceRefused where the answer is no.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT
    if offline:
        raise SourceUnreachable(
            f"{endpoint} was not asked: network use is switched off (offline)",
            hint="foundry model list shows what is known without a network",
        )
    parameters: dict[str, str | Sequence[str]] = {"search": text, "sort": _SORT[sort], "expand": _FIELDS}
    parameters["limit"] = str(max(1, min(limit, 100)))
    if fmt:
        parameters["filter"] = fmt
    body = await _get(f"{endpoint}/api/models", parameters, token, timeout_s)
    try:
        entries = msgspec.json.decode(body, type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise SourceRefused(
            f"{endpoint} answered with something that is not a list of models: {exc}", hint="check HF_ENDPOINT"
        ) from exc
    return [_model(entry) for entry in entries[:limit]]


async def _get(url: str, parameters: Mapping[str, str | Sequence[str]], token: str | None, timeout_s: float) -> bytes:
    import httpx2

    headers = {"accept": "application/json", **_authorization(token)}
    try:
        async with _client(url, timeout_s, headers) as client:
            answer = await client.get(url, params=parameters)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
        raise InvalidSetting(
            f"HF_ENDPOINT is not an address: {exc}", hint="for example https://huggingface.co"
        ) from exc
    except httpx2.HTTPError as exc:
        raise SourceUnreachable(
            f"no answer from {url} ({_reason(exc, timeout_s)})",
            hint="check the network and HTTPS_PROXY; foundry model list works without",
        ) from exc
    _check(answer, url)
    return answer.content


def _client(url: str, timeout_s: float, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    import httpx2

    try:
        return httpx2.AsyncClient(timeout=timeout_s, follow_redirects=True, verify=_certificates(url), headers=headers)
    except (ValueError, ImportError) as exc:  # a proxy address of a kind that is not known, or needs another package
        raise InvalidSetting(
            f"the proxy settings cannot be used: {exc}", hint="check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        ) from exc


def _check(answer: httpx2.Response, url: str) -> None:
    if answer.status_code in (401, 403):
        raise SourceRefused(
            f"{url} refused the request: HTTP {answer.status_code}",
            hint="check HF_TOKEN, or log in with: hf auth login",
        )
    if answer.status_code == 429 or answer.status_code >= 500:
        raise SourceUnreachable(f"{url} cannot answer now: HTTP {answer.status_code}", hint="try again later")
    if not answer.is_success:
        raise SourceRefused(f"{url} answered HTTP {answer.status_code}", hint="check HF_ENDPOINT")


def _reason(exc: httpx2.HTTPError, timeout_s: float) -> str:
    import httpx2

    if isinstance(exc, httpx2.TimeoutException):
        return f"none within {timeout_s:g} s"
    return str(exc) or type(exc).__name__


def _authorization(token: str | None) -> Mapping[str, str]:
    if token is None:
        from huggingface_hub import get_token

        token = get_token()
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        # The HTTP library would refuse it too, and print the token while doing so.
        raise InvalidSetting("the hub token holds characters that no token has", hint="check HF_TOKEN")
    return {"authorization": f"Bearer {token}"}


def _certificates(url: str) -> Any:
    if not url.startswith("https:"):
        return True
    import ssl

    import truststore  # the system's certificates: a company's own authority is there and nowhere else

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _model(entry: _Entry) -> HubModel:
    def tagged(prefix: str) -> list[str]:
        return [tag.removeprefix(prefix) for tag in entry.tags if tag.startswith(prefix)]

    # `base_model:org/repo`, and again `base_model:quantized:org/repo`: a repository has one slash, a relation none.
    bases = [base for base in tagged("base_model:") if ":" not in base]
    return HubModel(
        repo=entry.id,
        publisher=entry.author or entry.id.partition("/")[0],
        downloads=entry.downloads,
        likes=entry.likes,
        updated_at=entry.last_modified,
        gated=entry.gated is not False,
        task=entry.pipeline_tag,
        license=next(iter(tagged("license:")), None),
        base_models=tuple(dict.fromkeys(bases)),
        formats=tuple(f for f in ("gguf", "onnx", "safetensors") if f in entry.tags),
    )
