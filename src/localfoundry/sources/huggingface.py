"""Models on the hub: from a repository to a plan with the commit, sizes and SHA-256 sums pinned.

The addresses it makes hold the commit, so what is fetched is what was planned, whatever happens to the branch
meanwhile. Which files make a model is `choose.py`; talking to the hub is `hub.py`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from localfoundry.config import Settings
from localfoundry.errors import NotRunnable, SourceRefused
from localfoundry.sources import hub
from localfoundry.sources.choose import Choice, checkpoint_files, choose, model_stem, safetensors
from localfoundry.sources.names import as_variant_name, relative_name
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.sources.reference import HubReference, QuantizedReference

if TYPE_CHECKING:
    import httpx2

MAX_CONFIG_BYTES = 2**20
_EMBEDDINGS = {"feature-extraction", "sentence-similarity"}


class _Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Card(msgspec.Struct):
    license: object = None


class _Repository(msgspec.Struct, rename={"card": "cardData"}):
    id: str
    sha: str
    siblings: list[_Sibling] = []
    gated: bool | str = False
    pipeline_tag: str | None = None
    tags: list[str] = []
    card: _Card | None = None


class _Listed(msgspec.Struct):
    id: str
    downloads: int | None = None
    gated: bool | str = False


async def plan(reference: HubReference, settings: Settings, *, to_run: bool = True) -> PullPlan:
    """A plan for a repository, a file or a quantization of it. Raises SourceError, NotRunnable, NotAModel.

    Not `to_run`: also for safetensors, which can be looked at.
    """
    repository, headers = await _look(reference, settings)
    return _planned(repository, _choose(repository, reference, to_run), headers)


async def plan_checkpoint(reference: HubReference, settings: Settings) -> tuple[PullPlan, bytes, tuple[str, ...]]:
    """What a compiler reads of a repository, its `config.json`, and the names of all its files. Raises as `plan` does.

    The configuration is fetched now, since it tells whether anything else is worth fetching; empty: there is none.
    """
    repository, headers = await _look(reference, settings)
    names = tuple(s.rfilename for s in repository.siblings)
    files = checkpoint_files(names)
    made = _planned(repository, Choice(files or names[:1], "", "safetensors"), headers)
    return made, await _config(made), names


async def _config(made: PullPlan) -> bytes:
    from localfoundry.sources.network import open_client
    from localfoundry.sources.remote import STALL_S, RemoteFile

    file = next((file for file in made.files if file.name == "config.json"), None)
    if file is None:
        return b""
    async with open_client(stall_s=STALL_S) as client:
        return await asyncio.to_thread(RemoteFile(client, file, made.source).read_all, MAX_CONFIG_BYTES)


async def _look(reference: HubReference, settings: Settings) -> tuple[_Repository, Mapping[str, str]]:
    headers = hub.authorization()
    revision = f"/revision/{quote(reference.revision, safe='')}" if reference.revision else ""
    body = await _get(f"/api/models/{reference.repo}{revision}", {"blobs": "true"}, headers, settings, reference)
    repository = hub.decode(body, _Repository)
    if repository.gated and not headers:
        raise _gated(repository.id)
    return repository, headers


def _planned(repository: _Repository, chosen: Choice, headers: Mapping[str, str]) -> PullPlan:
    siblings = {s.rfilename: s for s in repository.siblings}
    files = tuple(_file(repository, siblings[path], chosen, headers) for path in chosen.paths)
    repo_name = repository.id.split("/")[-1]
    stem = model_stem(chosen.paths[0]) if chosen.format == "gguf" else f"{repo_name}-{chosen.base}".rstrip("-")
    pinned = f"{chosen.base}/genai_config.json".lstrip("/") if chosen.format == "onnx" else chosen.paths[0]
    return PullPlan(
        name=as_variant_name(stem),
        version=None,
        alias=repo_name.lower(),
        source=f"hf:{repository.id}@{repository.sha}:{pinned}",
        format=chosen.format,
        files=files,
        commit=repository.sha,
        license=_license(repository),
        quantization=chosen.quantization,
        tasks=("embeddings",) if repository.pipeline_tag in _EMBEDDINGS else ("chat",),
        notes=chosen.notes,
    )


def _choose(repository: _Repository, reference: HubReference, to_run: bool) -> Choice:
    names = [s.rfilename for s in repository.siblings]
    try:
        return choose(repository.id, names, reference.path, reference.quantization)
    except NotRunnable:
        found = None if to_run else safetensors(names, reference.path)
        if found is None:
            raise
        return found


async def plan_quantized(reference: QuantizedReference, settings: Settings) -> PullPlan:
    """A plan for a GGUF made from a repository: by its author where there is one, else the most downloaded."""
    query: dict[str, str | Sequence[str]] = {
        "filter": ["gguf", f"base_model:quantized:{reference.repo}"],
        "sort": "downloads",
        "limit": "20",
        "expand": ["downloads", "gated"],
    }
    body = await _get("/api/models", query, hub.authorization(), settings, None)
    listed = [entry for entry in hub.decode(body, list[_Listed]) if not entry.gated]
    if not listed:
        raise SourceRefused(
            f"nobody has published a GGUF of {reference.repo}",
            hint=f"foundry model search {reference.repo.split('/')[-1]}",
        )
    author = reference.repo.split("/")[0].lower()
    own = [entry for entry in listed if entry.id.split("/")[0].lower() == author]
    best = max(own or listed, key=lambda entry: entry.downloads or 0)
    made = await plan(HubReference(best.id), settings)
    by = "by the model's author" if own else "not by the model's author"
    note = f"from {best.id} ({best.downloads if best.downloads is not None else 'unknown'} downloads), {by}"
    alias = reference.repo.split("/")[-1].lower()
    return msgspec.structs.replace(made, alias=alias, notes=(note, *made.notes))


def _file(repository: _Repository, sibling: _Sibling, chosen: Choice, headers: Mapping[str, str]) -> PlannedFile:
    path = relative_name(sibling.rfilename)
    name = PurePosixPath(path).relative_to(chosen.base).as_posix() if chosen.base else path
    size = sibling.lfs.size if sibling.lfs and sibling.lfs.size is not None else sibling.size
    return PlannedFile(
        name=relative_name(name),
        url=f"{hub.endpoint()}/{repository.id}/resolve/{repository.sha}/{quote(path)}",
        size_bytes=size,
        sha256=sibling.lfs.sha256 if sibling.lfs else None,
        headers=tuple(headers.items()),
    )


def _license(repository: _Repository) -> str | None:
    tagged = next((t.removeprefix("license:") for t in repository.tags if t.startswith("license:")), None)
    card = repository.card.license if repository.card else None
    return tagged or (card if isinstance(card, str) else None)


async def _get(
    path: str, query: Mapping[str, str | Sequence[str]], headers: Mapping[str, str], settings: Settings,
    reference: HubReference | None,
) -> bytes:  # fmt: skip
    refusal = functools.partial(_refusal, reference) if reference else None
    return await hub.get(path, query, headers=headers, offline=settings.offline, refusal=refusal)


def _refusal(reference: HubReference, answer: httpx2.Response) -> SourceRefused:
    status, code = answer.status_code, answer.headers.get("x-error-code", "")
    if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
        return _gated(reference.repo)
    if code == "RevisionNotFound":
        return SourceRefused(
            f"{reference.repo} has no revision {reference.revision}", hint=f"{hub.endpoint()}/{reference.repo}"
        )
    if status in (401, 404):
        return SourceRefused(
            f"there is no repository {reference.repo} at {hub.endpoint()}, or it is private",
            hint=f"foundry model search {reference.repo.split('/')[-1]}; for a private one set HF_TOKEN",
        )
    return SourceRefused(f"{hub.endpoint()} answers HTTP {status} for {reference.repo}")


def _gated(repo: str) -> SourceRefused:
    return SourceRefused(
        f"{repo} is gated: its owner wants you to accept the terms first",
        hint=f"accept them at {hub.endpoint()}/{repo}, then set HF_TOKEN to your token (or: hf auth login)",
    )
