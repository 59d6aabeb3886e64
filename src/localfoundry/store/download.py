"""Fetch one file over HTTP into a partial that survives cuts, restarts and `kill -9`.

Every answer is checked before one byte of it is kept: status, `Content-Range`, `Content-Length`, `ETag`, encoding.
What each answer leads to:

    200 to the first request       take it from the start
    200 to a request for a rest    start over: never appended
    206 that fits                  go on
    206 that does not fit          refused; the second time, start over without asking for a range
    206 with another ETag          the file changed: start over
    416                            the partial cannot be right: start over
    401, 403, 404 from the source  SourceRefused
    401, 403, 404, 410 elsewhere   the address we were sent to has expired: ask the source again
    408, 429, 5xx                  wait as told (at most `retry_after_cap_s`) or ever longer, and try again
    a stall, a cut                 connect again and go on

Tries are bounded: `attempts` in a row without new bytes end it. The partial is left to `journal.py`, the name and
the SHA-256 of the result to the caller. One connection at a time: several at once would each take a chunk of the
journal, and `_Download._once` is the place that would ask for one.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from localfoundry.errors import ChecksumMismatch, DiskFull, SourceError, SourceRefused, SourceUnreachable
from localfoundry.sources.network import follow
from localfoundry.sources.plan import PlannedFile
from localfoundry.store import disk
from localfoundry.store.journal import Head, PartFile
from localfoundry.store.progress import Progress, Silent
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    import httpx2

_BUFFER_BYTES = 1024 * 1024
_EXPIRED = {400, 401, 403, 404, 410}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient a download is. Times in seconds."""

    stall_s: float = 30.0  # without a single byte; a slow but steady connection is left alone
    attempts: int = 6  # in a row without new bytes
    redirects: int = 5
    retry_after_cap_s: float = 60.0
    backoff_s: float = 0.5  # doubled with each try in a row, with jitter


