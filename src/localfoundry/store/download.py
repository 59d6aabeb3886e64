"""Fetch one file over HTTP into a partial that survives cuts, restarts and `kill -9`.

Several connections at once, where size and sum are promised and the server has shown that it answers a request for a
part with that part: the first connection starts alone, the others when its first answer was right. Each takes a run
of chunks, and the next one when that is done. A connection that fails goes on by itself; one that fails too often
leaves its share to the others, and the last one ends the download. Everything else is one stream from start to end.

`answer.py` decides what each answer means before one byte of it is kept. A stall or a cut: connect again and go on.
Tries are bounded: `attempts` in a row without new bytes end it. The partial is left to `journal.py`, the name and
the SHA-256 of the result to the caller. The address that the source redirects to is kept for the next request, since
hubs count how often they are asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from localfoundry.errors import ChecksumMismatch, DiskFull, SourceError, SourceRefused, SourceUnreachable
from localfoundry.sources.network import follow, is_certificate, through_proxy
from localfoundry.sources.plan import PlannedFile
from localfoundry.store import disk
from localfoundry.store.answer import Again, Asked, Delivery, judge
from localfoundry.store.journal import Head, PartFile, Run, chunk_list
from localfoundry.store.progress import Progress, Silent
from localfoundry.units import format_bytes, format_duration

if TYPE_CHECKING:
    import httpx2

_BUFFER_BYTES = 1024 * 1024
_RUN_CHUNKS = 8  # in one request; more would put the order of arrival too far from that of the file, see journal.py
_SHOW_EVERY_S = 0.05
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient a download is, and how greedy. Times in seconds."""

    stall_s: float = 30.0  # without a single byte; a slow but steady connection is left alone
    attempts: int = 6  # in a row without new bytes
    redirects: int = 5
    retry_after_cap_s: float = 60.0
    backoff_s: float = 0.5  # doubled with each try in a row, with jitter
    connections: int = 4  # to one file at a time


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file in the partial: its SHA-256, and the sums of its chunks as kept beside its blob."""

    sha256: str
    chunks: bytes


async def fetch(
    client: httpx2.AsyncClient,
    file: PlannedFile,
    part: Path,
    *,
    progress: Progress | None = None,
    limits: Limits | None = None,
    origin: str | None = None,
) -> Fetched:
    """Download `file` into `part` and say what it is; the caller holds the lock of the partial.

    `origin` names the source in errors, with its commit. Raises SourceUnreachable and DiskFull (the partial is kept
    and the next call goes on), SourceRefused, and ChecksumMismatch (the wrong bytes are removed).
    """
    progress = progress or Silent()
    partial = PartFile(part, Head(file.name, file.size_bytes, None, file.sha256 and file.sha256.lower()))
    await in_thread(partial.__enter__)
    try:
        if partial.head.total is not None:  # otherwise the answer's headers will tell
            progress.start("Downloading", file.name, partial.head.total)
            progress.position(partial.size)
        await _Download(client, file, partial, progress, limits or Limits(), origin or str(file.url)).run()
        digest = await in_thread(partial.finish)
        if partial.head.sha256 is not None and digest != partial.head.sha256:
            partial.remove()
            raise ChecksumMismatch(
                f"{file.name} from {origin or file.url} has the SHA-256 {digest}, but {file.sha256} was promised; "
                "it was not kept",
                hint="try again; if it stays so, the source has changed or is damaged",
            )
        return Fetched(digest, chunk_list(partial.finished, partial.head.chunk_bytes))
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


class _Tries:
    """How often in a row something failed without new bytes."""

    def __init__(self, size: int) -> None:
        self.failures = 0
        self._best = size

    def failed(self, size: int) -> int:
        if size > self._best:
            self.failures, self._best = 0, size
        self.failures += 1
        return self.failures


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
        self.one_stream = False  # the server does not do parts, or does them wrong
        self.wrong_ranges = 0
        self.address: httpx2.URL | None = None  # where the source sent us
        self.parts_work = asyncio.Event()
        self.active = 0  # connections that have not given up
        self.shown_at = 0.0

    # Who fetches what

    async def run(self) -> None:
        """Until all is there. Raises what `fetch` does, except ChecksumMismatch of the whole."""
        tries = _Tries(self.part.size)
        while not self.ended and not self.part.is_whole:
            self.parts_work.clear()
            self.active = 0
            try:
                first = self._connection(first=True)
                await _together([first, *(self._connection() for _ in range(self.limits.connections - 1))])
            except Again as again:  # all that is there is of no use
                failures = tries.failed(self.part.size)
                await in_thread(self.part.restart, self.file.size_bytes, None)
                if failures >= self.limits.attempts:
                    self._give_up(again, failures)
                await self._pause(again, failures)

    async def _connection(self, first: bool = False) -> None:
        """Fetch run after run until nothing is left to take."""
        if not first:
            await self.parts_work.wait()
        self.active += 1
        tries = _Tries(self.part.size)
        try:
            while not self.ended and (run := self._take()) is not None:
                again = await self._try(run)
                if again is None:
                    continue
                failures = self._failed(again, tries)
                if failures >= self.limits.attempts:
                    if self.active > 1:
                        return  # the server wants fewer connections, perhaps
                    self._give_up(again, failures)
                await self._pause(again, failures)
        finally:
            self.active -= 1
        self.parts_work.set()  # also where one stream was enough: nobody waits for what will not come

    async def _try(self, run: Run) -> Again | None:
        """Fetch a run; what went wrong, where trying again may help."""
        try:
            await self._once(run)
        except Again as again:
            return again
        finally:
            self.part.give_back(run)
        return None

    def _take(self) -> Run | None:
        if self.one_stream:
            return self.part.rest()
        return self.part.take(self.limits.connections, _RUN_CHUNKS)

    def _failed(self, again: Again, tries: _Tries) -> int:
        """Count; hand on what concerns all connections. Returns the failures in a row."""
        if again.wrong_range:
            self.wrong_ranges += 1
            if self.wrong_ranges > 1:
                self.one_stream = again.restart = True
        if again.restart:
            raise again
        self.address = None
        return tries.failed(self.part.size)

    def _give_up(self, again: Again, failures: int) -> NoReturn:
        raise SourceUnreachable(
            f"{self.file.name} could not be fetched from {self.origin}: {again.reason}, {failures} times in a row. "
            f"{format_bytes(self.part.size)} of {format_bytes(self.part.head.total)} are kept",
            hint="run the same command again: it goes on from there",
        ) from again

    async def _pause(self, again: Again, failures: int) -> None:
        wait = again.wait_s
        if wait is None:
            wait = min(30.0, self.limits.backoff_s * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        when = f"in {format_duration(wait)}" if wait else "now"
        self.progress.note(f"{again.reason}; trying again {when} (try {failures + 1} of {self.limits.attempts})")
        await asyncio.sleep(wait)

    # One request

    async def _once(self, run: Run) -> None:
        """One request, and what comes of it."""
        import httpx2

        try:
            response, moved = await self._open(run)
            try:
                asked = self._asked(run, moved)
                delivery = judge(asked, response.status_code, response.headers)
                if delivery is None:
                    self.ended = True
                    return
                await self._begin(asked, delivery)
                await self._receive(response, delivery)
            finally:
                await response.aclose()
        except httpx2.TimeoutException as exc:
            raise Again(f"no bytes for {format_duration(self.limits.stall_s)}") from exc
        except httpx2.ProxyError as exc:
            if "407" in str(exc):
                raise SourceRefused(f"the proxy wants other credentials: {exc}", hint="look at HTTPS_PROXY") from exc
            raise Again(f"the proxy failed: {exc}") from exc
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as exc:
            raise SourceError(f"{self.origin} gave an address that cannot be used: {exc}") from exc
        except httpx2.HTTPError as exc:
            if is_certificate(exc):
                raise SourceUnreachable(
                    f"the certificate of {self.origin} is not trusted: {exc}",
                    hint="set SSL_CERT_FILE to the file with your network's certificate authority",
                ) from exc
            raise Again((str(exc) or type(exc).__name__) + through_proxy(exc)) from exc

    async def _open(self, run: Run) -> tuple[httpx2.Response, bool]:
        """Ask the source, follow its redirects; returns the answer and whether it is from elsewhere."""
        if run.start and self.file.sha256 is None and not self._strong_etag():
            raise Again("nothing would show that the file has changed; starting over", 0.0, restart=True)
        response, moved = await follow(
            self.client,
            str(self.file.url),
            at=self.address,
            own=dict(self.file.headers),
            every=self._range(run),
            redirects=self.limits.redirects,
            source=self.origin,
        )
        self.address = response.url if moved else None
        return response, moved

    def _range(self, run: Run) -> dict[str, str]:
        total = self.part.head.total
        if run.start == 0 and run.end in (None, total):
            return {}
        etag = self._strong_etag()
        last = "" if run.end in (None, total) else str(run.end - 1) if run.end else ""
        return {"Range": f"bytes={run.start}-{last}"} | ({"If-Range": etag} if etag else {})

    def _strong_etag(self) -> str | None:
        etag = self.part.head.etag
        return etag if etag and etag.startswith('"') else None

    def _asked(self, run: Run, moved: bool) -> Asked:
        page, resolves, _ = str(self.file.url).partition("/resolve/")
        return Asked(
            name=self.file.name,
            origin=self.origin,
            page=page if resolves else None,
            start=run.start,
            end=run.end,
            total=self.part.head.total,
            promised=self.file.size_bytes,
            etag=self.part.head.etag,
            moved=moved,
            retry_after_cap_s=self.limits.retry_after_cap_s,
        )

    async def _begin(self, asked: Asked, delivery: Delivery) -> None:
        """Make the partial ready for the body. What is there is given up only for an answer that is the right file."""
        if not delivery.is_all:
            self.wrong_ranges = 0
            if delivery.etag and not self.part.head.etag:
                await in_thread(self.part.learn, delivery.etag)
            if not self.one_stream:
                self.parts_work.set()
            return
        if not asked.is_all:
            self.one_stream = True
            if self.parts_work.is_set():  # others are writing; the next request will be the only one
                raise Again(f"{self.origin} delivers from the start; starting over", 0.0, restart=True)
        if self.part.size:
            self.progress.note(f"{self.origin} delivers from the start; starting over")
        self._refuse_full(delivery.total)
        unknown = self.part.head.total is None
        await in_thread(self.part.restart, delivery.total, delivery.etag)
        if unknown:
            self.progress.start("Downloading", self.file.name, delivery.total)
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

    async def _receive(self, response: httpx2.Response, delivery: Delivery) -> None:
        """Keep the body. While a thread writes and hashes one buffer the next one is filled."""
        at, buffer = delivery.start, bytearray()
        writing: asyncio.Task[None] | None = None
        try:
            async for data in response.aiter_raw():
                buffer += data
                if delivery.end is not None and at + len(buffer) > delivery.end:
                    buffer.clear()
                    raise Again(f"{self.origin} sent more bytes than it announced; starting over", restart=True)
                if len(buffer) >= _BUFFER_BYTES:
                    full, buffer = buffer, bytearray()
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(in_thread(self.part.write, at, full))
                    at += len(full)
                self._show()
        finally:
            if writing is not None:
                await _done(writing)
            await in_thread(self.part.write, at, buffer)  # also what came before a cut
        at += len(buffer)
        self._show(now=True)
        if delivery.end is not None and at < delivery.end:
            raise Again(f"the connection ended after {at} of {delivery.end} bytes")
        if self.part.head.total is None:
            self.ended = True

    def _show(self, now: bool = False) -> None:
        moment = time.monotonic()
        if now or moment - self.shown_at > _SHOW_EVERY_S:
            self.shown_at = moment
            self.progress.position(self.part.size)


async def _done(task: asyncio.Task[_T]) -> _T:
    """The result of a task, waited for also by a caller that is cancelled."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure ends the others and is raised when they have ended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    failed = [e for task in tasks if not task.cancelled() and (e := task.exception()) is not None]
    if failed:
        raise failed[0]
