"""The header of a model on the hub, read by range requests: what it is, without downloading it.

The readers in `formats` ask for bytes at an offset; here those become requests for whole blocks, kept for the time of
one look. Rules for credentials and redirects are the downloads' own (`network.follow`). What is fetched is counted and
capped: a header that wants more than a header's bytes is refused, and a host that ignores ranges is hung up on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from localfoundry.config import Settings
from localfoundry.errors import NotAModel, SourceError, SourceRefused, SourceUnreachable
from localfoundry.formats.cursor import MAX_HEADER_BYTES
from localfoundry.formats.summary import HeaderSummary
from localfoundry.sources.plan import PlannedFile, PullPlan

if TYPE_CHECKING:
    import httpx2

BLOCK_BYTES = 256 * 1024
AHEAD_BYTES = 2 * 2**20  # most that is fetched in one request beyond what was asked for
MAX_FETCHED_BYTES = MAX_HEADER_BYTES + 4 * 2**20  # of one file
STALL_S = 20.0
REDIRECTS = 5
MAX_FILES = 200  # whose headers are read of one model

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


async def read_remote(plan: PullPlan, settings: Settings) -> tuple[HeaderSummary, int]:
    """The summary of what `plan` would fetch, and how many bytes of files it took.

    Raises NotAModel, SourceUnreachable (offline, no answer), SourceRefused (gated, or a host without ranges).
    """
    if settings.offline:
        raise SourceUnreachable(
            f"{plan.source} was not looked at: network use is switched off (offline)",
            hint="foundry model list --cached shows what is on this disk",
        )
    remote = [file for file in plan.files if file.url is not None and file.member is None]
    if len(remote) != len(plan.files):
        raise SourceRefused(
            f"{plan.source} is inside an archive, whose parts cannot be read from afar",
            hint=f"foundry model download {plan.alias}",
        )
    from localfoundry.sources.network import open_client

    async with open_client(stall_s=STALL_S) as client:
        files = {file.name: RemoteFile(client, file, plan.source) for file in remote}
        summary = await _summary(plan, files)
        return summary, sum(file.fetched_bytes for file in files.values())


async def _summary(plan: PullPlan, files: Mapping[str, RemoteFile]) -> HeaderSummary:
    from localfoundry.formats import gguf, onnx, safetensors, split, summary

    if plan.format == "gguf":
        first = files[min(files)]
        header = await asyncio.to_thread(gguf.read_header, first.read, first.size_bytes)
        if header.parts > 1:
            later = [files[name] for name in sorted(files) if files[name] is not first]
            header = split.joined(
                header, [await asyncio.to_thread(gguf.read_part, f.read, f.size_bytes) for f in later]
            )
        return await asyncio.to_thread(summary.of_gguf, header, first.read)
    texts = {
        name: await asyncio.to_thread(file.read_all, summary.MAX_TEXT_BYTES)
        for name, file in files.items()
        if name in (*summary.CONFIG_FILES, onnx.CONFIG)
    }
    if plan.format == "onnx":
        folder = onnx.read_config(texts.get(onnx.CONFIG, b""), files.__contains__)
        return await asyncio.to_thread(summary.of_onnx, folder, texts)
    if plan.format != "safetensors":
        raise NotAModel(f"{plan.source} is {plan.format}, which has no header")
    tensors = [file for name, file in files.items() if name.endswith(".safetensors")]
    if len(tensors) > MAX_FILES:
        raise NotAModel(f"{plan.source} has {len(tensors)} files; the headers of at most {MAX_FILES} are read")
    headers = [await asyncio.to_thread(safetensors.read_header, f.read, f.size_bytes) for f in tensors]
    return await asyncio.to_thread(summary.of_safetensors, headers, texts)


class RemoteFile:
    """One file on the hub as `formats.cursor.Read`. `read` blocks and is called from a thread beside the loop."""

    def __init__(self, client: httpx2.AsyncClient, file: PlannedFile, source: str) -> None:
        self._client = client
        self._file = file
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._blocks: dict[int, bytes] = {}
        self._etag: str | None = None
        self.size_bytes = file.size_bytes
        self.fetched_bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, or fewer where the file ends."""
        if self.size_bytes is not None:
            size = min(size, self.size_bytes - offset)
        if size <= 0:
            return b""
        first, last = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        missing = [n for n in range(first, last + 1) if n not in self._blocks]
        if missing:
            self._fill(missing[0], missing[-1])
        joined = b"".join(self._blocks.get(n, b"") for n in range(first, last + 1))
        begin = offset - first * BLOCK_BYTES
        return joined[begin : begin + size]

    def read_all(self, limit: int) -> bytes:
        """The whole file. Raises NotAModel where it has more than `limit` bytes."""
        if self.size_bytes is not None and self.size_bytes > limit:
            raise NotAModel(f"{self._file.name} has {self.size_bytes:,} bytes, at most {limit:,} are accepted")
        return self.read(0, limit)

    def _fill(self, first: int, last: int) -> None:
        """Fetch blocks, and as many again as are here already: a long header takes few requests, a short one little."""
        ahead = min(len(self._blocks) * BLOCK_BYTES, AHEAD_BYTES) // BLOCK_BYTES
        begin, end = first * BLOCK_BYTES, (last + 1 + ahead) * BLOCK_BYTES
        if self.size_bytes is not None:
            end = min(end, self.size_bytes)
        if self.fetched_bytes + end - begin > MAX_FETCHED_BYTES:
            raise NotAModel(f"{self._file.name}: its header wants more than {MAX_FETCHED_BYTES:,} bytes")
        data = asyncio.run_coroutine_threadsafe(self._fetch(begin, end), self._loop).result()
        for at in range(0, len(data), BLOCK_BYTES):
            self._blocks[first + at // BLOCK_BYTES] = data[at : at + BLOCK_BYTES]

    async def _fetch(self, begin: int, end: int) -> bytes:
        import httpx2

        try:
            return await self._fetch_once(begin, end)
        except httpx2.TransportError:
            pass  # a pooled connection that the host has closed meanwhile, or a cut: once more
        try:
            return await self._fetch_once(begin, end)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
            raise SourceError(f"{self._source} gave an address that cannot be used: {exc}") from exc
        except httpx2.HTTPError as exc:
            raise SourceUnreachable(
                f"{self._file.name} could not be read from {self._source}: {exc or type(exc).__name__}",
                hint="check the network and HTTPS_PROXY",
            ) from exc

    async def _fetch_once(self, begin: int, end: int) -> bytes:
        from localfoundry.sources.network import follow

        response, moved = await follow(
            self._client,
            str(self._file.url),
            own=dict(self._file.headers),
            every={"Range": f"bytes={begin}-{end - 1}"},
            redirects=REDIRECTS,
            source=self._source,
        )
        try:
            size = self._accepted(response, moved, begin, end)
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                self.fetched_bytes += len(piece)
                if len(body) >= size:
                    break
        finally:
            await response.aclose()
        if len(body) < size:
            raise SourceUnreachable(f"{self._source} sent {len(body)} of {size} bytes of {self._file.name}")
        return bytes(body[:size])

    def _accepted(self, response: httpx2.Response, moved: bool, begin: int, end: int) -> int:
        """How many bytes of the answer are wanted. Raises SourceError where it is not what was asked for."""
        status = response.status_code
        if status not in (200, 206):
            raise self._refusal(status, moved)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise SourceError(f"{self._source} sends {self._file.name} encoded, which was not asked for")
        etag = response.headers.get("etag")
        if self._etag is not None and etag != self._etag:
            raise SourceRefused(f"{self._file.name} of {self._source} changed while it was read", hint="try again")
        self._etag = etag
        if status == 200:
            return self._whole(response, begin, end)
        given = response.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(given)
        if match is None or int(match[1]) != begin or not begin <= int(match[2]) < end:
            raise SourceError(
                f"{self._source} sent the range {given[:80]!r} where bytes {begin}-{end - 1} were asked for"
            )
        if self.size_bytes not in (None, int(match[3])):
            raise SourceError(
                f"{self._file.name} of {self._source} has {match[3]} bytes, {self.size_bytes} were promised"
            )
        self.size_bytes = int(match[3])
        if int(match[2]) != min(end, self.size_bytes) - 1:
            raise SourceError(f"{self._source} sent less of {self._file.name} than was asked for")
        return int(match[2]) - begin + 1

    def _whole(self, response: httpx2.Response, begin: int, end: int) -> int:
        """A host without ranges: its beginning will do, where that is what is wanted."""
        length = response.headers.get("content-length", "")
        if begin != 0 or not length.isdecimal():
            raise SourceRefused(
                f"{self._source} does not deliver parts of files, so its header cannot be read from afar",
                hint=f"foundry model download {self._source}",
            )
        return min(end, int(length))

    def _refusal(self, status: int, moved: bool) -> SourceError:
        name = f"{self._file.name} of {self._source}"
        if status in (408, 429) or status >= 500:
            return SourceUnreachable(f"{self._source} cannot answer now: HTTP {status}", hint="try again later")
        if status in (401, 403) and not moved:
            page = str(self._file.url).partition("/resolve/")[0]
            return SourceRefused(
                f"{name} is refused (HTTP {status})",
                hint=f"accept the terms at {page}, then set HF_TOKEN (or: hf auth login)",
            )
        if status in (404, 410):
            return SourceRefused(f"{name} is not there (HTTP {status})")
        return SourceRefused(f"{name} is refused (HTTP {status})", hint="try again")