class _Again(Exception):
    """This try failed and another may not. `wait_s` None: back off; otherwise wait so long."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


async def fetch(
    client: httpx2.AsyncClient,
    file: PlannedFile,
    part: Path,
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
    origin: str | None = None,
) -> str:
    """Download `file` into `part` and return the SHA-256 of the whole; the caller holds the lock of the partial.

    `origin` names the source in errors, with its commit. Raises SourceUnreachable and DiskFull (the partial is kept
    and the next call goes on), SourceRefused, and ChecksumMismatch (the wrong bytes are removed).
    """
    progress = progress or Silent()
    partial = PartFile(part, Head(file.name, file.size_bytes, None, file.sha256))
    await in_thread(partial.__enter__)
    try:
        if partial.head.total is not None:  # otherwise the answer's headers will tell
            progress.start("Downloading", file.name, partial.head.total)
            progress.position(partial.size)
        await _Download(client, file, partial, progress, limits or Limits(), origin or str(file.url)).run()
        digest = await in_thread(partial.finish)
        if file.sha256 is not None and digest != file.sha256.lower():
            partial.remove()
            raise ChecksumMismatch(
                f"{file.name} from {origin or file.url} has the SHA-256 {digest}, but {file.sha256} was promised; "
                "it was not kept",
                hint="try again; if it stays so, the source has changed or is damaged",
            )
        return digest
    finally:
        partial.__exit__(None, None, None)


async def in_thread(call: Callable[..., _T], *args: object) -> _T:
    """Run a blocking call in a thread; cancelled, wait for it to end, so that nobody closes the file under it."""
    task = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class _Download:
    """One file on its way. State is in the partial; what is kept here ends with the process."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        file: PlannedFile,
        part: PartFile,
        progress: Progress,
        limits: Limits,
        origin: str,
    ) -> None:
        self.client = client
        self.file = file
        self.part = part
        self.progress = progress
        self.limits = limits
        self.origin = origin
        self.ended = False  # a body without a length came to its end
        self.wrong_ranges = 0

    def is_whole(self) -> bool:
        return self.ended or (self.part.head.total is not None and self.part.size == self.part.head.total)

    async def run(self) -> None:
        failures, best = 0, self.part.size
        while not self.is_whole():
            try:
                await self._once()
            except _Again as again:
                if self.part.size > best:
                    failures, best = 0, self.part.size
                failures += 1
                if failures >= self.limits.attempts:
                    self._give_up(again, failures)
                await self._pause(again, failures)

    def _give_up(self, again: _Again, failures: int) -> NoReturn:
        raise SourceUnreachable(
            f"{self.file.name} could not be fetched from {self.origin}: {again.reason}, {failures} times in a row. "
            f"{format_bytes(self.part.size)} of {format_bytes(self.part.head.total)} are kept",
            hint="run the same command again: it goes on from there",
        ) from again

    async def _pause(self, again: _Again, failures: int) -> None:
        wait = again.wait_s
        if wait is None:
            wait = min(30.0, self.limits.backoff_s * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        when = f"in {format_duration(wait)}" if wait else "now"
        self.progress.note(f"{again.reason}; trying again {when} (try {failures + 1} of {self.limits.attempts})")
        await asyncio.sleep(wait)

    async def _once(self) -> None:
        """One request, and what comes of it."""
        import httpx2

        try:
            response, moved = await self._open()
            try:
                if self._accepts(response, moved):
                    await self._receive(response)
            finally:
                await response.aclose()
        except httpx2.TimeoutException as exc:
            raise _Again(f"no bytes for {format_duration(self.limits.stall_s)}") from exc
        except httpx2.ProxyError as exc:
            if "407" in str(exc):
                raise SourceRefused(f"the proxy wants other credentials: {exc}", hint="look at HTTPS_PROXY") from exc
            raise _Again(f"the proxy failed: {exc}") from exc
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
            raise SourceError(f"{self.origin} gave an address that cannot be used: {exc}") from exc
        except httpx2.HTTPError as exc:
            if _is_certificate(exc):
                raise SourceUnreachable(
                    f"the certificate of {self.origin} is not trusted: {exc}",
                    hint="set SSL_CERT_FILE to the file with your network's certificate authority",
                ) from exc
            raise _Again(str(exc) or type(exc).__name__) from exc

    async def _open(self) -> tuple[httpx2.Response, bool]:
        """Ask the source, follow its redirects; returns the answer and whether it is from elsewhere."""
        if self.part.size and self.file.sha256 is None and not self._strong_etag():
            await in_thread(self.part.restart, self.file.size_bytes, None)  # nothing would show a changed file
        return await follow(
            self.client,
            str(self.file.url),
            own=dict(self.file.headers),
            every=self._range(),
            redirects=self.limits.redirects,
            source=self.origin,
        )

    def _range(self) -> dict[str, str]:
        if not self.part.size:
            return {}
        etag = self._strong_etag()
        return {"Range": f"bytes={self.part.size}-"} | ({"If-Range": etag} if etag else {})

    def _strong_etag(self) -> str | None:
        etag = self.part.head.etag
        return etag if etag and etag.startswith('"') else None

    def _accepts(self, response: httpx2.Response, moved: bool) -> bool:
        """Check the answer and make the partial ready for its body; False where there is nothing to read."""
        status = response.status_code
        if status == 200:
            self._begin(response)
        elif status == 206:
            self._continue(response)
        elif status == 416:
            return self._beyond(response)
        elif moved and status in _EXPIRED:
            raise _Again(f"the address {self.origin} sent us to has expired (HTTP {status})", 0.0)
        elif status in (408, 429) or status >= 500:
            raise _Again(f"{self.origin} answers HTTP {status}", self._retry_after(response))
        elif status == 407:
            raise SourceRefused(f"the proxy wants credentials for {self.origin}", hint="look at HTTPS_PROXY")
        elif status in (401, 403):
            page = str(self.file.url).partition("/resolve/")[0]
            raise SourceRefused(
                f"{self.origin} refuses to deliver {self.file.name} (HTTP {status})",
                hint=f"accept the terms at {page}, then set HF_TOKEN (or: hf auth login)"
                if "/resolve/" in str(self.file.url)
                else None,
            )
        elif status in (404, 410):
            raise SourceRefused(f"{self.origin} has no {self.file.name} (HTTP {status})")
        else:
            raise SourceError(f"{self.origin} answers HTTP {status}, which makes no sense for a download")
        return True

    def _begin(self, response: httpx2.Response) -> None:
        """The whole file follows. The partial is given up only once the answer is known to be the right file."""
        self._refuse_encoding(response)
        length = response.headers.get("content-length")
        total = int(length) if length is not None else self.file.size_bytes
        self._refuse_size(total)
        if self.part.size:
            self.progress.note(f"{self.origin} delivers from the start; starting over")
        self._refuse_full(total)
        unknown = self.part.head.total is None
        self.part.restart(total, response.headers.get("etag"))
        if unknown:
            self.progress.start("Downloading", self.file.name, total)
        self.progress.position(0)

    def _refuse_full(self, total: int | None) -> None:
        """The size of a wheel is only known now; the pull could not check it."""
        free = disk.free_bytes(self.part.path.parent)
        if total is not None and free is not None and total - self.part.size > free:
            raise DiskFull(
                f"{self.file.name} has {format_bytes(total)}, "
                f"and {format_bytes(free)} are free at {self.part.path.parent}",
                hint="make room (foundry cache clean), or put the models elsewhere: foundry cache cd PATH",
            )

    def _continue(self, response: httpx2.Response) -> None:
        self._refuse_encoding(response)
        given = response.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(given)
        known = self.part.head.total
        if match is None:
            self._refuse_range(f"a range without a readable Content-Range ({given[:80]!r})")
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        length = response.headers.get("content-length")
        fits = first == self.part.size and last >= first and (total is None or last == total - 1)
        if not fits or (length is not None and int(length) != last - first + 1):
            self._refuse_range(f"the range {given} where bytes {self.part.size}- were asked for")
        etag = response.headers.get("etag")
        if (known and total and known != total) or (etag and self.part.head.etag and etag != self.part.head.etag):
            self.part.restart(self.file.size_bytes, None)
            raise _Again(f"the file at {self.origin} has changed; starting over", 0.0)
        self._refuse_size(total)
        self.wrong_ranges = 0

    def _refuse_range(self, what: str) -> NoReturn:
        self.wrong_ranges += 1
        if self.wrong_ranges > 1:
            self.part.restart(self.file.size_bytes, None)
        raise _Again(f"{self.origin} sent {what}")

    def _beyond(self, response: httpx2.Response) -> bool:
        """416: either the file of unknown length is whole, or what is here cannot be the start of it."""
        match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("content-range", ""))
        if match and self.part.head.total is None and int(match[1]) == self.part.size > 0:
            self.ended = True
            return False
        if not self.part.size:
            raise SourceError(f"{self.origin} answers HTTP 416 to a request for the whole of {self.file.name}")
        self.part.restart(self.file.size_bytes, None)
        raise _Again(f"{self.origin} says that the partial cannot be right (HTTP 416); starting over", 0.0)

    def _refuse_encoding(self, response: httpx2.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise SourceError(f"{self.origin} sends {self.file.name} as {encoding}, which was not asked for")

    def _refuse_size(self, total: int | None) -> None:
        if total is not None and self.file.size_bytes is not None and total != self.file.size_bytes:
            raise ChecksumMismatch(
                f"{self.file.name} from {self.origin} has {total} bytes, but {self.file.size_bytes} were promised",
                hint="the source has changed, or a proxy answered in its place",
            )

    def _retry_after(self, response: httpx2.Response) -> float | None:
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        text = response.headers.get("retry-after", "").strip()
        if text.isdecimal():
            wait = float(text)
        else:
            try:
                moment = parsedate_to_datetime(text)
            except ValueError:
                return None
            wait = (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
        return min(max(wait, 0.0), self.limits.retry_after_cap_s)

    async def _receive(self, response: httpx2.Response) -> None:
        buffer = bytearray()
        try:
            async for data in response.aiter_raw():
                buffer += data
                if len(buffer) >= _BUFFER_BYTES:
                    full, buffer = buffer, bytearray()
                    await in_thread(self._keep, full)
                self.progress.position(self.part.size + len(buffer))
        finally:
            await in_thread(self._keep, buffer)  # also what came before a cut
        if self.part.head.total is None:
            self.ended = True
        elif not self.is_whole():
            raise _Again(f"the connection ended after {self.part.size} of {self.part.head.total} bytes")

    def _keep(self, data: bytearray) -> None:
        total = self.part.head.total
        if total is not None and self.part.size + len(data) > total:
            self.part.restart(self.file.size_bytes, None)
            raise _Again(f"{self.origin} sent more bytes than it announced; starting over")
        if data:
            self.part.append(data)


def _is_certificate(exc: BaseException | None) -> bool:
    import ssl

    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
