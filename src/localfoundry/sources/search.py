"""Search on the hub, for models the catalog does not hold. Nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from localfoundry.sources import hub

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
    timeout_s: float = hub.TIMEOUT_S,
) -> list[HubModel]:
    """Repositories whose name holds `text`, most downloaded or newest first, at most `limit` (1 to 100).

    The hub is HF_ENDPOINT; the token is `token`, HF_TOKEN or the stored one. Raises SourceUnreachable offline or
    where no answer comes, SourceRefused where the answer is no.
    """
    parameters: dict[str, str | Sequence[str]] = {"search": text, "sort": _SORT[sort], "expand": _FIELDS}
    parameters["limit"] = str(max(1, min(limit, 100)))
    if fmt:
        parameters["filter"] = fmt
    headers = hub.authorization(token)
    body = await hub.get("/api/models", parameters, headers=headers, offline=offline, timeout_s=timeout_s)
    return [_model(entry) for entry in hub.decode(body, list[_Entry])[:limit]]


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
